"""Precision of a frozen prefix, chosen on the first images."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_tl.config import TrainingConfig
from hf_tl.processes.precision import BFLOAT16, FLOAT32, OF_THE_RUN, has_bfloat16, is_short, measure_precision
from hf_tl.record.parts import PrecisionRecord

if TYPE_CHECKING:
    from accelerate import Accelerator

MAX_NOISE = 0.01
"""Largest difference that bfloat16 may make: the mean squared distance of an image's features in the two precisions,
divided by that between two images. Measured: 0.001 to 0.004 (EfficientNet-Lite0), 0.0001 to 0.0004 (ViT-S/14), with the
same test accuracy of a head within the noise of a paired test (scripts/README.md)."""
MIN_SECONDS = 10.0
"""Smallest duration of the work in float32 for which the precision is measured."""


def choose_precision(
    accelerator: "Accelerator",
    config: TrainingConfig,
    features_of: Callable[[Tensor], Sequence[Tensor]],
    pixel_values: Tensor,
    images: float,
) -> PrecisionRecord:
    """Return the precision of a frozen prefix: that of `--feature_dtype`, or the result of a measurement.

    Args:
        accelerator: Accelerator with the precision of the run.
        config: Settings with `feature_dtype`.
        features_of: Function from images to features, in the precision of the context around its call.
        pixel_values: Some of the images (images, channels, height, width).
        images: Number of images that will pass on this device.
    """
    device = pixel_values.device
    if config.feature_dtype == BFLOAT16:
        return PrecisionRecord(BFLOAT16)
    if accelerator.mixed_precision != "no":
        return PrecisionRecord(OF_THE_RUN)
    if config.feature_dtype == FLOAT32 or not has_bfloat16(device) or len(pixel_values) < 2:
        return PrecisionRecord(FLOAT32)
    if is_short(lambda: features_of(pixel_values), images / len(pixel_values), MIN_SECONDS, device):
        return PrecisionRecord(FLOAT32)

    def agree(exact: Sequence[Tensor], rough: Sequence[Tensor]) -> tuple[float, bool]:
        difference = noise(exact, rough)
        return difference, difference <= MAX_NOISE

    return measure_precision(lambda: features_of(pixel_values), agree, len(pixel_values), device)


def noise(exact: Sequence[Tensor], rough: Sequence[Tensor]) -> float:
    """Return the mean squared distance of an image's features in two precisions, relative to that between two images.

    Args:
        exact: For each leaf the features (images, ...) in float32.
        rough: The same in the other precision; they are stored in bfloat16.

    Returns:
        The largest value of all leaves; infinity if a feature is not finite.

    >>> exact = torch.tensor([[0.0], [2.0]])
    >>> noise([exact], [exact + 0.5])
    0.0625
    """
    return max(map(_noise, exact, rough), default=0.0)


def _noise(exact: Tensor, rough: Tensor) -> float:
    a = exact.flatten(1).double()
    b = (rough.to(torch.bfloat16) if rough.is_floating_point() else rough).flatten(1).double()
    if not (a.isfinite().all() and b.isfinite().all()):
        return float("inf")
    distance, between = (a - b).square().sum(1).mean(), 2 * a.var(0).sum()
    return float(distance / between) if between > 0 else float("inf") if distance > 0 else 0.0


def describe_precision(record: PrecisionRecord) -> str | None:
    """Describe a measured choice in one line for the log; None if nothing was measured."""
    if not record.images_per_second:
        return None
    rates = record.images_per_second
    chosen, other = (BFLOAT16, FLOAT32) if record.precision == BFLOAT16 else (FLOAT32, BFLOAT16)
    return f"{chosen} ({rates[chosen]:,.0f} images/s; {other}: {rates[other]:,.0f})"
