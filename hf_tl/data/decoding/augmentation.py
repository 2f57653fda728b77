"""Augmentation of training images with torchvision's v2 transforms: presets, and mixing of pairs."""

from collections.abc import Callable
from typing import Any, get_args

import torch
from PIL import Image
from torchvision.transforms import v2

from hf_tl.data.decoding.scaling import Pipeline
from hf_tl.errors import ConfigError
from hf_tl.strategy import Augmentation


class AugmentedPipeline(v2.Compose):
    """Training transform of a preset."""


def augmented_pipeline(
    augmentation: Augmentation,
    *,
    size: tuple[int, int],
    finishing: Pipeline,
    interpolation: str = "bicubic",
    horizontal_flip: bool = True,
    first: Callable[[Image.Image], Image.Image] | None = None,
) -> AugmentedPipeline:
    """Build the training transform of a preset.

    `light` is the crop and flip of Inception training (Szegedy et al. 2015, https://arxiv.org/abs/1409.4842), with
    crops of at least a quarter of the image. `medium` adds TrivialAugment (Müller and Hutter 2021,
    https://arxiv.org/abs/2103.10158). `strong` crops down to 8% and adds random erasing (Zhong et al. 2020,
    https://arxiv.org/abs/1708.04896).

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
    if augmentation not in get_args(Augmentation) or augmentation == "none":
        raise ConfigError(f"unknown augmentation {augmentation!r}; --augmentation takes {get_args(Augmentation)}")
    smallest_crop = 0.08 if augmentation == "strong" else 0.25
    mode = v2.InterpolationMode(interpolation)
    steps: list[Callable[..., Any]] = [] if first is None else [first]
    steps += [v2.RandomResizedCrop(size, scale=(smallest_crop, 1.0), interpolation=mode)]
    if horizontal_flip:
        steps.append(v2.RandomHorizontalFlip())
    if augmentation in ("medium", "strong"):
        steps.append(v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR))
    steps.append(finishing)
    if augmentation == "strong":
        steps.append(v2.RandomErasing(p=0.25))
    return AugmentedPipeline(steps)


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
