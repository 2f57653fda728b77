"""Class activation maps: the image regions that support a class, by Grad-CAM.

Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391.

The feature maps of the last stage that has any are weighted by the mean gradient of the class's logit, summed, and
clipped at zero. This needs no knowledge of the architecture: hooks record the outputs of its stages. A stage may output
channels first or last, or tokens, of which those that form a grid with the image's aspect ratio are used. In a
transformer that reads only its class token, the other tokens of the last block get no gradient; the preceding stage is
then used.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree  # transformers registers its outputs here; torch has no public registry

from hf_tl.backbones.stages.paths import outermost
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.errors import ModelError

OTHER_TOKENS = 8
"""Maximum number of class, distillation and register tokens beside the patch tokens."""


def class_activation_maps(model: nn.Module, pixel_values: Tensor, classes: Sequence[int]) -> Tensor:
    """Compute a map of the image regions that support a class, for each image.

    Args:
        model: Image classifier. Its weights, gradients and mode are unchanged.
        pixel_values: Images of shape (images, channels, height, width), on the model's device.
        classes: Class index for each image.

    Returns:
        Values from 0 to 1 of shape (images, height, width), on the CPU; all zero where nothing supports the class.

    Raises:
        ModelError: No stage of the model outputs a map of the image, or the backward pass fails.

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
            # the input requires a gradient, so that frozen stages are part of the graph too
            logits = model(pixel_values=pixel_values.detach().clone().requires_grad_()).logits
            chosen = logits[torch.arange(len(classes)), torch.as_tensor(classes, device=logits.device)]
            maps = _last_that_counts(chosen.sum(), [output for output in outputs if len(output) == len(classes)], size)
    except RuntimeError as error:  # architectures of all kinds are run in a way that they were not written for
        raise ModelError(f"no activation map: the backward pass of {type(model).__name__} fails ({error})") from error
    finally:
        model.train(was_training)
    smooth = functional.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return (smooth / smooth.amax((1, 2), keepdim=True).clamp_min(1e-12)).cpu()


@contextlib.contextmanager
def _watched(model: nn.Module) -> Iterator[list[Tensor]]:
    """Record every tensor that an outermost module of a stage returns, except the head's, in call order."""
    outputs: list[Tensor] = []

    def note(module: nn.Module, arguments: Any, output: Any) -> None:
        outputs.extend(leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad)

    modules = dict(model.named_modules())
    names = [name for stage in list_stages(model)[:-1] for name in outermost(stage.module_names)]
    hooks = [modules[name].register_forward_hook(note) for name in names]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _last_that_counts(score: Tensor, outputs: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Compute maps (images, rows, columns) from the last output whose spatial positions the score depends on."""
    for output in reversed(outputs):
        if (features := _as_grid(output, size)) is None:
            continue
        (gradient,) = torch.autograd.grad(score, output, retain_graph=True, allow_unused=True)
        slopes = None if gradient is None else _as_grid(gradient, size)
        if slopes is not None and slopes.any():
            weights = slopes.float().mean((2, 3), keepdim=True)
            return (weights * features.detach().float()).sum(1).relu().detach()
    raise ModelError("no activation map: expected a stage whose output is a grid of image regions, found none")


def _as_grid(features: Tensor, size: tuple[int, int]) -> Tensor | None:
    """View features as (images, channels, rows, columns), or return None if they have no two image dimensions.

    Args:
        features: Shape (images, channels, rows, columns), (images, rows, columns, channels) or (images, tokens,
            channels) with non-patch tokens first.
        size: Height and width of the image.

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
    for height in (rows, rows - 1):  # non-patch tokens may have rounded it up
        width = round(height * size[1] / size[0])
        if _is_grid(height, width, size) and 0 <= features.shape[1] - height * width <= OTHER_TOKENS:
            return features[:, -height * width :].movedim(2, 1).unflatten(2, (height, width))
    return None


def _is_grid(rows: int, columns: int, size: tuple[int, int]) -> bool:
    """Return whether a grid divides the image into more than one cell of about equal height and width."""
    return (
        rows * columns > 1 and abs(rows * size[1] - columns * size[0]) < max(size) and max(rows, columns) <= max(size)
    )
