"""L2 penalty on the distance of a head from its starting weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hf_tl.backbones.stages.stage import Stage
from hf_tl.backbones.weights.provenance import provenance_of
from hf_tl.errors import ConfigError
from hf_tl.processes.sharding import ShardedAccelerator
from hf_tl.strategy import Phase

if TYPE_CHECKING:
    from accelerate import Accelerator


class HeadPenalty:
    """L2 penalty on the distance of the head of a model from its weights at the start of the training.

    The penalty is that of L2-SP (Li et al. 2018, https://arxiv.org/abs/1802.01483) on the head alone, as CLAP
    (Silva-Rodríguez et al. 2024, https://arxiv.org/abs/2312.12730) and LP++ (Huang et al. 2024,
    https://arxiv.org/abs/2404.02285) keep a few-shot head near its text embeddings. The squared distance of each class
    is divided by the squared norm of its starting weights, so that one strength suits every scale of the logits.
    """

    def __init__(self, model: nn.Module, head: Stage) -> None:
        """Copy the starting weights.

        Args:
            model: Model before training, and before a checkpoint is restored.
            head: Its last stage.
        """
        parameters = dict(model.named_parameters())
        self.start = {
            name: parameters[name].detach().clone().flatten(1)
            for name in head.parameter_names
            if parameters[name].ndim > 1
        }

    def __call__(self, model: nn.Module, strength: float) -> Tensor | float:
        """Return the penalty of the current weights; 0 for a strength of 0."""
        if not strength:
            return 0.0
        parameters = dict(model.named_parameters())
        distances = []
        for name, start in self.start.items():
            current = parameters[name]
            start = self.start[name] = start.to(current.device)
            squares = (current.float().flatten(1) - start).square().sum(1)
            distances.append((squares / start.square().sum(1).clamp(min=torch.finfo(start.dtype).tiny)).sum())
        return strength * torch.stack(distances).sum()


def check_head_penalty(model: nn.Module, phases: Sequence[Phase], accelerator: "Accelerator | None" = None) -> None:
    """Reject a penalty on the distance from a head that means nothing, or that no process holds as a whole.

    Raises:
        ConfigError: The head is random, or its weights are sharded.
    """
    if not any(phase.head_penalty for phase in phases):
        return
    if provenance_of(model).origin.head == "new":
        raise ConfigError(
            "--head_penalty keeps the head near its starting weights, and those of a new head are random: add "
            "--head_init text, start from a model with these classes, or leave out --head_penalty"
        )
    if isinstance(accelerator, ShardedAccelerator):
        raise ConfigError(
            "--head_penalty needs unsharded weights on each process, and they are sharded: train without FSDP, or set "
            "--head_penalty 0"
        )
