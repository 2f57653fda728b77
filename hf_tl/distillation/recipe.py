"""Weight of a teacher in the phases of a strategy."""

from dataclasses import replace

from hf_tl.errors import ConfigError
from hf_tl.strategy import Strategy

WEIGHT = 0.9
"""Share of the loss to the teacher's predictions: that of the distillation baseline in Tian et al. 2020
(https://arxiv.org/abs/1910.10699), which has a temperature of 4. Beyer et al. 2022 (https://arxiv.org/abs/2106.05237)
use the teacher alone. Their temperatures were selected among 1, 2, 5 and 10: 1 for ImageNet; for their shortest
trainings on small datasets 5 (pets) and 10 (flowers). The default of a phase is that 5."""
FIELD = "distillation_weight"


def with_teacher(strategy: Strategy, *, has_teacher: bool) -> Strategy:
    """Return a strategy whose phases listen to the teacher, unless it sets their weights.

    Args:
        strategy: Strategy.
        has_teacher: Whether there is a teacher.

    Raises:
        ConfigError: There is a weight without a teacher, or a teacher that no phase listens to.

    >>> [phase.distillation_weight for phase in with_teacher(Strategy.finetune(), has_teacher=True).phases]
    [0.9, 0.9]
    """
    phases, preset = strategy.phases, strategy.preset
    is_set = any(phase.distillation_weight for phase in phases)
    if not has_teacher:
        if is_set:
            raise ConfigError("--distillation_weight needs a --teacher: name one, or leave out the weight")
        return strategy
    if all(phase.is_solved for phase in phases):
        raise ConfigError(
            "--teacher needs a head that is trained step by step, and --head_solver lbfgs fits it to the labels alone: "
            "leave out one of the two flags"
        )
    if preset is not None and FIELD in preset.arguments and not is_set:
        raise ConfigError("--distillation_weight 0 ignores the --teacher: leave out one of the two flags")
    if is_set:
        return strategy
    if preset is not None:
        return Strategy.of(preset.name, **{FIELD: WEIGHT, **preset.arguments})
    taught = (phase if phase.is_solved else replace(phase, distillation_weight=WEIGHT) for phase in phases)
    return replace(strategy, phases=tuple(taught))
