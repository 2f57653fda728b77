"""Boundary of a partly frozen network: the end of its frozen prefix and the start of the suffix that trains.

To run the suffix alone, the calls of frozen modules are answered in place of the modules. Calls whose outputs the
suffix reads return precomputed features. All others return scratch memory of the same shape, because everything
computed from it is discarded. Operations between modules (position embeddings, flattening) run unchanged.
"""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree  # transformers registers its outputs here; torch has no public registry

from hf_tl.backbones.prefix.calls import Call, Leaf, intercepted_calls
from hf_tl.backbones.stages.modules import unwrapped


class Boundary:
    """Position at which a partly frozen network can be cut, as returned by `find_boundary`.

    It names modules, and so holds for every copy of the network: `features` may run a whole copy, and `logits` one that
    is sharded over processes.

    Attributes:
        leaves: Leaves that the suffix reads, in the order of `features`.
    """

    def __init__(self, calls: Sequence[Call], needed: Sequence[int], image: tuple[int, int, int]) -> None:
        self.calls = tuple(calls)
        self.needed = tuple(needed)
        self.leaves = tuple(leaf for index in needed for leaf in calls[index].leaves if isinstance(leaf, Leaf))
        self._image = image
        self._names = tuple(dict.fromkeys(call.module for call in calls))
        self._idle = frozenset(self._names).difference(call.module for call in calls if not call.is_prefix)
        """Names of the modules that `logits` never runs."""
        self._scratch: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def prefix_modules(self, model: nn.Module) -> list[nn.Module]:
        """Return the outermost modules that `features` runs."""
        calls = self.calls[: self.needed[-1] + 1]
        return [model.get_submodule(name) for name in dict.fromkeys(call.module for call in calls if call.is_prefix)]

    def _modules(self, model: nn.Module) -> dict[str, nn.Module]:
        """Return the watched modules of a copy of the network, possibly wrapped."""
        network, modules = unwrapped(model), {}
        for name in self._names:
            # layers after the boundary whose adapters have been merged
            with contextlib.suppress(AttributeError):
                modules[name] = network.get_submodule(name)
        return modules

    @property
    def modules(self) -> list[str]:
        """Names of the modules whose outputs the suffix reads."""
        return [self.calls[index].module for index in self.needed]

    @property
    def values(self) -> int:
        """Number of values in the features of one image."""
        return sum(leaf.values for leaf in self.leaves)

    def digest(self) -> str:
        """Return a hash of the modules that the suffix reads and of the feature layout."""
        return hashlib.sha256(repr((self.modules, self.needed, self.leaves, self._image)).encode()).hexdigest()

    def features(self, model: nn.Module, pixel_values: Tensor) -> list[Tensor]:
        """Run the prefix alone.

        Args:
            model: Network in inference mode.
            pixel_values: Images of shape (images, channels, height, width).

        Returns:
            For each leaf, a tensor of shape (images, rows, *shape); see `Leaf`.
        """
        features: dict[int, list[Tensor]] = {}

        def keep(index: int, name: str, run: Callable[[], Any]) -> Any:
            output = run()
            if index in self.needed:
                parts = zip(self.calls[index].leaves, pytree.tree_leaves(output), strict=True)
                features[index] = [leaf.to_rows(tensor) for leaf, tensor in parts if isinstance(leaf, Leaf)]
                if index == self.needed[-1]:
                    raise _ReachedError
                # in-place operations of the network must not change the features
                features[index] = [rows.clone() for rows in features[index]]
            return output

        with intercepted_calls(self._modules(model), keep), contextlib.suppress(_ReachedError):
            model(pixel_values=pixel_values)
        return [rows for index in self.needed for rows in features[index]]

    def logits(self, model: nn.Module, features: Sequence[Tensor]) -> Tensor:
        """Run the suffix alone.

        Args:
            model: Network, possibly wrapped for several processes or sharded over them.
            features: Output of `features` in any precision, on the model's device. In-place operations may change it.

        Returns:
            Logits of shape (images, classes).
        """
        images = len(features[0])
        remaining = iter([rows.to(leaf.dtype) for rows, leaf in zip(features, self.leaves, strict=True)])

        def answer(index: int, name: str, run: Callable[[], Any]) -> Any:
            call = self.calls[index]
            if not call.is_prefix:
                return run()
            is_read = index in self.needed
            values = [
                (leaf.from_rows(next(remaining)) if is_read else self._placeholder(leaf, images, features[0].device))
                if isinstance(leaf, Leaf)
                else leaf.clone()  # the network may change it in place
                if isinstance(leaf, Tensor)
                else leaf
                for leaf in call.leaves
            ]
            return pytree.tree_unflatten(values, call.structure)

        channels, height, width = self._image
        blank = Leaf((channels, height, width), 1, (1, 2, 3), torch.float32)
        with intercepted_calls(self._modules(model), answer, self._idle):
            return model(pixel_values=self._placeholder(blank, images, features[0].device)).logits

    def _placeholder(self, leaf: Leaf, images: int, device: torch.device) -> Tensor:
        """Return memory of the shape of a leaf, with arbitrary content; all placeholders share it."""
        key, size = (leaf.dtype, device), images * leaf.values
        if key not in self._scratch or self._scratch[key].numel() < size:
            with torch.inference_mode(False):  # evaluation may come first, and training may reuse the memory
                self._scratch[key] = torch.zeros(size, dtype=leaf.dtype, device=device)
        return leaf.from_rows(self._scratch[key][:size].view(images, *leaf.row_shape))


class _ReachedError(Exception):
    """Signal that stops a forward pass after the last frozen call that is needed."""
