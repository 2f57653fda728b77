"""Input format of a checkpoint, and the transforms built from it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hf_tl.augmentation import PRESETS
from hf_tl.data.decoding.augmentation import AugmentedPipeline, augmented_pipeline, own_pipeline
from hf_tl.data.decoding.images import ImageTransform, Transforms
from hf_tl.data.decoding.own_augmentation import ToInput, own_augmentation
from hf_tl.data.decoding.scaling import Pipeline, PixelScaling, is_close, map_alike, measure_scaling
from hf_tl.errors import ConfigError, ModelError
from hf_tl.phase import ResizeMode
from hf_tl.reporting.shown import Shown
from hf_tl.views.framing import WholeImage

if TYPE_CHECKING:
    from transformers import BaseImageProcessor

PROBE_MARGINS = ((0, 33), (37, 0), (90, 120))
"""Margins (height, width) in pixels by which test images exceed the input size when two transforms are compared."""


@dataclass(frozen=True, repr=False)
class Preprocessing(Shown):
    """Preprocessing of a checkpoint, independent of its library."""

    input_size: tuple[int, int, int]
    """Channels, height and width of the network's input."""
    interpolation: str
    evaluation: Pipeline
    """Evaluation transform of the library: an RGB image to a tensor of shape `input_size`."""
    processor: "BaseImageProcessor | None" = None
    """Image processor of transformers that does the same as `evaluation`. A transformers backbone is saved with it
    (`preprocessor_config.json`); that of a timm backbone reads `config.json`. None for a transform of one's own."""
    unresized: Pipeline | None = None
    """`evaluation` without resizing, cropping and padding, where the library supports that."""
    evaluation_settings: Mapping[str, Any] = field(default_factory=dict)
    """Resizing and cropping settings of `evaluation`, for the record."""
    resize_mode: ResizeMode | None = None
    """Fit of images to the input, if it was set; augmentation then shows the same part of them."""
    training: ImageTransform | None = None
    """User's own training transform, which replaces the augmentation presets."""

    def facts(self) -> Iterator[tuple[str, str]]:
        """Yield the input of the network, the resizing and the image processor."""
        settings = {"interpolation": self.interpolation, **self.evaluation_settings}
        settings |= {} if self.resize_mode is None else {"resize_mode": self.resize_mode}
        yield "Input", " x ".join(map(str, self.input_size)) + " (channels x height x width)"
        yield "Resizing", ", ".join(f"{name} {value}" for name, value in settings.items())
        if (scaling := self.scaling) is not None:
            yield "Scaling", f"mean {_rounded(scaling.mean)}, std {_rounded(scaling.std)}"
        if self.processor is not None:
            yield "Processor", type(self.processor).__name__

    @cached_property
    def scaling(self) -> PixelScaling | None:
        """Mapping of pixel levels to network inputs; None if it is not linear in each channel."""
        return measure_scaling(self.evaluation, self.input_size)

    @property
    def finishing(self) -> Pipeline:
        """Transform of an augmented image of the input size to the values that `evaluation` gives for the same pixels.

        Raises:
            ModelError: No transform of an augmented image gives these values.
        """
        if self.scaling is not None:
            return self.scaling
        if self.unresized is not None and map_alike(self.unresized, self.evaluation, self.input_size):
            return self.unresized
        raise ModelError(
            f"{type(self.processor or self.evaluation).__name__} changes pixels in a way that cannot be applied to "
            "augmented images (it is not a linear map of each channel); train with --augmentation none, or choose "
            "another model"
        )

    def transforms(self, augmentation: str = "none", *, horizontal_flip: bool = True) -> Transforms:
        """Build the transforms for training and evaluation, for `dataset.with_transform`.

        Args:
            augmentation: Augmentation of training images: a preset, a list of transforms, or a function. `"none"`
                always trains on the evaluation transform. A user's own training transform replaces the presets.
            horizontal_flip: Whether images may be flipped horizontally.

        Raises:
            ConfigError: The augmentation cannot be built or does not fit images.
            ModelError: The presets cannot be combined with this preprocessing.
        """
        evaluation = ImageTransform(self.evaluation, channels=self.input_size[0])
        if augmentation == "none":
            return Transforms(evaluation, evaluation, self)
        if augmentation not in PRESETS:
            pipeline = self._own_pipeline(augmentation, horizontal_flip)
        elif self.training is not None:
            return Transforms(self.training, evaluation, self)
        else:
            pipeline = augmented_pipeline(
                augmentation,
                size=self.input_size[1:],
                finishing=self.finishing,
                interpolation=self.interpolation,
                horizontal_flip=horizontal_flip,
                first=self._whole_image(),
            )
        return Transforms(ImageTransform(pipeline, channels=self.input_size[0]), evaluation, self)

    def _own_pipeline(self, augmentation: str, horizontal_flip: bool) -> AugmentedPipeline:
        """Build the training transform of a user's own augmentation, which comes before the preprocessing."""
        own = own_augmentation(augmentation, self.input_size, self.interpolation, horizontal_flip=horizontal_flip)
        finishing, first = (self.finishing, self._whole_image()) if own.gives_input_size else (None, None)
        return own_pipeline(own, ToInput(self.input_size[1:], self.evaluation, finishing), first)

    def _whole_image(self) -> WholeImage | None:
        """Return the first step of augmentation for a resize mode that shows whole images."""
        if self.resize_mode in (None, "crop"):
            return None
        channels = range(self.input_size[0])
        levels = [0.0 for _ in channels]
        if (scaling := self.scaling) is not None:
            levels = [scaling.mean[scaling.order.index(channel)] for channel in channels]
        fill = tuple(round(255 * min(1.0, max(0.0, level))) for level in levels)
        return WholeImage(self.resize_mode, self.input_size[1:], fill)

    def with_user_transforms(self, transforms: Transforms) -> "Preprocessing":
        """Return a copy that trains on a user's `transforms.train`; `transforms.eval` must equal this preprocessing.

        Raises:
            ConfigError: `transforms.eval` gives different pixels, which a published model could not reproduce.
        """
        if not self._evaluates_as(transforms.eval):
            raise ConfigError(
                "expected the model's own evaluation transform, found a `transforms.eval` that gives other pixels: it "
                "is not saved with the model, so nobody could reproduce the results. Pass Transforms(train=..., "
                "eval=...) with the `eval` that load_backbone returned (load_backbone(..., image_size=...) sets the "
                "size)"
            )
        train = transforms.train
        is_own = isinstance(train.pipeline, AugmentedPipeline) or train.pipeline is transforms.eval.pipeline
        return self if is_own else replace(self, training=train)

    def check_training_is_used(self, augmentations: Iterable[str]) -> None:
        """Check that at least one phase uses the user's own training transform, if there is one, and none replaces it.

        Raises:
            ConfigError: All phases have augmentation `"none"`, or one has an augmentation that is not a preset.
        """
        augmentations = list(augmentations)
        others = [augmentation for augmentation in augmentations if augmentation not in PRESETS]
        if self.training is not None and others:
            raise ConfigError(
                f"expected one augmentation, found your `transforms.train` and --augmentation {others[0]}: leave one "
                "of them out"
            )
        if self.training is not None and set(augmentations) == {"none"}:
            raise ConfigError(
                "expected a phase that trains on your `transforms.train`, found augmentation 'none' in all phases, "
                "which train on `transforms.eval`; give the strategy another augmentation (augmentation='light'), "
                "whose preset your transform replaces"
            )

    def _evaluates_as(self, transform: ImageTransform) -> bool:
        own = ImageTransform(self.evaluation, channels=self.input_size[0])
        if transform.pipeline == own.pipeline:
            return transform.channels == own.channels
        if transform.channels != own.channels:
            return False
        random, (_, height, width) = np.random.default_rng(0), self.input_size
        sizes = [(height + more_height, width + more_width, 3) for more_height, more_width in PROBE_MARGINS]
        images = [Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)) for size in sizes]
        return all(is_close(own(image).double().numpy(), transform(image).double().numpy()) for image in images)

    def to_record(self) -> dict[str, Any]:
        """Return the entry for `run.json`; mean and std are for channels scaled to 0..1."""
        scaling = self.scaling
        return {
            "input_size": list(self.input_size),
            "mean": [] if scaling is None else list(scaling.mean),
            "std": [] if scaling is None else list(scaling.std),
            "channel_order": None if scaling is None else scaling.channel_order,
            "interpolation": self.interpolation,
            **({} if self.resize_mode is None else {"resize_mode": self.resize_mode}),
            **self.evaluation_settings,
        }


def _rounded(values: Iterable[float]) -> str:
    return f"({', '.join(f'{value:.3g}' for value in values)})"
