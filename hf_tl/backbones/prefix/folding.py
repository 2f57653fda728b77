"""Folding of BatchNorm into the preceding convolution, for the frozen prefix of a network."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from hf_tl.backbones.stages.freezing import is_frozen
from hf_tl.backbones.stages.modules import replaced_forwards


class Folding:
    """Convolutions of a network with the BatchNorm after them folded in, used only while `applied` is open.

    The output changes by rounding only (Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3.2), provided
    that nothing else reads the output of the convolution. This class cannot check that: see `folding_where_equal`.

    Args:
        model: Network in inference mode.
        run: Function that runs the prefix on sample images.
        is_foldable: Function that chooses the modules that may be folded, by default the frozen ones.

    Attributes:
        count: Number of folded BatchNorm layers.
    """

    def __init__(
        self, model: nn.Module, run: Callable[[], Any], is_foldable: Callable[[nn.Module], bool] = is_frozen
    ) -> None:
        pairs = _pairs(model, run, is_foldable)
        self.count = len(pairs)
        self._folded = [(conv, *_fuse(conv, norm)) for conv, norm in pairs]
        self._forwards = {norm: _activation(norm) for _, norm in pairs}

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Run the folded convolutions in place of the own ones while the context is open."""
        own = [(conv, conv._parameters["weight"], conv._parameters["bias"]) for conv, _, _ in self._folded]
        try:
            _set(self._folded)
            with replaced_forwards(self._forwards):
                yield
        finally:
            _set(own)


def folding_where_equal(
    model: nn.Module, run: Callable[[], Sequence[Tensor]], is_foldable: Callable[[nn.Module], bool] = is_frozen
) -> Folding | None:
    """Return the folding of a network, or None if it changes the output of `run` by more than rounding."""
    expected = run()
    folding = Folding(model, run, is_foldable)
    with folding.applied():
        return folding if are_close(run(), expected) else None


@contextlib.contextmanager
def folded_where_equal(
    model: nn.Module, run: Callable[[], Sequence[Tensor]], is_foldable: Callable[[nn.Module], bool] = is_frozen
) -> Iterator[None]:
    """Fold while the context is open, unless that changes the output of `run`."""
    folding = folding_where_equal(model, run, is_foldable)
    with contextlib.nullcontext() if folding is None else folding.applied():
        yield


def _fuse(conv: Any, norm: Any) -> tuple[nn.Parameter, nn.Parameter]:
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return nn.Parameter(weight.to(memory_format=torch.channels_last), False), nn.Parameter(bias, False)


def _set(convolutions: Iterable[tuple[nn.Module, Any, Any]]) -> None:
    for conv, weight, bias in convolutions:
        conv._parameters["weight"], conv._parameters["bias"] = weight, bias


def are_close(features: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Return whether features differ by no more than the rounding error of a whole network in their precision."""
    return all(_is_close(a, b) for a, b in zip(features, expected, strict=True))


def _is_close(a: Tensor, b: Tensor) -> bool:
    scale = float(b.float().abs().max())
    return torch.allclose(a.float(), b.float(), rtol=1e-3, atol=(1e-2 if b.dtype == torch.bfloat16 else 1e-4) * scale)


def _activation(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the part of a folded norm that must still run: the activation, in timm's classes."""
    if isinstance(norm, BatchNormAct2d):
        return lambda x: norm.act(norm.drop(x))
    return lambda x: x


def _pairs(model: nn.Module, run: Callable[[], Any], is_foldable: Callable[[nn.Module], bool]) -> list[tuple[Any, Any]]:
    """Find consecutive pairs of a convolution and a norm that are each called once."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}
    pairs: list[tuple[nn.Module, nn.Module]] = []
    calls: Counter[nn.Module] = Counter()

    def note_output(conv: nn.Module, inputs: Any, output: Tensor) -> None:
        made[id(output)] = (conv, output)  # keep a reference so that the id is not reused
        calls[conv] += 1

    def note_input(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[norm] += 1
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], norm))

    hooks = []
    for module in filter(is_foldable, model.modules()):
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(note_output))
        elif type(module) is nn.BatchNorm2d or type(module) is BatchNormAct2d:
            hooks.append(module.register_forward_pre_hook(note_input))
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return [(conv, norm) for conv, norm in pairs if calls[conv] == calls[norm] == 1]
