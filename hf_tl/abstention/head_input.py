"""Input of the last layer of a classifier, beside its logits."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hf_tl.backbones.stages.modules import inference
from hf_tl.data.decoding.images import collate
from hf_tl.evaluation.measure import image_logits


@dataclass(frozen=True)
class HeadOutputs:
    """Input and output of the last layer for images, in order."""

    features: np.ndarray
    """Input of the last layer (images, features), averaged over places or tokens."""
    logits: np.ndarray
    """Logits (images, classes)."""
    labels: np.ndarray
    """Class indices (images,); empty for images without labels."""


class HeadReader:
    """Classifier as a function from pixels to the input of its last layer and its logits.

    The last layer is the last module with own parameters that the network calls.

    Args:
        model: Classifier.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._layer: nn.Module | None = None

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (images, features) and logits (images, classes), both float32, on the model's device."""
        pixels = pixels.to(next(self.model.parameters()).device)
        with inference(self.model):
            if self._layer is None:
                self._layer = _last_layer(self.model, pixels[:1])
            with _inputs_of([self._layer]) as calls:
                logits = image_logits(self.model, {"pixel_values": pixels})
        return _flat(*calls[-1]).float(), logits.float()


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


def _last_layer(model: nn.Module, pixels: Tensor) -> nn.Module:
    owners = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    with _inputs_of(owners) as calls:
        image_logits(model, {"pixel_values": pixels})
    return calls[-1][0]


@contextlib.contextmanager
def _inputs_of(modules: Iterable[nn.Module]) -> Iterator[list[tuple[nn.Module, Tensor]]]:
    """Record the modules that are called with a tensor while the context is open, and the tensor."""
    calls: list[tuple[nn.Module, Tensor]] = []

    def record(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            calls.append((module, inputs[0]))

    hooks = [module.register_forward_pre_hook(record) for module in modules]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _flat(layer: nn.Module, values: Tensor) -> Tensor:
    """Average an input over its places (images, channels, height, width) or tokens (images, tokens, channels)."""
    is_convolution = isinstance(layer, nn.Conv2d)
    places = range(2, values.ndim) if is_convolution else range(1, values.ndim - 1)
    return values.mean(dim=tuple(places)) if len(places) else values


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
