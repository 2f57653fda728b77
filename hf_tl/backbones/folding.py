"""BatchNorm folded into the convolution before it, for a frozen prefix that is run once over the data."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from hf_tl.backbones.freezing import is_frozen


@contextlib.contextmanager
def folded_batch_norms(model: nn.Module, run: Callable[[], Any]) -> Iterator[int]:
    """Fold each frozen BatchNorm into the frozen convolution whose output it alone is given, while the context is open.

    The result differs by rounding only (Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3.2). That nothing
    else reads the convolution's output cannot be seen here: see `folded_where_equal`.

    Args:
        model: in inference mode; its weights are as before when the context is closed.
        run: runs the part in question on some images.

    Yields:
        How many were folded.
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
            norm.__dict__["forward"] = _activation(norm)
        yield len(pairs)
    finally:
        for conv, weight, bias in own:
            conv._parameters["weight"], conv._parameters["bias"] = weight, bias
        for _, norm in pairs:
            norm.__dict__.pop("forward", None)


@contextlib.contextmanager
def folded_where_equal(model: nn.Module, run: Callable[[], Sequence[Tensor]]) -> Iterator[None]:
    """Fold as `folded_batch_norms` while the context is open, unless that changes what `run` gives."""
    expected = run()
    with contextlib.ExitStack() as trial:
        trial.enter_context(folded_batch_norms(model, run))
        if not are_close(run(), expected):
            trial.close()
        yield


def are_close(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether features differ by no more than the rounding of a whole network, each in its own precision."""
    return all(_is_close(a, b) for a, b in zip(found, expected, strict=True))


def _is_close(a: Tensor, b: Tensor) -> bool:
    scale = float(b.float().abs().max())
    return torch.allclose(a.float(), b.float(), rtol=1e-3, atol=(1e-2 if b.dtype == torch.bfloat16 else 1e-4) * scale)


def _activation(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    """What is left of a norm that is folded away: in timm's classes, its activation."""
    if isinstance(norm, BatchNormAct2d):
        return lambda x: norm.act(norm.drop(x))
    return lambda x: x


def _pairs(model: nn.Module, run: Callable[[], Any]) -> list[tuple[Any, Any]]:
    """Find the convolutions and norms that follow each other, each called once."""
    made: dict[int, tuple[nn.Module, Tensor]] = {}
    found: list[tuple[nn.Module, nn.Module]] = []
    calls: Counter[nn.Module] = Counter()

    def note_output(conv: nn.Module, inputs: Any, output: Tensor) -> None:
        made[id(output)] = (conv, output)  # kept, so that no other tensor gets its id
        calls[conv] += 1

    def note_input(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[norm] += 1
        if id(inputs[0]) in made:
            found.append((made[id(inputs[0])][0], norm))

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
    return [(conv, norm) for conv, norm in found if calls[conv] == calls[norm] == 1]
