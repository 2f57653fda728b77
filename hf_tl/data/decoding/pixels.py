"""Batches of images without augmentation, decoded at full CPU speed for one pass over the data."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import v2

from hf_tl.data.decoding.images import ImageTransform, as_stored
from hf_tl.data.decoding.opening import decode

RESIZE = (transforms.Resize, v2.Resize)


def pixel_batches(
    images: Dataset,
    transform: ImageTransform,
    rows: range,
    batch_size: int,
    device: torch.device,
    reduced: int = 0,
    ahead: int = 0,
) -> Iterator[Tensor]:
    """Decode and transform the images of `rows` in order, in threads (Pillow releases the GIL).

    If the transform ends with a scaling to 0..1 and a normalization, images are transferred as bytes (a quarter of the
    size), and these two steps run on the device, with the same result.

    Args:
        images: Dataset without a format.
        transform: Deterministic transform.
        rows: Rows to read.
        batch_size: Number of images per batch.
        device: Device of the batches.
        reduced: As in `decode`.
        ahead: Number of batches to decode ahead while the caller processes another; useful with a GPU.

    Yields:
        `pixel_values` of shape (images, channels, height, width), channels last in memory.

    Raises:
        DataError: An image cannot be decoded.
    """
    transform, finish = _split_normalization(transform)

    def transformed(value: Any) -> Tensor:
        return transform(decode(value, reduced=reduced))

    def batch(images: Iterator[Tensor]) -> Tensor:
        pixels = torch.stack(list(images)).to(device)
        return finish(pixels.contiguous(memory_format=torch.channels_last))

    stored = as_stored(images, transform.image_column).select_columns([transform.image_column])
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        begun: deque[Iterator[Tensor]] = deque()
        for first in range(rows.start, rows.stop, batch_size):
            chunk = stored[first : min(first + batch_size, rows.stop)][transform.image_column]
            begun.append(pool.map(transformed, chunk))
            if len(begun) > ahead:
                yield batch(begun.popleft())
        while begun:
            yield batch(begun.popleft())


def resized_side(transform: ImageTransform) -> int:
    """Return the size in pixels to which a transform resizes the whole image, or 0 if no step states it.

    >>> resized_side(ImageTransform(transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])))
    256
    """
    steps: Sequence[Any] = getattr(transform.pipeline, "transforms", ())
    for size in (step.size for step in steps if isinstance(step, RESIZE)):
        return max(size) if isinstance(size, Sequence) else int(size)
    processor = getattr(transform.pipeline, "processor", None)  # transformers' image processor
    sides = [side for side in dict(getattr(processor, "size", None) or {}).values() if side]
    return math.ceil(max(sides, default=0) / (getattr(processor, "crop_pct", None) or 1))


def _split_normalization(transform: ImageTransform) -> tuple[ImageTransform, Callable[[Tensor], Tensor]]:
    """Split a transform into one that outputs bytes, and the remaining steps for a batch (possibly none)."""
    steps: Sequence[Any] = getattr(transform.pipeline, "transforms", ())
    if (
        len(steps) < 2
        or not isinstance(steps[-2], transforms.ToTensor)
        or not isinstance(steps[-1], transforms.Normalize)
    ):
        return transform, lambda pixels: pixels
    *geometry, _, normalize = steps
    bytes_only = transforms.Compose([*geometry, transforms.PILToTensor()])
    mean, std = (torch.as_tensor(values).view(-1, 1, 1) for values in (normalize.mean, normalize.std))

    def finish(pixels: Tensor) -> Tensor:
        # same order of operations as ToTensor and Normalize, for the same rounding
        scaled = pixels.float().div_(255)
        return scaled.sub_(mean.to(pixels.device)).div_(std.to(pixels.device))

    return replace(transform, pipeline=bytes_only), finish
