"""Parameter groups and schedule of a phase inside the optimizer and the scheduler that Trainer built."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import LambdaLR

from hf_tl.errors import ConfigError
from hf_tl.optimization.optim import build_schedule
from hf_tl.strategy import Phase

if TYPE_CHECKING:
    from torch.optim import Optimizer


class PhaseGroups:
    """Parameter groups of a phase inside an optimizer that was built with other groups.

    Args:
        optimizer: Optimizer over all parameters that any phase trains.
    """

    def __init__(self, optimizer: "Optimizer") -> None:
        self.optimizer = optimizer
        self._own = optimizer.param_groups
        self._known = {id(parameter) for group in self._own for parameter in group["params"]}
        self._phase_groups = self._own
        self._hooks = [
            optimizer.register_state_dict_pre_hook(lambda _: self._show(self._own)),
            optimizer.register_state_dict_post_hook(lambda *_: self._show(self._phase_groups)),
        ]

    def replace(self, groups: list[dict[str, Any]], *, is_new_phase: bool) -> None:
        """Set `groups`; a new phase starts with empty moments.

        Raises:
            ConfigError: The optimizer lacks some of the parameters.
        """
        missing = [group["name"] for group in groups if any(id(p) not in self._known for p in group["params"])]
        if missing:
            raise ConfigError(
                f"Trainer's optimizer lacks parameters of {', '.join(missing)}. Leave Trainer's `optimizers` at their "
                "default, and let `model_init` return a model without frozen parameters"
            )
        if is_new_phase:
            self.optimizer.state.clear()
        self.optimizer.param_groups = []
        for group in groups:
            self.optimizer.add_param_group(group)
        self._phase_groups = self.optimizer.param_groups

    def give_back(self) -> None:
        """Restore the groups with which the optimizer was built."""
        for hook in self._hooks:
            hook.remove()
        self._show(self._own)

    def _show(self, groups: list[dict[str, Any]]) -> None:
        self.optimizer.param_groups = groups


def set_schedule(scheduler: LambdaLR, optimizer: "Optimizer", phase: Phase, start: int, end: int) -> None:
    """Let a scheduler in use follow `phase` from its step `start` to `end`, immediately and in later steps.

    Args:
        scheduler: Scheduler of `optimizer`, whatever groups it was created with.
        optimizer: Optimizer with the peak learning rates of the phase in its groups.
        phase: Phase with the warm-up and decay.
        start: Scheduler step at which the phase begins.
        end: Scheduler step at which the next phase begins.
    """
    schedule = build_schedule(optimizer, phase, end - start)
    # functions, because LambdaLR writes other callables into a checkpoint
    scheduler.lr_lambdas = [_shifted(factor, start) for factor in schedule.lr_lambdas]
    scheduler.base_lrs = schedule.base_lrs
    rates = [
        rate * factor(scheduler.last_epoch)
        for rate, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates


def _shifted(factor: Callable[[int], float], start: int) -> Callable[[int], float]:
    return lambda step: factor(step - start)
