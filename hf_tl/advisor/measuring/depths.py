"""Pooled features at the end of each stage of a network, from one forward pass."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree  # the registry that transformers' outputs are in; torch has no public one

from hf_tl.backbones.prefix.calls import intercepted_calls
from hf_tl.backbones.stages.paths import outermost
from hf_tl.backbones.stages.stage import Stage, list_stages
from hf_tl.errors import StageError

HEAD = ""
"""Key of the head's input; no stage has this name."""


@dataclass
class Depths:
    """Stages of a network as depths at which its features are read.

    The features of a stage are its output, averaged over positions or tokens. The features of the last stage before the
    head are the head's input, pooled as the network itself pools it.
    """

    model: nn.Module
    """Transformers classifier in inference mode."""
    stages: tuple[Stage, ...] = field(init=False)
    """Stages of the backbone, in forward order."""

    def __post_init__(self) -> None:
        *backbone, self._head = list_stages(self.model)
        self.stages = tuple(backbone)

    @property
    def names(self) -> list[str]:
        """Return the names of the depths, in forward order."""
        return [stage.name for stage in self.stages]

    def read(self, pixel_values: Tensor) -> tuple[list[Tensor], Tensor]:
        """Run the network and return the features of each depth and the logits.

        Args:
            pixel_values: Batch of shape (images, channels, height, width).

        Returns:
            Features of each depth, of shape (images, values), and logits, of shape (images, classes).

        Raises:
            StageError: The output of a stage cannot be pooled.
        """
        modules = dict(self.model.named_modules())
        owners = {name: stage.name for stage in self.stages for name in outermost(stage.module_names)}
        heads = [name for name in outermost(self._head.module_names) if any(True for _ in modules[name].parameters())]
        seen: dict[str, Tensor] = {}

        def keep(place: int, name: str, run: Callable[[], Any]) -> Any:
            output = run()
            if (pooled := _pooled(output, len(pixel_values))) is not None:
                seen[owners[name]] = pooled
            return output

        def keep_input(module: nn.Module, inputs: Any) -> None:
            if HEAD not in seen and (pooled := _pooled(inputs, len(pixel_values))) is not None:
                seen[HEAD] = pooled

        hooks = [modules[name].register_forward_pre_hook(keep_input) for name in heads]
        try:
            with intercepted_calls({name: modules[name] for name in owners}, keep):
                logits = self.model(pixel_values=pixel_values).logits
        finally:
            for hook in hooks:
                hook.remove()
        features = [seen.get(stage.name) for stage in self.stages]
        features[-1] = seen.get(HEAD, features[-1])
        if missing := [name for name, tensor in zip(self.names, features, strict=True) if tensor is None]:
            raise StageError(
                f"expected features at the end of each stage of {type(self.model).__name__}, found none at "
                f"{', '.join(missing)}; choose another backbone"
            )
        return [tensor for tensor in features if tensor is not None], logits


def pool(output: Tensor, images: int) -> Tensor:
    """Average a stage's output over all axes but images and channels.

    Args:
        output: Tensor of shape (images, channels), (images, tokens, channels), (images, channels, height, width) or
            (images, height, width, channels) with height equal to width; or with several rows per image (windows).
        images: Number of images.

    Returns:
        Tensor of shape (images, channels).

    >>> import torch
    >>> pool(torch.ones(2, 5, 4, 4), 2).shape, pool(torch.ones(2, 4, 4, 5), 2).shape, pool(torch.ones(6, 9, 5), 2).shape
    (torch.Size([2, 5]), torch.Size([2, 5]), torch.Size([2, 5]))
    """
    # feature maps are channels-first, unless only the other two sizes are equal
    is_first = output.ndim == 4 and not output.shape[1] == output.shape[2] != output.shape[3]
    rows = output.movedim(1, -1) if is_first else output
    return rows.reshape(images, -1, rows.shape[-1]).mean(1)


def _pooled(values: Any, images: int) -> Tensor | None:
    """Pool the first tensor that may hold features, immediately: the network may change it in place."""
    for leaf in pytree.tree_leaves(values):
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim >= 2 and len(leaf) % images == 0:
            return pool(leaf, images)
    return None
