"""Strategies under transformers' `Trainer`, as a callback.

Trainer builds one optimizer before the first event of a run, from the parameters that require a gradient at that
moment. On a resume it loads the checkpoint into it before any callback runs. So the callback:

- lets all parameters that any phase trains require a gradient until the run begins, so that Trainer's optimizer
  contains them all;
- replaces Trainer's own groups by those of the current phase, in the same optimizer, and puts the schedule of the phase
  into the same scheduler;
- restores Trainer's own groups while a checkpoint is written, so that every checkpoint of the run has the layout that a
  new Trainer expects. Optimizers keep their state by parameter: moving one between groups loses nothing.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import LambdaLR
from transformers.utils import logging

from hf_tl.backbones.libraries.transformers import random_weights
from hf_tl.backbones.load import SCHEMA_VERSION
from hf_tl.backbones.stages.freezing import freeze
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.backbones.weights.provenance import set_provenance
from hf_tl.errors import ConfigError
from hf_tl.evaluation.metrics import MULTI_LABEL, problem_type_of
from hf_tl.optimization.optim import build_schedule, parameter_groups, phase_ends
from hf_tl.record import Origin
from hf_tl.strategy import Phase, Strategy
from hf_tl.trainer.safeguards import Safeguards

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.utils.data import DataLoader
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

logger = logging.get_logger(__name__)

_OF_OUR_LOOP = (
    "steps", "patience", "mixup", "cutmix", "ema_decay", "class_weights", "balanced_sampling", "solver",
)  # fmt: skip
"""Fields of a phase that only the Accelerate loop supports."""


class StrategyCallback(Safeguards):
    """Carry out the phases of a strategy under transformers' `Trainer`.

    >>> import hf_tl
    >>> from transformers import Trainer, TrainingArguments
    >>> data, strategy = hf_tl.load_data("photos"), hf_tl.Strategy.transfer(epochs=1)
    >>> model, transforms = hf_tl.load_backbone("backbone", data.labels, strategy)
    >>> trainer = Trainer(
    ...     model,
    ...     TrainingArguments("trainer", report_to="none", disable_tqdm=True),
    ...     train_dataset=data.splits["train"].with_transform(transforms.train),
    ...     data_collator=hf_tl.collate,
    ...     callbacks=[hf_tl.StrategyCallback(strategy)],
    ... )
    >>> trainer.args.num_train_epochs
    1

    The phases set the trainable stages, learning rates, weight decay, warm-up and number of epochs. The corresponding
    `TrainingArguments` have no effect (`num_train_epochs` is set to the sum over the phases, with a warning if it
    differed). The optimizer and everything else stay as in `TrainingArguments`.

    Frozen stages stay in inference mode although Trainer calls `model.train()` at each step. `remove_unused_columns` is
    turned off, since Trainer would drop the image column that the dataset's transform reads. A resumed run continues in
    the phase of its checkpoint. Checkpoints get a manifest of hashes, and old ones are removed only when the new one is
    complete: resume from `hf_tl.newest_checkpoint(args.output_dir)`. A loss or gradient that is not finite ends the run
    before it reaches the weights.

    The augmentation is that of the dataset's transform, the same for the whole run. Trainer does not restore the random
    numbers of transforms on a resume; `hf_tl.TrainingViews` as `train_dataset` makes this unnecessary. Features of the
    Accelerate loop alone (mixup and CutMix, weight averaging, class weights and others) are rejected.

    Supports one process and DistributedDataParallel; not FSDP or DeepSpeed, which keep parameters in layouts of their
    own.

    Raises:
        ConfigError: At the start, if the training arguments contradict the strategy.
    """

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self._ends: list[int] = []
        self._phase = -1
        self._groups: PhaseGroups | None = None

    def on_init_end(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        model: "PreTrainedModel",
        **kwargs: Any,
    ) -> None:
        """Adapt the arguments to the strategy, and let all parameters that any phase trains require a gradient."""
        _check_arguments(args, self.strategy)
        _check_labels(model, args)
        epochs = round(sum(phase.epochs or 0 for phase in self.strategy.phases), 6)
        if args.num_train_epochs not in (epochs, type(args).num_train_epochs):
            logger.warning(
                f"num_train_epochs={args.num_train_epochs:g} becomes {epochs:g}, the sum of the epochs of all phases "
                f"of the strategy {self.strategy.name!r}. Change the phases to train for longer or shorter."
            )
        args.num_train_epochs = epochs
        args.remove_unused_columns = False
        record = getattr(model.config, "hf_tl", None) or {"schema_version": SCHEMA_VERSION}
        model.config.hf_tl = {**record, "strategy": self.strategy.to_record()}
        if self.strategy.phases[0].from_random_weights:
            model.load_state_dict(random_weights(type(model), model.config, args.seed))
            set_provenance(model, Origin.random(args.seed))
        trained: set[str] = set()
        for phase in self.strategy.phases:
            freeze(model, phase)
            trained |= {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)

    def on_train_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        model: "PreTrainedModel",
        optimizer: "Optimizer",
        lr_scheduler: Any,
        train_dataloader: "DataLoader",
        **kwargs: Any,
    ) -> None:
        """Enter the first phase, or the phase in which the checkpoint was written."""
        if not isinstance(lr_scheduler, LambdaLR):
            raise ConfigError(
                "expected Trainer's default schedule, which the phases replace by their own, found "
                f"{type(lr_scheduler).__name__}. Leave lr_scheduler_type and Trainer's `optimizers` at their defaults"
            )
        steps_per_epoch = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
        self._ends = phase_ends(self.strategy.phases, steps_per_epoch)
        if state.max_steps != self._ends[-1]:
            raise ConfigError(
                f"expected a run of {self._ends[-1]} steps, as the phases have, found {state.max_steps}. Leave "
                "num_train_epochs and max_steps as the callback set them, and resume with the batch size and the "
                "strategy of the checkpoint"
            )
        if self._groups is None:
            # accelerate wraps the optimizer and forwards its groups, but not its hooks
            self._groups = PhaseGroups(getattr(optimizer, "optimizer", optimizer))
        self._enter(state.global_step, model, lr_scheduler)
        self.guard(args, model, train_dataloader)

    def on_step_begin(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        model: "PreTrainedModel",
        lr_scheduler: LambdaLR,
        **kwargs: Any,
    ) -> None:
        """Enter the next phase at its first step."""
        if self._phase_at(state.global_step) != self._phase:
            self._enter(state.global_step, model, lr_scheduler)

    def on_train_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Restore the optimizer that Trainer built, so that another `train()` can begin or resume."""
        if self._groups is not None:
            self._groups.give_back()
            self._groups = None
            self.release(args)

    def _phase_at(self, step: int) -> int:
        return min(bisect_right(self._ends, step), len(self._ends) - 1)

    def _enter(self, step: int, model: "PreTrainedModel", scheduler: LambdaLR) -> None:
        """Apply freezing, groups and schedule of the phase that contains `step`."""
        assert self._groups is not None
        self._phase = self._phase_at(step)
        phase = self.strategy.phases[self._phase]
        start, end = [0, *self._ends][self._phase : self._phase + 2]
        freeze(model, phase)
        stages = list_stages(model)
        self._groups.replace(parameter_groups(model, stages, phase), is_new_phase=step == start)
        set_schedule(scheduler, self._groups.optimizer, phase, start, end)
        logger.info(f"Phase {self._phase + 1} of {len(self._ends)}, steps {start} to {end}: {phase}")


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


def _check_labels(model: "PreTrainedModel", args: "TrainingArguments") -> None:
    """Reject label smoothing of multi-label labels, which Trainer would skip with a warning."""
    if problem_type_of(model) is MULTI_LABEL and args.label_smoothing_factor:
        raise ConfigError(
            "Trainer smooths single-label classes only, and the model is multi-label. Set the phases' label_smoothing "
            "and label_smoothing_factor to 0, or train with hf_tl.train (Accelerate)"
        )


def _check_arguments(args: "TrainingArguments", strategy: Strategy) -> None:
    """Reject arguments that would silently make the run differ from the strategy."""
    settings = {
        "max_steps": args.max_steps > 0,
        "fsdp": bool(args.fsdp),
        "deepspeed": bool(args.deepspeed),
        "ddp_find_unused_parameters=False": args.ddp_find_unused_parameters is False,
    }
    if refused := [name for name, is_set in settings.items() if is_set]:
        raise ConfigError(
            f"StrategyCallback does not support {', '.join(refused)} in TrainingArguments: the phases set the number "
            "of steps, and freeze and unfreeze parameters that Trainer wraps only once. Remove the setting, or train "
            "with hf_tl.train (Accelerate)"
        )
    if strategy.is_climb:
        raise ConfigError(
            "StrategyCallback does not support the strategy auto: Trainer cannot undo a phase. Choose another "
            "strategy, or train with hf_tl.train (Accelerate)"
        )
    if any(phase.from_random_weights for phase in strategy.phases[1:]):
        raise ConfigError(
            "StrategyCallback draws random weights before the first phase only, found from_random_weights in a later "
            "phase. Keep that phase alone, or train with hf_tl.train (Accelerate)"
        )
    if strategy.refit:
        raise ConfigError(
            "StrategyCallback does not support retraining on the validation images (refit=True). Pass "
            "dataclasses.replace(strategy, refit=False), or train with hf_tl.train (Accelerate)"
        )
    defaults = {field.name: field.default for field in fields(Phase)}
    changed = [name for name in _OF_OUR_LOOP if any(getattr(p, name) != defaults[name] for p in strategy.phases)]
    if changed:
        raise ConfigError(
            f"StrategyCallback does not support {', '.join(changed)} in phases: Trainer controls the loss, the "
            "sampler, the weights and the evaluation, and counts epochs. Remove the field, or train with hf_tl.train "
            "(Accelerate)"
        )
    smoothing = {phase.label_smoothing for phase in strategy.phases}
    if smoothing != {args.label_smoothing_factor}:
        raise ConfigError(
            "expected the same label smoothing in all phases and in TrainingArguments, found label_smoothing "
            f"{sorted(smoothing)} in the phases and label_smoothing_factor={args.label_smoothing_factor:g}. Set both "
            "to the same value"
        )
    if len(augmentations := sorted({phase.augmentation for phase in strategy.phases})) > 1:
        raise ConfigError(
            f"expected one augmentation for all phases under Trainer, found {', '.join(augmentations)}: its dataset "
            "has one transform. Choose one augmentation, or train with hf_tl.train (Accelerate)"
        )
