"""Frozen prefix of a network, run as fast as possible in the middle of a training."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from hf_tl.backbones.prefix.boundary import Boundary
from hf_tl.backbones.prefix.folding import Folding, folding_where_equal
from hf_tl.backbones.stages.modules import inference


class FastPrefix:
    """Frozen prefix with BatchNorm folded, in inference mode, without gradients, in a precision of its own.

    Between calls, the network is what it was: weights, modes and names do not change.

    Args:
        model: Network, frozen as when the boundary was found.
        boundary: End of the prefix.
        samples: A few images (images, channels, height, width) on which folding must not change the features.
        precise: Function that opens the context of the precision, such as autocast.
    """

    def __init__(
        self,
        model: nn.Module,
        boundary: Boundary,
        samples: Tensor,
        precise: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self.model, self.boundary, self._precise = model, boundary, precise
        with inference(model, for_training=True), precise():
            self._folding: Folding | None = folding_where_equal(model, lambda: boundary.features(model, samples))

    def __call__(self, pixel_values: Tensor) -> list[Tensor]:
        """Return the features of images: for each leaf of the boundary a tensor (images, rows, *shape)."""
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        with inference(self.model, for_training=True), self._precise():
            if self._folding is None:
                return self.boundary.features(self.model, pixel_values)
            with self._folding.applied():
                return self.boundary.features(self.model, pixel_values)

    def logits(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """Return the logits (images, classes) of a batch of `pixel_values`, with gradients in the suffix alone.

        Args:
            model: The network or a copy of it, possibly wrapped for several processes or sharded over them.
            batch: Batch of images.
        """
        return self.boundary.logits(model, self(batch["pixel_values"]))
