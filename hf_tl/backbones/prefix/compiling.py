"""Compilation of a frozen prefix, for a pass over many images."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hf_tl.backbones.prefix.boundary import Boundary
from hf_tl.backbones.stages.modules import replaced_forwards
from hf_tl.errors import StageError


def compile_prefix(boundary: Boundary, model: nn.Module, pixel_values: Tensor) -> Callable[[Tensor], list[Tensor]]:
    """Compile the prefix of a boundary for batches of the size of `pixel_values`, and run it on them once.

    Inductor's `freezing` treats the weights as constants
    (https://docs.pytorch.org/docs/stable/generated/torch.compile.html, `options`), so they must not change while the
    result is in use. The batch size is fixed because some networks cannot be compiled with `freezing` for dynamic
    shapes.

    Args:
        boundary: Boundary of the model.
        model: Network in inference mode.
        pixel_values: Images of shape (images, channels, height, width).

    Returns:
        Function like `boundary.features`, for batches of this size.

    Raises:
        StageError: Compilation fails on this machine, for example because there is no C++ compiler.
    """
    forwards = {
        module: torch.compile(module.forward, dynamic=False, options={"freezing": True})
        for module in boundary.prefix_modules(model)
    }

    def features(pixel_values: Tensor) -> list[Tensor]:
        with replaced_forwards(forwards):
            return boundary.features(model, pixel_values)

    try:
        features(pixel_values)
    except torch._dynamo.exc.TorchDynamoException as error:  # errors of the backend compilers are subclasses
        raise StageError(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    return features
