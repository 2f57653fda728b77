"""Features and logits of many images, also of scrambled ones."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hf_tl.abstention.head_input import HeadReader
from hf_tl.data.decoding.images import collate


@dataclass(frozen=True)
class HeadOutputs:
    """Input and output of the last layer for images, in order."""

    features: np.ndarray
    """Input of the last layer (images, features), averaged over places or tokens."""
    logits: np.ndarray
    """Logits (images, classes)."""
    labels: np.ndarray
    """Class indices (images,); empty for images without labels."""


def read_heads(
    model: nn.Module,
    images: Any,
    batch_size: int,
    *,
    change: Callable[[Tensor], Tensor] | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> HeadOutputs:
    """Compute the input of the last layer and the logits of images, in one pass.

    Args:
        model: Classifier.
        images: Rows of `pixel_values` and `labels`.
        batch_size: Number of images per step.
        change: Function of the pixels of a batch (default: none).
        progress: Function that reports the batches as they are taken.
    """
    read, parts = HeadReader(model), []
    for batch in progress(DataLoader(images, batch_size=batch_size, collate_fn=collate)):
        pixels = batch["pixel_values"] if change is None else change(batch["pixel_values"])
        parts.append((*(tensor.cpu().numpy() for tensor in read(pixels)), batch["labels"].numpy()))
    return HeadOutputs(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def scrambled(pixels: Tensor) -> Tensor:
    """Return images (images, channels, height, width) with random phases of their Fourier components.

    They keep the mean color, contrast and texture of the images, and hold no objects: stand-ins for images of no class.
    Oppenheim and Lim 1981, "The importance of phase in signals", https://doi.org/10.1109/PROC.1981.12022.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(pixels.shape[0], 1, *pixels.shape[2:], generator=generator)
    turns = torch.fft.rfft2(noise)
    turns /= turns.abs().clamp_min(1e-12)
    turns[..., 0, 0] = 1  # the mean
    turned = torch.fft.rfft2(pixels.float()) * turns
    return torch.fft.irfft2(turned, s=pixels.shape[2:])
