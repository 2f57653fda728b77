"""Where in an image a class was seen: Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391).

The feature maps of the last stage that has any are weighted by how much each raises the class's logit, added up, and
cut below zero. Nothing needs to be known of the network: its stages are watched. A stage may give channels first or
last, or tokens, of which those that form a grid of the image's proportions are taken. A transformer that reads its
class token alone passes no gradient to the other tokens of its last block; then the stage before it is taken.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree  # the registry that transformers' outputs are in; torch has no public one

from hf_tl.backbones.stages import list_stages
from hf_tl.errors import ModelError

OTHER_TOKENS = 8
"""Class, distillation and register tokens that a network may have beside those of places."""


def class_activation_maps(model: nn.Module, pixel_values: Tensor, classes: Sequence[int]) -> Tensor:
    """Map where in each image its class was seen.

    Args:
        model: an image classifier; its weights, gradients and mode stay as they are.
        pixel_values: (images, channels, height, width), on the model's device.
        classes: the index of the class to look for in each image.

    Returns:
        Values from 0 to 1 of shape (images, height, width), on the CPU; all zero where nothing speaks for the class.

    Raises:
        ModelError: no stage of the model gives a map of the image, or it cannot be run backwards.

    >>> from hf_tl import load_backbone
    >>> model, _ = load_backbone("timm:test_resnet", ["cat", "dog"], pretrained=False)
    >>> class_activation_maps(model, torch.randn(2, 3, 64, 64), [0, 1]).shape
    torch.Size([2, 64, 64])
    """
    size = (pixel_values.shape[-2], pixel_values.shape[-1])
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad(), _watched(model) as outputs:
            # the input asks for a gradient, so that frozen stages are part of the graph too
            logits = model(pixel_values=pixel_values.detach().clone().requires_grad_()).logits
            chosen = logits[torch.arange(len(classes)), torch.as_tensor(classes, device=logits.device)]
            maps = _last_that_counts(chosen.sum(), [one for one in outputs if len(one) == len(classes)], size)
    except RuntimeError as error:  # networks of all kinds are run in a way that they were not written for
        raise ModelError(f"it cannot be told where the model looked: it cannot be run backwards ({error})") from error
    finally:
        model.train(was_training)
    smooth = functional.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return (smooth / smooth.amax((1, 2), keepdim=True).clamp_min(1e-12)).cpu()


@contextlib.contextmanager
def _watched(model: nn.Module) -> Iterator[list[Tensor]]:
    """Note every tensor that an outermost module of a stage returns, the head left out, in the order of the calls."""
    outputs: list[Tensor] = []

    def note(module: nn.Module, arguments: Any, output: Any) -> None:
        outputs.extend(leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad)

    modules = dict(model.named_modules())
    names = [name for stage in list_stages(model)[:-1] for name in stage.module_names]
    hooks = [modules[name].register_forward_hook(note) for name in names if name.rpartition(".")[0] not in names]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _last_that_counts(score: Tensor, outputs: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Compute the maps (images, rows, columns) from the last output on whose places the score depends."""
    for output in reversed(outputs):
        if (features := _as_grid(output, size)) is None:
            continue
        (gradient,) = torch.autograd.grad(score, output, retain_graph=True, allow_unused=True)
        slopes = None if gradient is None else _as_grid(gradient, size)
        if slopes is not None and slopes.any():
            weights = slopes.float().mean((2, 3), keepdim=True)
            return (weights * features.detach().float()).sum(1).relu().detach()
    raise ModelError("no stage of the model gives a map of the image, so it cannot be told where the model looked")


def _as_grid(features: Tensor, size: tuple[int, int]) -> Tensor | None:
    """View features as (images, channels, rows, columns); None where they have no two dimensions of an image.

    Args:
        features: (images, channels, rows, columns), (images, rows, columns, channels) or (images, tokens, channels),
            the tokens of no place first.
        size: height and width of the image.

    >>> [tuple(_as_grid(torch.zeros(shape), (64, 64)).shape) for shape in ((1, 8, 4, 4), (1, 4, 4, 8), (1, 17, 8))]
    [(1, 8, 4, 4), (1, 8, 4, 4), (1, 8, 4, 4)]
    """
    if features.ndim == 4:
        if _is_grid(features.shape[2], features.shape[3], size):
            return features
        return features.movedim(3, 1) if _is_grid(features.shape[1], features.shape[2], size) else None
    if features.ndim != 3:
        return None
    rows = round(math.sqrt(features.shape[1] * size[0] / size[1]))
    for height in (rows, rows - 1):  # the other tokens may round it up
        width = round(height * size[1] / size[0])
        if _is_grid(height, width, size) and 0 <= features.shape[1] - height * width <= OTHER_TOKENS:
            return features[:, -height * width :].movedim(2, 1).unflatten(2, (height, width))
    return None


def _is_grid(rows: int, columns: int, size: tuple[int, int]) -> bool:
    """Whether so many places cut the image into more than one part of about equal height and width."""
    return (
        rows * columns > 1 and abs(rows * size[1] - columns * size[0]) < max(size) and max(rows, columns) <= max(size)
    )
