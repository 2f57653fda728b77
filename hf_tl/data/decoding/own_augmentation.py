"""Augmentation of a user's own: a list of torchvision transforms or a Python function, before the preprocessing.

It is tried on images before training: what does not fit an image is an error then, and not after hours.
"""

import contextlib
import copy
import functools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from hf_tl.augmentation import (
    FUNCTION,
    MIRRORS,
    NESTED,
    PREPROCESSING,
    PRESETS,
    names_in,
    place_of,
)
from hf_tl.data.decoding.scaling import Pipeline
from hf_tl.data.decoding.transform_names import FAILURES, NO_FIT, Fit, build_transforms, reason
from hf_tl.errors import ConfigError, DataError

MARGINS = ((33, 0), (0, 37), (120, 90))
"""Margins (width, height) in pixels by which the images of a trial exceed the input of the model."""
LARGE = (1600, 1200)
"""Width and height of the image on which a transform is tried again that needs larger ones."""
DRAWS = 4
"""Number of random draws for each image of a trial."""


@dataclass(frozen=True)
class OwnSteps:
    """Transforms of a list in their order."""

    text: str
    """The augmentation as written, which identifies it."""
    fit: Fit
    steps: tuple[tuple[str, Callable[[Any], Any]], ...]
    """Transforms, each with its place for error messages."""

    def __call__(self, image: Any) -> Any:
        """Apply the transforms to an image.

        Raises:
            DataError: A transform cannot be applied to this image.
        """
        result = image
        for place, step in self.steps:
            try:
                result = step(result)
            except FAILURES as error:
                size = f" ({image.width} x {image.height} pixels)" if isinstance(image, Image.Image) else ""
                raise DataError(f"{place} cannot be applied to an image{size}: {reason(error)}") from error
        return result

    def __repr__(self) -> str:
        height, width = self.fit.size
        return f"{self.text} (size {height} x {width}, {self.fit.interpolation})"


@dataclass(frozen=True)
class FunctionStep:
    """Python function of a PIL image, with the random numbers of Python and numpy seeded by those of torch."""

    function: Callable[[Any], Any]

    def __call__(self, image: Image.Image) -> Any:
        """Apply the function."""
        with _seeded(int(torch.randint(2**32, ()))):
            return self.function(image)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed Python's and numpy's random numbers in the context, and restore their states after it."""
    states = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@dataclass(frozen=True)
class ToInput:
    """Step from an augmented image to the input of the model.

    An image that already has the size of the input is only scaled where all images of a trial had it; other images pass
    through the evaluation transform, which resizes and crops.
    """

    size: tuple[int, int]
    """Height and width of the input."""
    evaluation: Pipeline
    finishing: Pipeline | None

    def __repr__(self) -> str:
        return f"{PREPROCESSING} by {self.finishing or self.evaluation!r}"

    def __call__(self, image: Any) -> torch.Tensor:
        """Convert a PIL image, or the uint8 pixels of one, to a tensor of shape (channels, height, width)."""
        image = as_image(image)
        if self.finishing is not None and (image.height, image.width) == self.size:
            return self.finishing(image)
        return self.evaluation(image)


def as_image(image: Any) -> Any:
    """Convert a uint8 tensor (channels, height, width) or array (height, width, channels) to a PIL image."""
    if isinstance(image, torch.Tensor):
        return v2.functional.to_pil_image(image)
    return Image.fromarray(image) if isinstance(image, np.ndarray) else image


@dataclass(frozen=True)
class OwnAugmentation:
    """A user's own augmentation, built and tried for the input of a model."""

    before: OwnSteps
    """Steps before the preprocessing."""
    after: OwnSteps | None
    """Steps after it, on the tensor."""
    gives_input_size: bool
    """Whether the steps before gave images of the size of the input in each draw of the trial."""


def check_augmentation(augmentation: str) -> None:
    """Check names and arguments of an augmentation before a model is loaded.

    Raises:
        ConfigError: A transform or an argument is unknown, or the function of a record is missing.
    """
    _steps(augmentation, NO_FIT)


def own_augmentation(
    augmentation: str, input_size: tuple[int, int, int], interpolation: str, *, horizontal_flip: bool
) -> OwnAugmentation:
    """Build a user's own augmentation, and try it on images.

    Args:
        augmentation: List of transforms, or a function.
        input_size: Channels, height and width of the network's input.
        interpolation: Interpolation of transforms that need a size and have none.
        horizontal_flip: Whether a mirrored image keeps its label.

    Raises:
        ConfigError: It cannot be built, does not fit images, or mirrors images that must not be.
    """
    if not horizontal_flip and MIRRORS in names_in(augmentation):
        raise ConfigError(
            f"expected an augmentation without {MIRRORS}, because mirrored images change their class "
            f"(--horizontal_flip false), found it in {augmentation}: remove it, or set --horizontal_flip"
        )
    # a name may stand for two functions of the same source; the cache holds the function, so its id is not reused
    return _tried(augmentation, id(getattr(augmentation, "function", None)), input_size, interpolation)


def _steps(augmentation: str, fit: Fit) -> tuple[OwnSteps, OwnSteps | None]:
    """Build the steps before and after the preprocessing."""
    if augmentation in PRESETS:
        return OwnSteps(augmentation, fit, ()), None
    if augmentation.startswith(FUNCTION):
        function = getattr(augmentation, "function", None)
        if function is None:
            raise ConfigError(
                f"--augmentation {augmentation} is the name of a Python function, which a record does not contain: "
                "pass the function itself, hf_tl.train(…, augmentation=function)"
            )
        return OwnSteps(augmentation, fit, ((f"the augmentation {augmentation}", FunctionStep(function)),)), None
    parts: list[list[tuple[str, Callable[[Any], Any]]]] = [[]]
    for place, transform in build_transforms(augmentation, fit):
        if transform is None:
            parts.append([])
        else:
            parts[-1].append((place, transform))
    before, after = (OwnSteps(augmentation, fit, tuple(steps)) for steps in parts)
    return before, after if after.steps else None


@functools.lru_cache(maxsize=16)
def _tried(augmentation: str, _: int, input_size: tuple[int, int, int], interpolation: str) -> OwnAugmentation:
    """Build the steps, and try them on images of several sizes."""
    channels, height, width = input_size
    before, after = _steps(augmentation, Fit((height, width), interpolation))
    images = [_probe(width + more_width, height + more_height, channels) for more_width, more_height in MARGINS]
    try:
        results = _results(before, images)
    except ConfigError:
        results = _results(before, [image.resize(LARGE) for image in images])  # a crop may need large images
    for result in results:
        _check_image(before, result, images[0].mode)
    if after is not None:
        pixels = torch.rand(input_size, generator=torch.Generator().manual_seed(0))
        for result in _results(after, [pixels]):
            _check_pixels(after, result, pixels)
    if augmentation.startswith(FUNCTION):
        _check_reproducible(augmentation, results, _results(before, images))
    sizes = {as_image(result).size for result in results}
    return OwnAugmentation(before, after, sizes == {(width, height)})


def _probe(width: int, height: int, channels: int) -> Image.Image:
    """Return an image of random pixels."""
    shape = (height, width) if channels == 1 else (height, width, 3)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def _apply(step: Any, image: Any, place: str) -> Any:
    try:
        return step(image)
    except FAILURES as error:
        advice = f"; transforms of tensors come after {PREPROCESSING}" if isinstance(image, Image.Image) else ""
        raise ConfigError(f"{place} cannot be applied to {_kind(image)}: {reason(error)}{advice}") from error


def _apply_all(step: Any, image: Any, place: str) -> Any:
    """Apply a transform and those nested in it, each with probability 1, and return the output of the transform."""
    nested = image
    for number, child in enumerate(getattr(step, NESTED, ()), 1):
        output = _apply_all(child, nested, f"{place}, {place_of('', number)} ({type(child).__name__})")
        nested = image if isinstance(step, v2.RandomChoice) else output
    certain = copy.copy(step)
    if isinstance(getattr(step, "p", None), float | int):
        certain.p = 1.0
    return _apply(certain, image, place)


def _draw(steps: OwnSteps, image: Any, seed: int, apply: Callable[[Any, Any, str], Any] = _apply) -> Any:
    """Apply steps with a seed, and keep the state of torch's random numbers.

    Raises:
        ConfigError: A step cannot be applied.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return functools.reduce(lambda result, step: apply(step[1], result, step[0]), steps.steps, image)


def _results(steps: OwnSteps, images: Sequence[Any]) -> list[Any]:
    """Return draws of the steps for each image; all nested transforms are applied before."""
    for image in images:
        _draw(steps, image, 0, _apply_all)
    return [_draw(steps, image, seed) for image in images for seed in range(DRAWS)]


def _check_image(steps: OwnSteps, result: Any, mode: str) -> None:
    """Check that steps before the preprocessing give an image of the mode."""
    is_bytes = getattr(result, "dtype", None) in (torch.uint8, np.uint8)
    with contextlib.suppress(*FAILURES):  # pixels of another shape
        if (as_image(result) if is_bytes else result).mode == mode:
            return
    place = steps.steps[-1][0] if steps.steps else "--augmentation"
    raise ConfigError(
        f"{place}: expected a PIL image of mode {mode} or its uint8 pixels before {PREPROCESSING}, found "
        f"{_kind(result)}: change it, or move a transform of tensors after {PREPROCESSING}"
    )


def _check_pixels(steps: OwnSteps, result: Any, pixels: torch.Tensor) -> None:
    """Check that steps after the preprocessing keep shape and type of the model's input."""
    if not isinstance(result, torch.Tensor) or (result.shape, result.dtype) != (pixels.shape, pixels.dtype):
        raise ConfigError(
            f"{steps.steps[-1][0]}: expected {_kind(pixels)} after {PREPROCESSING}, found {_kind(result)}: move the "
            f"transform before {PREPROCESSING}"
        )


def _check_reproducible(augmentation: str, results: Sequence[Any], again: Sequence[Any]) -> None:
    """Check that a function draws its random numbers from generators that are seeded for each image."""
    if all(
        np.array_equal(np.asarray(as_image(first)), np.asarray(as_image(second)))
        for first, second in zip(results, again, strict=True)
    ):
        return
    raise ConfigError(
        f"expected the same image for the same seed, found different ones from {augmentation}: it draws from random "
        "numbers of its own, which a resumed run could not repeat. Draw from torch, numpy.random or random, or seed "
        "the function's generator with int(torch.randint(2**32, ())) in each call"
    )


def _kind(value: Any) -> str:
    """Describe an image or a result for an error."""
    if isinstance(value, Image.Image):
        return f"a PIL image of mode {value.mode}"
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"a {type(value).__name__} of {value.dtype} and shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
