"""Calls of modules in a forward pass: their outputs, and how to answer them in place of the modules."""

import contextlib
import functools
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_tl.backbones.stages.modules import replaced_calls, replaced_forwards

Answer = Callable[[int, str, Callable[[], Any]], Any]
"""Function that maps (index of the call, module name, function that runs the module) to the output of the call."""


@dataclass(frozen=True)
class Leaf:
    """Tensor in the output of a call that holds one part for each image."""

    shape: tuple[int, ...]
    """Shape of the part of one image, in memory order."""
    repeats: int
    """Number of rows of the first dimension that belong to one image (windows, for example)."""
    order: tuple[int, ...]
    """Dimensions after the first, from outermost to innermost in memory."""
    dtype: torch.dtype

    @property
    def values(self) -> int:
        """Number of values per image."""
        return self.repeats * torch.Size(self.shape).numel()

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape in which the part of one image is stored: (rows, *shape)."""
        return (self.repeats, *self.shape)

    def to_rows(self, tensor: Tensor) -> Tensor:
        """Convert the tensor of a batch to contiguous rows of shape (images, rows, *shape)."""
        return tensor.permute(0, *self.order).contiguous().view(-1, *self.row_shape)

    def from_rows(self, rows: Tensor) -> Tensor:
        """Convert rows of shape (images, rows, *shape) back to the tensor, with its strides."""
        inverse = [self.order.index(dimension) + 1 for dimension in range(1, len(self.order) + 1)]
        return rows.reshape(-1, *self.shape).permute(0, *inverse)


@dataclass(frozen=True)
class Call:
    """Outermost call of a frozen module in a forward pass."""

    module: str
    is_prefix: bool
    """Whether the output depends on no trained parameter."""
    structure: Any = None
    """Pytree structure of the output."""
    leaves: tuple[Any, ...] = ()
    """Leaves of the output, in order: a `Leaf`, or a value that is the same for all images."""


@contextlib.contextmanager
def intercepted_calls(modules: Mapping[str, nn.Module], answer: Answer, idle: Container[str] = ()) -> Iterator[None]:
    """Let `answer` replace the output of each outermost call of `modules` while the context is open.

    Args:
        modules: Modules by their names.
        answer: Function that returns the output of a call.
        idle: Names of modules that `answer` never runs. Their hooks are not run either: those of FSDP would gather
            parameters that nobody reads.
    """
    count, is_inside = 0, False

    def call(name: str, forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        nonlocal count, is_inside
        run = functools.partial(forward, *arguments, **options)
        if is_inside:
            return run()
        index, count, is_inside = count, count + 1, True
        try:
            return answer(index, name, run)
        finally:
            is_inside = False

    forwards = {module: functools.partial(call, name, module.forward) for name, module in modules.items()}
    calls = {
        module: functools.partial(call, name, module._call_impl) for name, module in modules.items() if name in idle
    }
    with replaced_forwards(forwards), replaced_calls(calls):
        yield
