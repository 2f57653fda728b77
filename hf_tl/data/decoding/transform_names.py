"""Transforms of a list, built by their names in `torchvision.transforms.v2`.

Names are looked up in that module alone; nothing is imported by a name that a file holds.
"""

import enum
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

import torch
from PIL import Image
from torchvision.transforms import v2

from hf_tl.augmentation import NESTED, PREPROCESSING, Step, place_of, steps_of
from hf_tl.errors import ConfigError, nearest

FLAGS_INSTEAD = {"MixUp": "--mixup", "CutMix": "--cutmix"}
"""Transforms of whole batches with labels, and the settings that do the same."""
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Exceptions of transforms about their arguments and images."""


@dataclass(frozen=True)
class Fit:
    """Size and interpolation of transforms that need a `size` and have none."""

    size: tuple[int, int]
    """Height and width of the model's input in pixels."""
    interpolation: str = "bicubic"


NO_FIT = Fit((224, 224))
"""Values for a check before the model is known."""


@functools.cache
def known_transforms() -> Mapping[str, type[v2.Transform]]:
    """Return the transforms of `torchvision.transforms.v2` that change images, by name."""
    classes = {name: kind for name, kind in vars(v2).items() if inspect.isclass(kind) and not name.startswith("_")}
    return {
        name: kind
        for name, kind in classes.items()
        if issubclass(kind, v2.Transform) and kind is not v2.Transform and _takes_images(kind)
    }


def _takes_images(kind: type[v2.Transform]) -> bool:
    """Return whether a transform changes images, and not only bounding boxes or videos."""
    kinds = kind._transformed_types
    return any(not isinstance(each, type) or issubclass(Image.Image, each) or each is torch.Tensor for each in kinds)


def build_transforms(augmentation: str, fit: Fit) -> Iterator[tuple[str, v2.Transform | None]]:
    """Build the transforms of a list; each comes with its place for error messages, None stands for preprocessing.

    Raises:
        ConfigError: A name or an argument is unknown, or torchvision rejects an argument.
    """
    for number, step in enumerate(steps_of(augmentation), 1):
        place = f"--augmentation: {place_of('', number)}"
        yield f"{place} ({step.name})", None if step.name == PREPROCESSING else build_transform(step, fit, place)


def build_transform(step: Step, fit: Fit, place: str) -> v2.Transform:
    """Build a transform; `place` begins its error messages.

    Raises:
        ConfigError: As in `build_transforms`.
    """
    if step.name in FLAGS_INSTEAD:
        raise ConfigError(
            f"{place}: {step.name} mixes images with their labels, which a transform of one image cannot: remove it, "
            f"and set {FLAGS_INSTEAD[step.name]}"
        )
    kind = known_transforms().get(step.name)
    if kind is None:
        hint = nearest(step.name, known_transforms()) or "; its documentation lists them"
        raise ConfigError(f"{place}: torchvision.transforms.v2 has no transform of images {step.name}{hint}")
    place = f"{place} ({step.name})"
    parameters = inspect.signature(kind).parameters
    names = [name for name, parameter in parameters.items() if parameter.kind is not inspect.Parameter.VAR_POSITIONAL]
    for name in step.arguments:
        if name not in names:
            hint = nearest(name, names) or f"; it takes {', '.join(names) or 'none'}"
            raise ConfigError(f"{place} has no argument {name}{hint}")
    hints = get_type_hints(kind.__init__)
    arguments = {
        **_fitted(step, parameters, fit),
        **{name: _argument(hints.get(name), name, value, fit, place) for name, value in step.arguments.items()},
    }
    required = [name for name in names if parameters[name].default is inspect.Parameter.empty]
    if functions := [name for name in required if get_origin(hints.get(name)) is Callable]:
        raise ConfigError(
            f"{place} takes a Python function ({functions[0]}), which a list cannot hold: pass a function as "
            "augmentation in Python"
        )
    if missing := [name for name in required if name not in arguments]:
        raise ConfigError(f"{place} needs {missing[0]}: write {step.name}: {{{missing[0]}: …}}")
    try:
        return kind(**arguments)
    except FAILURES as error:
        raise ConfigError(f"{place}: {reason(error)}; it takes {', '.join(names) or 'no arguments'}") from error


def _fitted(step: Step, parameters: Mapping[str, inspect.Parameter], fit: Fit) -> dict[str, Any]:
    """Return the model's size and interpolation for a transform that needs a size and has none."""
    size = parameters.get("size")
    if size is None or size.default is not inspect.Parameter.empty or "size" in step.arguments:
        return {}
    mode = {"interpolation": v2.InterpolationMode(fit.interpolation)} if "interpolation" in parameters else {}
    return {"size": fit.size, **mode}


def _argument(hint: Any, name: str, value: Any, fit: Fit, place: str) -> Any:
    """Convert a plain value to the type of an argument: nested transforms, members of enumerations, dtypes, numbers."""
    if name == NESTED:
        return [build_transform(step, fit, f"{place}, {place_of('', number)}") for number, step in enumerate(value, 1)]
    if isinstance(value, list):
        return tuple(tuple(each) if isinstance(each, list) else each for each in value)
    if not isinstance(value, str):
        return value
    kinds = get_args(hint) or (hint,)
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            try:
                return kind(value)
            except ValueError as error:
                names = ", ".join(str(member.value) for member in kind)
                raise ConfigError(f"{place}: {name} takes one of {names}, found {value}") from error
        if kind is torch.dtype and isinstance(getattr(torch, value, None), torch.dtype):
            return getattr(torch, value)
    if str not in kinds and float in kinds:
        try:
            return float(value)  # YAML reads 1e-3 as text
        except ValueError:
            return value
    return value


def reason(error: BaseException) -> str:
    """Return the message of an exception in one line."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
