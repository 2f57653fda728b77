"""What a checkpoint expects of its input images, and the transforms made from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_tl.data.augmentation import Pipeline, augmented_pipeline
from hf_tl.data.images import ImageTransform, Transforms
from hf_tl.strategy import Augmentation

if TYPE_CHECKING:
    from transformers import BaseImageProcessor


@dataclass(frozen=True)
class Preprocessing:
    """A checkpoint's own preprocessing, whichever library it comes from."""

    input_size: tuple[int, int, int]
    """Channels, height and width of the network's input."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    evaluation: Pipeline
    """The library's own evaluation transform: an RGB image to a tensor of `input_size`."""
    processor: "BaseImageProcessor | None" = None
    """What a transformers checkpoint is saved with; timm checkpoints keep theirs in `config.json`."""
    evaluation_settings: Mapping[str, Any] = field(default_factory=dict)
    """How `evaluation` resizes and crops, for the record."""

    def transforms(self, augmentation: Augmentation = "none", *, horizontal_flip: bool = True) -> Transforms:
        """Make the transforms for training and evaluation, for `dataset.with_transform`.

        Args:
            augmentation: the preset for training images; `"none"` trains on the evaluation transform.
            horizontal_flip: whether the presets may mirror images.
        """
        training = self.evaluation
        if augmentation != "none":
            training = augmented_pipeline(
                augmentation,
                size=self.input_size[1:],
                mean=self.mean,
                std=self.std,
                interpolation=self.interpolation,
                horizontal_flip=horizontal_flip,
            )
        channels = self.input_size[0]
        return Transforms(
            ImageTransform(training, channels=channels), ImageTransform(self.evaluation, channels=channels)
        )

    def to_record(self) -> dict[str, Any]:
        """Describe the preprocessing as `run.json` holds it."""
        return {
            "input_size": list(self.input_size),
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            **self.evaluation_settings,
        }
