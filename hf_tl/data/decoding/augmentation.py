"""Augmentation of training images with torchvision's v2 transforms, and mixing of pairs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import v2

from hf_tl.augmentation import NONE, PRESETS, without_mirroring
from hf_tl.data.decoding.own_augmentation import OwnAugmentation, ToInput
from hf_tl.data.decoding.scaling import Pipeline
from hf_tl.data.decoding.transform_names import Fit, build_transforms
from hf_tl.errors import ConfigError


class AugmentedPipeline(v2.Compose):
    """Training transform of an augmentation."""


@dataclass(frozen=True)
class Missing:
    """Step of a training transform that a record names and that cannot be rebuilt."""

    error: ConfigError

    def __call__(self, image: Any) -> Any:
        """Raise the reason.

        Raises:
            ConfigError: Always.
        """
        raise self.error

    def __repr__(self) -> str:
        return f"not available ({self.error})"


def augmented_pipeline(
    augmentation: str,
    *,
    size: tuple[int, int],
    finishing: Pipeline,
    interpolation: str = "bicubic",
    horizontal_flip: bool = True,
    first: Callable[[Image.Image], Image.Image] | None = None,
) -> AugmentedPipeline:
    """Build the training transform of a preset (`hf_tl.augmentation.PRESETS`).

    Args:
        augmentation: Preset other than `"none"`, which is the checkpoint's evaluation transform.
        size: Height and width of the result in pixels.
        finishing: Transform of the augmented image to network inputs, with the same mapping as in evaluation.
        interpolation: One of torchvision's `InterpolationMode` values.
        horizontal_flip: Whether a flipped image keeps its label (a flipped digit does not).
        first: Step before the random crop.

    Returns:
        Transform of an image to a tensor of shape (channels, height, width).

    Raises:
        ConfigError: There is no such preset.
    """
    if augmentation not in PRESETS or augmentation == NONE:
        raise ConfigError(f"unknown augmentation {augmentation!r}; --augmentation takes {tuple(PRESETS)}")
    text = augmentation if horizontal_flip else without_mirroring(augmentation)
    steps: list[Callable[..., Any]] = [
        finishing if transform is None else transform
        for _, transform in build_transforms(text, Fit(size, interpolation))
    ]
    return AugmentedPipeline(steps if first is None else [first, *steps])


def own_pipeline(
    own: OwnAugmentation, to_input: ToInput, first: Callable[[Image.Image], Image.Image] | None = None
) -> AugmentedPipeline:
    """Build the training transform of a user's own augmentation.

    Args:
        own: Augmentation, built and tried.
        to_input: Step from the augmented image to network inputs.
        first: Step before the augmentation.
    """
    steps = [first, own.before, to_input, own.after]
    return AugmentedPipeline([step for step in steps if step is not None])


class PairMixer:
    """Mixer of two images and their labels, by mixup or CutMix.

    The papers mix a whole batch with one draw. Pairs are mixed here so that the result does not depend on how a batch
    is divided among processes.
    """

    def __init__(self, mixup: float, cutmix: float, classes: int) -> None:
        """Prepare the methods; if both are enabled, each pair uses one of them at random.

        Args:
            mixup: Alpha of mixup (Zhang et al. 2018, https://arxiv.org/abs/1710.09412); 0 disables it.
            cutmix: Alpha of CutMix (Yun et al. 2019, https://arxiv.org/abs/1905.04899); 0 disables it.
            classes: Number of classes.
        """
        methods: list[torch.nn.Module] = []
        if mixup > 0:
            methods.append(v2.MixUp(alpha=mixup, num_classes=classes))
        if cutmix > 0:
            methods.append(v2.CutMix(alpha=cutmix, num_classes=classes))
        self.method = v2.RandomChoice(methods)

    def __call__(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix images (2, channels, height, width) and return them with class probabilities (2, classes).

        Labels are class indices (2,), or zeros and ones (2, classes), which are mixed in the same proportions.
        """
        return self.method(pixel_values, labels)
