"""Boundary of a partly frozen network: the end of its frozen prefix and the start of the suffix that trains.

The search needs no knowledge of the architecture. It watches forward passes: which fixed modules are called, in which
order, and whose outputs depend on no trained parameter. To run the suffix alone, these calls are answered in place of
the modules. Calls whose outputs the suffix reads return precomputed features. All others return scratch memory of the
same shape, because everything computed from it is discarded. Operations between modules (position embeddings,
flattening) run unchanged. Before a boundary is used, the parts are checked to reproduce the output of the whole
network.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree  # transformers registers its outputs here; torch has no public registry

from hf_tl.backbones.freezing import has_statistics, is_frozen
from hf_tl.errors import StageError

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


class Boundary:
    """Position at which a partly frozen network can be cut, as returned by `find_boundary`.

    Attributes:
        leaves: Leaves that the suffix reads, in the order of `features`.
    """

    def __init__(
        self, model: nn.Module, calls: Sequence[Call], needed: Sequence[int], image: tuple[int, int, int]
    ) -> None:
        self.calls = tuple(calls)
        self.needed = tuple(needed)
        self.leaves = tuple(leaf for place in needed for leaf in calls[place].leaves if isinstance(leaf, Leaf))
        self._image = image
        modules = dict(model.named_modules())
        self._modules = {name: modules[name] for name in dict.fromkeys(call.module for call in calls)}
        self._scratch: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    @property
    def prefix_modules(self) -> list[nn.Module]:
        """Outermost modules that `features` runs."""
        calls = self.calls[: self.needed[-1] + 1]
        return [self._modules[name] for name in dict.fromkeys(call.module for call in calls if call.is_prefix)]

    @property
    def modules(self) -> list[str]:
        """Names of the modules whose outputs the suffix reads."""
        return [self.calls[place].module for place in self.needed]

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
        found: dict[int, list[Tensor]] = {}

        def keep(place: int, name: str, run: Callable[[], Any]) -> Any:
            output = run()
            if place in self.needed:
                parts = zip(self.calls[place].leaves, pytree.tree_leaves(output), strict=True)
                found[place] = [leaf.to_rows(tensor) for leaf, tensor in parts if isinstance(leaf, Leaf)]
                if place == self.needed[-1]:
                    raise _ReachedError
                # in-place operations of the network must not change the features
                found[place] = [rows.clone() for rows in found[place]]
            return output

        with intercepted_calls(self._modules, keep), contextlib.suppress(_ReachedError):
            model(pixel_values=pixel_values)
        return [rows for place in self.needed for rows in found[place]]

    def logits(self, model: nn.Module, features: Sequence[Tensor]) -> Tensor:
        """Run the suffix alone.

        Args:
            model: Network, possibly wrapped for several processes.
            features: Output of `features`, on the model's device. In-place operations may change it.

        Returns:
            Logits of shape (images, classes).
        """
        images = len(features[0])
        remaining = iter(features)

        def answer(place: int, name: str, run: Callable[[], Any]) -> Any:
            call = self.calls[place]
            if not call.is_prefix:
                return run()
            is_read = place in self.needed
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
        with intercepted_calls(self._modules, answer):
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


@contextlib.contextmanager
def intercepted_calls(modules: Mapping[str, nn.Module], answer: Answer) -> Iterator[None]:
    """Replace the output of each outermost call of `modules` by that of `answer` while the context is open."""
    place, is_inside = 0, False

    def call(name: str, forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        nonlocal place, is_inside
        run = functools.partial(forward, *arguments, **options)
        if is_inside:
            return run()
        here, place, is_inside = place, place + 1, True
        try:
            return answer(here, name, run)
        finally:
            is_inside = False

    own = {name: module.__dict__.get("forward") for name, module in modules.items()}
    for name, module in modules.items():
        module.__dict__["forward"] = functools.partial(call, name, module.forward)
    try:
        yield
    finally:
        for name, module in modules.items():
            if own[name] is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = own[name]


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
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    was_training = model.training
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            return _find(model, image, device)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError) as error:
        # architectures of all kinds are run in a way that they were not written for
        raise StageError(f"the network cannot be run in parts ({type(error).__name__}: {error})") from error
    finally:
        model.train(was_training)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


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
    two, three = (_watch(model.eval(), watched, pixel_values) for pixel_values in batches)
    if [seen.module for seen in two.calls] != [seen.module for seen in three.calls]:
        raise StageError("the network calls other modules for another number of images")
    calls = [_describe(*pair) for pair in zip(two.calls, three.calls, strict=True)]
    if not any(isinstance(leaf, Leaf) for call in calls for leaf in call.leaves):
        raise StageError("no frozen module comes before all that trains")
    boundary = Boundary(model, calls, _read_by_the_suffix(model, calls, watched, batches[0]), image)
    with torch.no_grad():
        computed = boundary.features(model, batches[0])
        watched_rows = [rows for place in boundary.needed for rows in three.rows(calls, place)]
        for seen, features in ((two, computed), (three, watched_rows)):
            if not _agree(boundary.logits(model, features), seen.logits):
                raise StageError("the part that trains reads more of the network than the outputs of frozen modules")
    # Features are computed in inference mode and used in training, so they must not depend on the mode or on
    # randomness. This check is last because it updates BatchNorm statistics.
    in_training = _watch(model.train(), watched, batches[0])
    if [seen.module for seen in in_training.calls] != [seen.module for seen in two.calls] or not all(
        _agree(a, b)
        for place in boundary.needed
        for a, b in zip(in_training.rows(calls, place), two.rows(calls, place), strict=True)
    ):
        raise StageError("the frozen part computes something else in training, or something random")
    return boundary


def _read_by_the_suffix(
    model: nn.Module, calls: Sequence[Call], watched: Mapping[str, nn.Module], pixel_values: Tensor
) -> list[int]:
    """Find the calls whose outputs the suffix reads: those that the gradient of the logits reaches.

    The autograd graph decides, not the value of the gradient: a branch that is multiplied by zero now may contribute
    later.
    """
    leaves: dict[int, list[Tensor]] = {}

    def begin_graph(place: int, name: str, run: Callable[[], Any]) -> Any:
        output = run()
        if not calls[place].is_prefix:
            return output
        values, structure = pytree.tree_flatten(output)
        leaves[place] = [v.detach().requires_grad_() for v in values if isinstance(v, Tensor) and v.is_floating_point()]
        fresh = iter(leaves[place])
        # a copy that the network may change in place
        copied = [next(fresh).clone() if isinstance(v, Tensor) and v.is_floating_point() else v for v in values]
        return pytree.tree_unflatten(copied, structure)

    with intercepted_calls(watched, begin_graph), torch.enable_grad():
        logits = model(pixel_values=pixel_values).logits
    flat = [leaf for place in leaves for leaf in leaves[place]]
    gradients = torch.autograd.grad(logits.sum(), flat, allow_unused=True)
    reached = {id(leaf) for leaf, gradient in zip(flat, gradients, strict=True) if gradient is not None}
    return [place for place in leaves if any(id(leaf) in reached for leaf in leaves[place])]


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
class _SeenCall:
    """Watched call: the module, and a copy of its output."""

    module: str
    output: Any


@dataclass
class _Seen:
    """Watched forward pass."""

    calls: list[_SeenCall]
    logits: Tensor

    def rows(self, calls: Sequence[Call], place: int) -> list[Tensor]:
        parts = zip(calls[place].leaves, pytree.tree_leaves(self.calls[place].output), strict=True)
        return [leaf.to_rows(tensor.detach()) for leaf, tensor in parts if isinstance(leaf, Leaf)]


def _watch(model: nn.Module, watched: Mapping[str, nn.Module], pixel_values: Tensor) -> _Seen:
    calls = []

    def note(place: int, name: str, run: Callable[[], Any]) -> Any:
        output = run()
        copied = pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, output)
        calls.append(_SeenCall(name, copied))
        return output

    with intercepted_calls(watched, note), torch.enable_grad():
        logits = model(pixel_values=pixel_values).logits
    return _Seen(calls, logits.detach())


def _describe(two: _SeenCall, three: _SeenCall) -> Call:
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
