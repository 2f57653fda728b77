"""Folding of BatchNorm into the preceding convolution, for a frozen prefix that runs once over the data."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from hf_tl.backbones.stages.freezing import is_frozen
from hf_tl.backbones.stages.modules import replaced_forwards


@contextlib.contextmanager
def folded_batch_norms(model: nn.Module, run: Callable[[], Any]) -> Iterator[int]:
    """Fold each frozen BatchNorm into the frozen convolution that feeds it while the context is open.

    The output changes by rounding only (Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3.2), provided
    that nothing else reads the output of the convolution. This function cannot check that: see `folded_where_equal`.

    Args:
        model: Network in inference mode. Its weights are restored when the context closes.
        run: Function that runs the prefix on sample images.

    Yields:
        Number of folded BatchNorm layers.
    """
    pairs = _pairs(model, run)
    own = [(conv, conv._parameters["weight"], conv._parameters["bias"]) for conv, _ in pairs]
    try:
        for conv, norm in pairs:
            weight, bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            conv._parameters["weight"] = nn.Parameter(weight.to(memory_format=torch.channels_last), False)
            conv._parameters["bias"] = nn.Parameter(bias, False)
        with replaced_forwards({norm: _activation(norm) for _, norm in pairs}):
            yield len(pairs)
    finally:
        for conv, weight, bias in own:
            conv._parameters["weight"], conv._parameters["bias"] = weight, bias


@contextlib.contextmanager
def folded_where_equal(model: nn.Module, run: Callable[[], Sequence[Tensor]]) -> Iterator[None]:
    """Fold as in `folded_batch_norms` while the context is open, unless that changes the output of `run`."""
    expected = run()
    with contextlib.ExitStack() as trial:
        trial.enter_context(folded_batch_norms(model, run))
        if not are_close(run(), expected):
            trial.close()
        yield


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


def _pairs(model: nn.Module, run: Callable[[], Any]) -> list[tuple[Any, Any]]:
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
    for module in filter(is_frozen, model.modules()):
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
