"""Faults of a model in training: a loss or a gradient that is not finite."""

import os
from typing import Any

import torch
from torch import Tensor, nn

FLAT = 5
"""Row of the image of one color, whose loss is not finite with the faults `image` and `loss`."""


def inject_fault(model: nn.Module, fault: str) -> None:
    """Add hooks for the fault `loss` or `gradient` of a `Run`; the latter in the last process alone."""
    if fault == "loss":
        _make_the_loss_infinite(model)
    is_last = os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1)
    if fault == "gradient" and is_last:
        calls = iter(range(100))

        def spoil(module: nn.Module, _: Any, output: Tensor) -> None:
            if output.requires_grad and module.training:
                output.register_hook(lambda grad: grad * float("nan") if next(calls) == 5 else grad)

        model.timm_model.fc.register_forward_hook(spoil)


def _make_the_loss_infinite(model: nn.Module) -> None:
    """Give the class of flat images the logit minus infinity in training; frozen stages may run before the rest."""
    flat: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple[Tensor]) -> None:
        is_flat = inputs[0].abs().amax((1, 2, 3)) < 1e-3
        if not is_flat.all():  # a placeholder of the images, when the rest runs apart from the frozen stages, is zero
            flat[:] = [is_flat]

    def spoil(module: nn.Module, _: Any, logits: Tensor) -> Tensor:
        if not module.training or not flat or len(flat[0]) != len(logits):
            return logits
        is_class = torch.arange(logits.shape[1]) == FLAT % logits.shape[1]
        return logits.masked_fill(flat[0][:, None] & is_class, -torch.inf)

    model.timm_model.conv1.register_forward_pre_hook(look)
    model.timm_model.fc.register_forward_hook(spoil)
