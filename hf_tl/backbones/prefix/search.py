"""Search for the boundary of a partly frozen network.

The search needs no knowledge of the architecture. It watches forward passes: which fixed modules are called, in which
order, and whose outputs depend on no trained parameter. Before a boundary is returned, its parts are checked to
reproduce the output of the whole network.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree  # transformers registers its outputs here; torch has no public registry

from hf_tl.backbones.prefix.boundary import Boundary
from hf_tl.backbones.prefix.calls import Call, Leaf, intercepted_calls
from hf_tl.backbones.stages.freezing import has_statistics, is_frozen
from hf_tl.backbones.stages.modules import undisturbed
from hf_tl.errors import StageError


def find_boundary(model: nn.Module, image: tuple[int, int, int]) -> Boundary:
    """Find where a frozen network can be cut, and check the cut on random images.

    Args:
        model: Network frozen by `hf_tl.freeze`. Its weights, its statistics and torch's random state are unchanged.
        image: Shape of its input: (channels, height, width).

    Raises:
        StageError: The network cannot be cut. The message says why.

    >>> from hf_tl import Strategy, load_backbone
    >>> model, _ = load_backbone("timm:test_resnet", ["a", "b"], Strategy.transfer(), pretrained=False)
    >>> boundary = find_boundary(model, (3, 160, 160))
    >>> boundary.modules, boundary.values
    (['timm_model.global_pool'], 96)
    """
    device = next(model.parameters()).device
    try:
        with undisturbed(model):
            return _find(model, image, device)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError) as error:
        # architectures of all kinds are run in a way that they were not written for
        raise StageError(f"the network cannot be run in parts ({type(error).__name__}: {error})") from error


def _find(model: nn.Module, image: tuple[int, int, int], device: torch.device) -> Boundary:
    """Cut after frozen modules, and after parameter-free modules that follow them; return the smaller boundary."""
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(images, *image, generator=generator).to(device) for images in (2, 3)]
    modules = dict(model.named_modules())
    # search inside a frozen module whose normalization layers train
    still = {name: module for name, module in modules.items() if not any(p.requires_grad for p in module.parameters())}
    frozen = {name: module for name, module in still.items() if is_frozen(module)}
    fixed = {name: module for name, module in still.items() if _is_fixed(module)}
    further = _cut(model, fixed, batches, image)
    if all(is_frozen(modules[name]) for name in further.modules):
        return further
    return min(further, _cut(model, frozen, batches, image), key=lambda boundary: boundary.values)


def _cut(
    model: nn.Module, watched: Mapping[str, nn.Module], batches: Sequence[Tensor], image: tuple[int, int, int]
) -> Boundary:
    """Cut after the last calls of the watched modules, and check that prefix and suffix reproduce the whole network."""
    two, three = (_record(model.eval(), watched, pixel_values) for pixel_values in batches)
    if [recorded.module for recorded in two.calls] != [recorded.module for recorded in three.calls]:
        raise StageError("the network calls other modules for another batch size")
    calls = [_describe(*pair) for pair in zip(two.calls, three.calls, strict=True)]
    if not any(isinstance(leaf, Leaf) for call in calls for leaf in call.leaves):
        raise StageError("no frozen module precedes all trained modules")
    boundary = Boundary(calls, _read_by_the_suffix(model, calls, watched, batches[0]), image)
    with torch.no_grad():
        computed = boundary.features(model, batches[0])
        recorded_rows = [rows for index in boundary.needed for rows in three.rows(calls, index)]
        for recorded, features in ((two, computed), (three, recorded_rows)):
            if not _agree(boundary.logits(model, features), recorded.logits):
                raise StageError("the trained part reads values that are not outputs of frozen modules")
    # Features are computed in inference mode and used in training, so they must not depend on the mode or on
    # randomness. This check is last because it updates BatchNorm statistics.
    in_training = _record(model.train(), watched, batches[0])
    if [recorded.module for recorded in in_training.calls] != [recorded.module for recorded in two.calls] or not all(
        _agree(a, b)
        for index in boundary.needed
        for a, b in zip(in_training.rows(calls, index), two.rows(calls, index), strict=True)
    ):
        raise StageError("the output of the frozen part is random or depends on the training mode")
    return boundary


def _read_by_the_suffix(
    model: nn.Module, calls: Sequence[Call], watched: Mapping[str, nn.Module], pixel_values: Tensor
) -> list[int]:
    """Find the calls whose outputs the suffix reads: those that the gradient of the logits reaches.

    The autograd graph decides, not the value of the gradient: a branch that is multiplied by zero now may contribute
    later.
    """
    leaves: dict[int, list[Tensor]] = {}

    def begin_graph(index: int, name: str, run: Callable[[], Any]) -> Any:
        output = run()
        if not calls[index].is_prefix:
            return output
        values, structure = pytree.tree_flatten(output)
        leaves[index] = [v.detach().requires_grad_() for v in values if isinstance(v, Tensor) and v.is_floating_point()]
        fresh = iter(leaves[index])
        # a copy that the network may change in place
        copied = [next(fresh).clone() if isinstance(v, Tensor) and v.is_floating_point() else v for v in values]
        return pytree.tree_unflatten(copied, structure)

    with intercepted_calls(watched, begin_graph), torch.enable_grad():
        logits = model(pixel_values=pixel_values).logits
    flat = [leaf for index in leaves for leaf in leaves[index]]
    gradients = torch.autograd.grad(logits.sum(), flat, allow_unused=True)
    reached = {id(leaf) for leaf, gradient in zip(flat, gradients, strict=True) if gradient is not None}
    return [index for index in leaves if any(id(leaf) in reached for leaf in leaves[index])]


def _is_fixed(module: nn.Module) -> bool:
    """Return whether a module without trained parameters has a constant output during a phase (frozen, or pooling)."""
    if is_frozen(module):
        return True
    inside = [part for part in module.modules() if not is_frozen(part)]
    return not any(has_statistics(part) or "drop" in type(part).__name__.lower() for part in inside)


def _agree(a: Tensor, b: Tensor) -> bool:
    scale = float(b.abs().max()) if b.numel() else 0.0
    return torch.allclose(a.float(), b.float(), rtol=1e-4, atol=1e-5 * scale)


@dataclass
class _RecordedCall:
    """Watched call: module and copy of its output."""

    module: str
    output: Any


@dataclass
class _Recording:
    """Watched forward pass."""

    calls: list[_RecordedCall]
    logits: Tensor

    def rows(self, calls: Sequence[Call], index: int) -> list[Tensor]:
        parts = zip(calls[index].leaves, pytree.tree_leaves(self.calls[index].output), strict=True)
        return [leaf.to_rows(tensor.detach()) for leaf, tensor in parts if isinstance(leaf, Leaf)]


def _record(model: nn.Module, watched: Mapping[str, nn.Module], pixel_values: Tensor) -> _Recording:
    calls = []

    def note(index: int, name: str, run: Callable[[], Any]) -> Any:
        output = run()
        copied = pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, output)
        calls.append(_RecordedCall(name, copied))
        return output

    with intercepted_calls(watched, note), torch.enable_grad():
        logits = model(pixel_values=pixel_values).logits
    return _Recording(calls, logits.detach())


def _describe(two: _RecordedCall, three: _RecordedCall) -> Call:
    """Describe a call from its outputs for two and for three images."""
    leaves, structure = pytree.tree_flatten(two.output)
    others = pytree.tree_leaves(three.output)
    if len(others) != len(leaves) or any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves):
        return Call(two.module, is_prefix=False)
    described = tuple(_leaf(a, b) for a, b in zip(leaves, others, strict=True))
    if any(leaf is NotImplemented for leaf in described):
        return Call(two.module, is_prefix=False)
    return Call(two.module, True, structure, described)


def _leaf(two: Any, three: Any) -> Any:
    """Return a `Leaf`, the value itself, or NotImplemented if the value cannot be divided by image."""
    if not isinstance(two, Tensor):
        return two if two == three else NotImplemented
    if two.shape == three.shape:
        return two if torch.equal(two, three) else NotImplemented
    repeats = len(three) - len(two)
    if two.shape[1:] != three.shape[1:] or len(two) != 2 * repeats:
        return NotImplemented
    order = tuple(sorted(range(1, two.ndim), key=two.stride, reverse=True))
    return Leaf(tuple(two.shape[dimension] for dimension in order), repeats, order, two.dtype)
