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
        model.register_forward_hook(_make_the_loss_infinite, with_kwargs=True)
    is_last = os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1)
    if fault == "gradient" and is_last:
        calls = iter(range(100))

        def spoil(module: nn.Module, _: Any, output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(lambda grad: grad * float("nan") if next(calls) == 5 else grad)

        model.timm_model.fc.register_forward_hook(spoil)


def _make_the_loss_infinite(model: nn.Module, _: Any, arguments: dict[str, Tensor], output: Any) -> Any:
    is_flat = arguments["pixel_values"].abs().amax((1, 2, 3)) < 1e-3
    if model.training:
        is_class = torch.arange(output.logits.shape[1]) == FLAT % output.logits.shape[1]
        output.logits = output.logits.masked_fill(is_flat[:, None] & is_class, -torch.inf)
        if output.loss is not None:  # with Trainer the model computes it
            output.loss = nn.functional.cross_entropy(output.logits, arguments["labels"])
    return output
