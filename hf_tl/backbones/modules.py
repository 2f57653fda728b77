"""Utilities for modules and their mode."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn

from hf_tl.backbones.stages import Stage


@contextlib.contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Set `model` to inference mode, without gradients, while the context is open."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def outermost_modules(stage: Stage, modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the names of the outermost callable modules of a stage that hold parameters."""
    own = [name for name in stage.module_names if not isinstance(modules[name], nn.ModuleList | nn.ModuleDict)]
    return [name for name in outermost(own) if any(True for _ in modules[name].parameters())]


def outermost(names: Iterable[str]) -> list[str]:
    """Return the names of modules that lie inside no other module of the list.

    >>> outermost(["layer1", "layer1.0", "layer1.0.conv1", "layer10.bn"])
    ['layer1', 'layer10.bn']
    """
    inside = {*(names := list(names))}
    return [name for name in names if not any(parent in inside for parent in _parents(name))]


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
