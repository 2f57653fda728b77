"""Modules of a model: their mode, their calls, and the outermost modules of a stage."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hf_tl.backbones.stages.paths import outermost
from hf_tl.backbones.stages.stage import Stage


@contextlib.contextmanager
def inference(model: nn.Module, *, for_training: bool = False) -> Iterator[None]:
    """Set `model` to inference mode, without gradients, while the context is open.

    A sharded model runs without `torch.inference_mode`, because it trains in the memory into which it gathered its
    weights first.

    Args:
        model: Network.
        for_training: Whether what is computed becomes the input of a trained part, which tensors of
            `torch.inference_mode` cannot be.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad() if for_training or is_sharded(model) else torch.inference_mode():
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


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network within the wrappers of `torch.compile` and DistributedDataParallel."""
    model = getattr(model, "_orig_mod", model)
    return model.module if isinstance(model, DistributedDataParallel) else model


def replaced_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> contextlib.AbstractContextManager[None]:
    """Replace the `forward` of each module by the function that `forwards` holds for it while the context is open."""
    return _replaced("forward", forwards)


def replaced_calls(calls: Mapping[nn.Module, Callable[..., Any]]) -> contextlib.AbstractContextManager[None]:
    """Replace the call of each module, hooks included, by the function that `calls` holds for it, as above.

    `nn.Module.compile` replaces calls in the same way. Code that `torch.compile` traces calls `forward` all the same.
    """
    return _replaced("_compiled_call_impl", calls)


@contextlib.contextmanager
def _replaced(attribute: str, functions: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    own = {module: module.__dict__[attribute] for module in functions if attribute in module.__dict__}
    for module, function in functions.items():
        module.__dict__[attribute] = function
    try:
        yield
    finally:
        for module in functions:
            del module.__dict__[attribute]
        for module, function in own.items():
            module.__dict__[attribute] = function


def outermost_modules(stage: Stage, modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the names of the outermost callable modules of a stage that hold parameters."""
    names = [name for name in stage.module_names if not isinstance(modules[name], nn.ModuleList | nn.ModuleDict)]
    return [name for name in outermost(names) if any(True for _ in modules[name].parameters())]


def is_sharded(model: nn.Module) -> bool:
    """Return whether each process keeps a part of the model's parameters, as DTensors."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())
