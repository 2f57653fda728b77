"""The stages of a backbone, in forward order."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Stage:
    """One step of a backbone at the field's own granularity; the head is the last."""

    name: str
    parameter_names: tuple[str, ...]
    buffer_names: tuple[str, ...]
    module_names: tuple[str, ...]
    """Modules that lie wholly in this stage (those without parameters too), as in `model.named_modules()`."""


def list_stages(model: "nn.Module") -> tuple[Stage, ...]:
    """List the stages of `model` in forward order, the head last."""
    raise NotImplementedError
