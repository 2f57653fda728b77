"""Augmentation of training images, from torchvision's v2 transforms: presets for one image, mixing of pairs."""

from typing import get_args

import torch
from torchvision.transforms import v2

from hf_tl.data.scaling import Pipeline
from hf_tl.errors import ConfigError
from hf_tl.strategy import Augmentation


class AugmentedPipeline(v2.Compose):
    """The training transform of a preset."""


def augmented_pipeline(
    augmentation: Augmentation,
    *,
    size: tuple[int, int],
    finishing: Pipeline,
    interpolation: str = "bicubic",
    horizontal_flip: bool = True,
) -> AugmentedPipeline:
    """Build the training transform of a preset.

    `light` is the crop and flip of Inception training (Szegedy et al. 2015, https://arxiv.org/abs/1409.4842), with
    crops of at least a quarter of the image; `medium` adds TrivialAugment (Müller and Hutter 2021,
    https://arxiv.org/abs/2103.10158); `strong` crops down to 8% and adds random erasing (Zhong et al. 2020,
    https://arxiv.org/abs/1708.04896).

    Args:
        augmentation: the preset; not `"none"`, which is the checkpoint's evaluation transform.
        size: height and width of the result in pixels.
        finishing: from the augmented image to numbers, as evaluation makes them of an image's pixels.
        interpolation: one of torchvision's `InterpolationMode` values.
        horizontal_flip: whether a mirrored image keeps its label (a mirrored digit does not).

    Returns:
        A callable from an image to a tensor of shape (channels, height, width).

    Raises:
        ConfigError: there is no such preset.
    """
    if augmentation not in get_args(Augmentation) or augmentation == "none":
        raise ConfigError(f"unknown augmentation {augmentation!r}; --augmentation takes {get_args(Augmentation)}")
    smallest_crop = 0.08 if augmentation == "strong" else 0.25
    mode = v2.InterpolationMode(interpolation)
    steps: list[Pipeline] = [v2.RandomResizedCrop(size, scale=(smallest_crop, 1.0), interpolation=mode)]
    if horizontal_flip:
        steps.append(v2.RandomHorizontalFlip())
    if augmentation in ("medium", "strong"):
        steps.append(v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR))
    steps.append(finishing)
    if augmentation == "strong":
        steps.append(v2.RandomErasing(p=0.25))
    return AugmentedPipeline(steps)


class PairMixer:
    """Mix two images and their labels by mixup or CutMix.

    Pairs, where these methods' papers mix a whole batch with one draw: a pair is mixed alike however a batch is divided
    among processes.
    """

    def __init__(self, mixup: float, cutmix: float, classes: int) -> None:
        """Prepare the methods; each pair draws one of them where both are asked for.

        Args:
            mixup: alpha of mixup (Zhang et al. 2018, https://arxiv.org/abs/1710.09412); 0 is none.
            cutmix: alpha of CutMix (Yun et al. 2019, https://arxiv.org/abs/1905.04899); 0 is none.
            classes: number of classes.
        """
        methods: list[torch.nn.Module] = []
        if mixup > 0:
            methods.append(v2.MixUp(alpha=mixup, num_classes=classes))
        if cutmix > 0:
            methods.append(v2.CutMix(alpha=cutmix, num_classes=classes))
        self.method = v2.RandomChoice(methods)

    def __call__(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix the images (2, channels, height, width) and return them with probabilities (2, classes).

        Labels are class indices (2,), or zeros and ones (2, classes), which are mixed in the same parts.
        """
        return self.method(pixel_values, labels)
