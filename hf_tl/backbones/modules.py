"""Utilities for modules and their mode."""

import contextlib
from collections.abc import Iterator, Mapping

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
    inside = set(own)
    return [
        name
        for name in own
        if not any(parent in inside for parent in _parents(name)) and any(True for _ in modules[name].parameters())
    ]


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
