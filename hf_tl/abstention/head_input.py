"""Input of the last layer of a classifier, beside its logits."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hf_tl.backbones.stages.modules import inference


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
                self._layer = last_layer(self.model, pixels[:1])
            features, logits = with_input(self._layer, lambda: _logits(self.model, pixels))
        return features.float(), logits.float()


def with_input(layer: nn.Module, call: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Return the input of a layer in a call, averaged over places or tokens, and the result of the call."""
    with _inputs_of([layer]) as calls:
        result = call()
    return _flat(*calls[-1]), result


def last_layer(model: nn.Module, pixels: Tensor) -> nn.Module:
    """Return the last module with own parameters that a classifier calls for images."""
    owners = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    with _inputs_of(owners) as calls:
        _logits(model, pixels)
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


def _logits(model: nn.Module, pixels: Tensor) -> Tensor:
    return model(pixel_values=pixels.contiguous(memory_format=torch.channels_last)).logits
