"""A frozen prefix compiled, for a pass over many images."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_tl.backbones.boundary import Boundary
from hf_tl.errors import StageError


def compile_prefix(boundary: Boundary, model: nn.Module, pixel_values: Tensor) -> Callable[[Tensor], list[Tensor]]:
    """Compile what comes before a boundary, for batches of the size of `pixel_values`, and run it once on them.

    Inductor's `freezing` takes the weights for constants
    (https://docs.pytorch.org/docs/stable/generated/torch.compile.html, `options`): as long as the result is used, they
    must not change. One size, because some networks cannot be frozen for sizes that vary.

    Args:
        boundary: of the model.
        model: in inference mode.
        pixel_values: (images, channels, height, width).

    Returns:
        As `boundary.features`, for as many images.

    Raises:
        StageError: it cannot be compiled here, for example without a C++ compiler.
    """
    modules = boundary.prefix_modules
    forwards = [torch.compile(module.forward, dynamic=False, options={"freezing": True}) for module in modules]

    def features(pixel_values: Tensor) -> list[Tensor]:
        with _replaced(modules, forwards):
            return boundary.features(model, pixel_values)

    try:
        features(pixel_values)
    except torch._dynamo.exc.TorchDynamoException as error:  # also of the compilers that it calls
        raise StageError(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    return features


@contextlib.contextmanager
def _replaced(modules: Sequence[nn.Module], forwards: Sequence[Callable[..., Any]]) -> Iterator[None]:
    own = [module.__dict__.get("forward") for module in modules]
    for module, forward in zip(modules, forwards, strict=True):
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module, before in zip(modules, own, strict=True):
            if before is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = before
