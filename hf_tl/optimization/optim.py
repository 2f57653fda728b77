"""AdamW with a learning rate per stage, and the schedule of a phase."""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from hf_tl.backbones.stages.stage import Stage
from hf_tl.errors import ConfigError, StageError, name_some
from hf_tl.strategy import Phase

# https://docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html: one kernel for all parameters of a group
_FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})


def parameter_groups(model: nn.Module, stages: Sequence[Stage], phase: Phase) -> list[dict[str, Any]]:
    """Group the trainable parameters of `model` by stage and by weight decay, the head first.

    The head learns at `phase.learning_rate`, the last trained backbone stage at `phase.backbone_learning_rate`, and
    each earlier trained one at `phase.layer_decay` times the learning rate of the stage after it (layer-wise decay,
    ULMFiT, https://arxiv.org/abs/1801.06146; BEiT, https://arxiv.org/abs/2106.08254). Parameters of at most one
    dimension (norms, biases) and those in the architecture's own `no_weight_decay()` are not decayed, nor is a head
    that `phase.head_penalty` draws to its starting weights. Frozen parameters are in no group, so they have no
    optimizer state.

    Args:
        model: Classifier, already frozen for `phase`.
        stages: Result of `list_stages(model)`.
        phase: Learning rates and weight decay.

    Returns:
        Parameter groups for a torch optimizer, each with a `name`: that of the stage, and `/decay` or `/no_decay`.

    Raises:
        StageError: No parameter is trainable, or a trainable parameter belongs to no stage.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    rates = stage_rates(stages, phase, trainable)
    undecayed = no_decay_names(model) | {name for name, parameter in trainable.items() if parameter.ndim <= 1}
    groups = []
    for stage in reversed(stages):
        names = [name for name in stage.parameter_names if name in trainable]
        undecayed |= set(names) if phase.head_penalty and stage is stages[-1] else set()
        for suffix, weight_decay in (("decay", phase.weight_decay), ("no_decay", 0.0)):
            if members := [trainable[name] for name in names if (name in undecayed) == (suffix == "no_decay")]:
                group = {"name": f"{stage.name}/{suffix}", "lr": rates[stage.name], "weight_decay": weight_decay}
                groups.append({"params": members, **group})
    return groups


def stage_rates(stages: Sequence[Stage], phase: Phase, trainable: Iterable[str]) -> dict[str, float]:
    """Return the peak learning rate of each stage with a trainable parameter.

    Args:
        stages: Stages in forward order, the head last.
        phase: Learning rates.
        trainable: Names of the trainable parameters.

    Raises:
        StageError: `trainable` is empty, or a name in it belongs to no stage.
    """
    names = set(trainable)
    if not names:
        raise StageError("expected trainable parameters, found none: freeze the model for the phase first")
    if uncovered := sorted(names.difference(*(stage.parameter_names for stage in stages))):
        raise StageError(f"these trainable parameters belong to no stage: {name_some(uncovered)}")
    rates = {}
    rate = phase.learning_rate if phase.backbone_learning_rate is None else phase.backbone_learning_rate
    *backbone, head = stages
    if not names.isdisjoint(head.parameter_names):
        rates[head.name] = phase.learning_rate
    for stage in reversed(backbone):
        if not names.isdisjoint(stage.parameter_names):
            rates[stage.name] = rate
            rate *= phase.layer_decay
    return rates


def no_decay_names(model: nn.Module) -> set[str]:
    """Return the parameters that the architecture exempts from weight decay, such as position embeddings.

    timm models define them by a method `no_weight_decay()`, with names relative to the model.
    """
    names = set()
    for prefix, module in model.named_modules():
        if callable(own_names := getattr(module, "no_weight_decay", None)):
            names |= {f"{prefix}.{name}" if prefix else name for name in own_names()}
    return names


def build_optimizer(model: nn.Module, stages: Sequence[Stage], phase: Phase) -> torch.optim.AdamW:
    """Build AdamW (https://arxiv.org/abs/1711.05101) over the trainable parameters; see `parameter_groups`."""
    groups = parameter_groups(model, stages, phase)
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return torch.optim.AdamW(groups, fused=devices <= _FUSED_DEVICES)


def warmup_steps(phase: Phase, total_steps: int) -> int:
    """Return the number of warm-up steps, rounded down so that a very short phase is not all warm-up."""
    return int(phase.warmup_ratio * total_steps)


def build_schedule(optimizer: torch.optim.Optimizer, phase: Phase, total_steps: int) -> LambdaLR:
    """Build the schedule of a phase: linear warm-up from zero, then cosine decay to zero.

    Args:
        optimizer: Optimizer with the peak learning rates in its groups.
        phase: Phase with the fraction of warm-up steps.
        total_steps: Optimizer steps of the phase.
    """
    return LambdaLR(optimizer, partial(_share_of_peak, warmup=warmup_steps(phase, total_steps), total=total_steps))


def _share_of_peak(step: int, *, warmup: int, total: int) -> float:
    """Return the learning rate of a step as a share of the peak, as `get_cosine_schedule_with_warmup` sets it.

    That function of transformers is in a module that imports peft and the Trainer's utilities.
    """
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))


def phase_ends(phases: Sequence[Phase], steps_per_epoch: float) -> list[int]:
    """Return the optimizer step at which each phase ends, counted over the whole strategy.

    Args:
        phases: Phases in order, each with steps or epochs; fractions of epochs are allowed.
        steps_per_epoch: Optimizer steps in one pass over the training data.

    Raises:
        ConfigError: A phase is shorter than a step.

    >>> phase_ends([Phase(1, 0.5, 1e-3), Phase(2, 1, 1e-3)], steps_per_epoch=5)
    [3, 8]
    >>> phase_ends([Phase(1, 0.5, 1e-3), Phase(2, steps=7), Phase(2, 1, 1e-3)], steps_per_epoch=5)
    [3, 10, 15]
    """
    epochs, steps = accumulate(phase.epochs or 0 for phase in phases), accumulate(phase.steps or 0 for phase in phases)
    # rounded: 0.1 + 0.2 epochs of ten steps are three steps, not four
    ends = [math.ceil(round(passes * steps_per_epoch, 6)) + more for passes, more in zip(epochs, steps, strict=True)]
    for index, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if start == end:
            raise ConfigError(
                f"phase {index + 1} of {len(ends)} has {phases[index].length} of {steps_per_epoch:.3g} steps, "
                "less than one step of its own: set more --num_train_epochs or use smaller batches"
            )
    return ends
