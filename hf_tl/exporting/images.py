"""Images for the verification, calibration and evaluation of an export."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from hf_tl.data.decoding.pixels import pixel_batches

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_tl.data.decoding.images import ImageTransform

BATCH = 16


def evenly(images: "Dataset", count: int) -> "Dataset":
    """Select up to `count` images, evenly spaced over the split and so over its classes if it is sorted by class."""
    return images.select(evenly_spaced(len(images), count))


def evenly_spaced(images: int, count: int) -> np.ndarray:
    """Return the rows of up to `count` of so many images, evenly spaced.

    >>> evenly_spaced(10, 4)
    array([0, 3, 6, 9])
    """
    return np.unique(np.linspace(0, images - 1, min(count, images)).round().astype(int))


def pixels_of(images: "Dataset", transform: "ImageTransform") -> Iterator[np.ndarray]:
    """Yield the network inputs of the images, in batches of shape (images, channels, height, width)."""
    for batch in pixel_batches(images, transform, range(len(images)), BATCH, torch.device("cpu")):
        yield batch.contiguous().numpy()


def cut(pixels: np.ndarray, sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """Cut images into batches of the given sizes; the last size repeats for all further batches.

    >>> [len(batch) for batch in cut(np.zeros(10), [1, 3, 4])]
    [1, 3, 4, 2]
    """
    start = 0
    while start < len(pixels):
        size, sizes = sizes[0], sizes[1:] or sizes
        yield pixels[start : start + size]
        start += size
