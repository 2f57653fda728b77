"""Gradient checkpointing of the trained stages: their activations are recomputed in the backward pass.

Frozen stages store no activations, so checkpointing them would save nothing. Each outermost module of a trained stage
(a ViT's block, a ResNet's layer) is one segment (Chen et al. 2016, https://arxiv.org/abs/1604.06174), without reentrant
autograd.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from hf_tl.backbones.stages.modules import outermost_modules, replaced_forwards
from hf_tl.backbones.stages.stage import Stage


@contextmanager
def recomputed_activations(model: nn.Module, stages: Sequence[Stage]) -> Iterator[list[str]]:
    """Recompute the activations of `stages` in backward passes while the context is open.

    BatchNorm counts each batch once: its statistics do not change when a segment is recomputed.

    Args:
        model: Model in training.
        stages: Trained stages. The head is skipped, because it would save nothing.

    Yields:
        The names of the recomputed modules.
    """
    modules = dict(model.named_modules())
    names = [name for stage in stages if stage.name != "head" for name in outermost_modules(stage, modules)]
    with replaced_forwards({modules[name]: functools.partial(_checkpointed, modules[name]) for name in names}):
        yield names


def _checkpointed(module: nn.Module, *arguments: Any, **options: Any) -> Any:
    forward = functools.partial(type(module).forward, module)
    if not module.training:
        return forward(*arguments, **options)
    contexts = functools.partial(_contexts, module)
    return checkpoint(forward, *arguments, use_reentrant=False, context_fn=contexts, **options)


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _kept_statistics(module)


@contextmanager
def _kept_statistics(module: nn.Module) -> Iterator[None]:
    """Normalize by the batch without updating BatchNorm statistics, by setting the momentum to 0."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    counts = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)
