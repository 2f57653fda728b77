"""Modules of a model: their mode, their `forward`, and the outermost modules of a stage."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from hf_tl.backbones.stages.paths import outermost
from hf_tl.backbones.stages.stage import Stage


@contextlib.contextmanager
def inference(model: nn.Module, *, for_training: bool = False) -> Iterator[None]:
    """Set `model` to inference mode, without gradients, while the context is open.

    Args:
        model: Network.
        for_training: Whether what is computed becomes the input of a trained part, which tensors of
            `torch.inference_mode` cannot be.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad() if for_training else torch.inference_mode():
            yield
    finally:
        model.train(was_training)


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Restore the buffers and the mode of `model`, and torch's random state, when the context closes."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    was_training = model.training
    devices = list({parameter.device for parameter in model.parameters() if parameter.is_cuda})
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        model.train(was_training)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


@contextlib.contextmanager
def replaced_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Replace the `forward` of each module by the function that `forwards` holds for it while the context is open."""
    own = {module: module.__dict__["forward"] for module in forwards if "forward" in module.__dict__}
    for module, forward in forwards.items():
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.__dict__["forward"]
        for module, forward in own.items():
            module.__dict__["forward"] = forward


def outermost_modules(stage: Stage, modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the names of the outermost callable modules of a stage that hold parameters."""
    names = [name for name in stage.module_names if not isinstance(modules[name], nn.ModuleList | nn.ModuleDict)]
    return [name for name in outermost(names) if any(True for _ in modules[name].parameters())]
