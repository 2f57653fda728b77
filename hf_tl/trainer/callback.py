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

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers.utils import logging

from hf_tl.backbones.libraries.transformers import random_weights
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.backbones.weights.provenance import set_provenance
from hf_tl.checkpoints.checkpoint import writing_checkpoint
from hf_tl.checkpoints.state import TrainingLog
from hf_tl.errors import ConfigError
from hf_tl.evaluation.metrics import ProblemType
from hf_tl.optimization.averaging import WeightAverage
from hf_tl.optimization.optim import parameter_groups, phase_ends
from hf_tl.record import Origin
from hf_tl.strategy import Strategy
from hf_tl.trainer.adapted import let_train, remove_adapters, save_exact, settle
from hf_tl.trainer.arguments import adopt, check_arguments, check_strategy, set_arguments
from hf_tl.trainer.groups import PhaseGroups, set_schedule
from hf_tl.trainer.images import PhaseSampler
from hf_tl.trainer.progress import AVERAGE_FILE, Progress, name_strategy
from hf_tl.trainer.safeguards import PREFIX, RESUME, Safeguards
from hf_tl.training.phase_run import Frozen, describe_phase

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.utils.data import DataLoader
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

logger = logging.get_logger(__name__)


class StrategyCallback(Safeguards):
    """Carry out the phases of a strategy under transformers' `Trainer`.

    `StrategyTrainer` adds what a callback alone cannot do: losses, sampling and augmentation by phase, early stopping,
    and the record and card of the run. This callback is for a Trainer of one's own:

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

    Settings of `TrainingArguments` that a phase also has are adopted where the strategy leaves them to its recipe, and
    otherwise replaced with a warning (`hf_tl.trainer.arguments`). The optimizer and everything else stay as in
    `TrainingArguments`.

    Frozen stages stay in inference mode although Trainer calls `model.train()` at each step. `remove_unused_columns` is
    turned off, since Trainer would drop the image column that the dataset's transform reads. A resumed run continues in
    the phase in which the checkpoint was written. Each checkpoint ends with a manifest of its files: a checkpoint
    without one is incomplete, and `hf_tl.newest_checkpoint` never returns it. `save_total_limit` removes old
    checkpoints only after the new one is complete. A loss or gradient that is not finite ends the run.

    Augmentation belongs to the dataset's transform, the same for the whole run. Trainer does not restore the random
    numbers of transforms on a resume; `hf_tl.TrainingViews` as `train_dataset` makes this unnecessary.

    Supports one process and DistributedDataParallel; not FSDP or DeepSpeed, which keep parameters in layouts of their
    own.

    Raises:
        ConfigError: At the start, if the training arguments contradict the strategy.
    """

    images: int | None = None
    """Number of training images, for the recipe of a strategy; `StrategyTrainer` sets it."""
    steps_per_epoch: int | None = None
    """Optimizer steps in an epoch, for phases that count steps; `StrategyTrainer` sets it."""
    carries_out: bool = False
    """Whether a `StrategyTrainer` carries out what a callback alone cannot."""
    resumed_from: Path | None = None
    """Checkpoint that the run resumes from; `StrategyTrainer` sets it."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.progress: Progress | None = None
        self.average: WeightAverage | None = None
        self._groups: PhaseGroups | None = None
        self.sampler: PhaseSampler | None = None
        """Order of the training images; `StrategyTrainer` sets it."""
        self._frozen: Frozen | None = None
        self._losses: list[Tensor] = []
        self._set: dict[str, Any] = {}
        self.adapters: dict[str, Tensor] = {}
        """Tensors of the adapters at the end of the run."""

    def on_init_end(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        model: "PreTrainedModel",
        **kwargs: Any,
    ) -> None:
        """Adapt the arguments to the strategy, and let all parameters that any phase trains require a gradient."""
        self.prepare(args, model)

    def prepare(self, args: "TrainingArguments", model: "PreTrainedModel") -> None:
        """Adapt arguments and strategy to each other, draw random weights, and let all parameters of its phases train.

        Raises:
            ConfigError: The training arguments contradict the strategy.
        """
        requested, self.strategy = self.strategy, adopt(args, self.strategy, self.images, model, self._set)
        check_strategy(args, self.strategy, carries_out=self.carries_out, is_recipe=requested.preset is not None)
        check_arguments(args, model, self.strategy, self._set, carries_out=self.carries_out)
        self._set = set_arguments(args, self.strategy, self.steps_per_epoch, self._set, carries_out=self.carries_out)
        name_strategy(model, self.strategy.done(1), has_augmentation=self.carries_out)
        if self.strategy.phases[0].from_random_weights:
            model.load_state_dict(random_weights(type(model), model.config, args.seed))
            set_provenance(model, Origin.random(args.seed))
        let_train(model, self.strategy.phases)

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
        if len(self.strategy.phases) > 1 and not self.carries_out and "EarlyStoppingCallback" in _names(state):
            raise ConfigError(
                "EarlyStoppingCallback would end all phases together with the one that no longer improves. Train with "
                "hf_tl.StrategyTrainer, in which it ends its phase, or leave it out"
            )
        steps_per_epoch = math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
        ends = phase_ends(self.strategy.phases, steps_per_epoch)
        if state.max_steps != ends[-1]:
            raise ConfigError(
                f"expected a run of {ends[-1]} steps, as the phases have, found {state.max_steps}. Leave "
                "num_train_epochs and max_steps as the callback set them, and resume with the batch size and the "
                "strategy of the checkpoint"
            )
        folder = self.resumed_from
        resumed = None if folder is None else Progress.load(folder)
        self.progress = resumed or Progress(ends, steps_per_epoch)
        if self._groups is None:
            # accelerate wraps the optimizer and forwards its groups, but not its hooks
            self._groups = PhaseGroups(getattr(optimizer, "optimizer", optimizer))
        self._enter(state.global_step, model, lr_scheduler)
        if self.average is not None and folder is not None and (folder / AVERAGE_FILE).is_file():
            self.average.load_state_dict(load_file(folder / AVERAGE_FILE))
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
        assert self.progress is not None, "training has begun"
        if self.progress.phase_at(state.global_step) != self.progress.phase:
            self._enter(state.global_step, model, lr_scheduler)

    def on_step_end(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        model: "PreTrainedModel",
        **kwargs: Any,
    ) -> None:
        """Update the weight average, and record the phase after its last step."""
        progress = self.progress
        assert progress is not None, "training has begun"
        if self.average is not None:
            self.average.update(state.global_step - progress.first_step(progress.phase))
        if state.global_step == progress.ends[progress.phase]:
            self.leave(state.global_step, model)
        if state.global_step == progress.ends[-1]:  # before `max_steps` if a phase ended early
            control.should_training_stop = True

    def end_phase(self, state: "TrainerState", control: "TrainerControl", model: "PreTrainedModel") -> None:
        """End the current phase early; the run ends if it is the last one, and otherwise enters the next."""
        progress = self.progress
        assert progress is not None, "training has begun"
        is_last = progress.phase == len(progress.ends) - 1
        if state.global_step < progress.ends[progress.phase]:
            progress.end_phase(state.global_step)
            self.leave(state.global_step, model)
        control.should_training_stop = is_last

    def log_so_far(self, step: int, model: "PreTrainedModel") -> TrainingLog:
        """Return the log with the current phase as it is after `step` steps.

        Raises:
            TrainingError: A frozen tensor changed.
        """
        progress, frozen = self.progress, self._frozen
        if progress is None:
            return TrainingLog()
        log, index = progress.log, progress.phase
        steps = step - progress.first_step(index)
        if frozen is None or not steps:
            return log
        record = describe_phase(
            model, list_stages(model), self.strategy.phases[index], frozen, index + 1, steps,
            steps / progress.steps_per_epoch, progress.seconds,
        )  # fmt: skip
        return dataclasses.replace(log, phases=[*log.phases, record], seconds=log.seconds + progress.seconds)

    def note_loss(self, loss: Tensor, rows: Tensor | None) -> None:
        """Add the loss of a batch, which `StrategyTrainer` computes, to the log and to the check of finite losses."""
        self._losses.append(loss)
        self.watch(loss, rows)

    def note_evaluation(
        self, metrics: Mapping[str, float], rate: float, state: "TrainerState", problem: ProblemType
    ) -> bool:
        """Add an evaluation to the log; return whether the patience of the phase is over.

        Args:
            metrics: Metrics that Trainer returned, with its prefix.
            rate: Learning rate of the head.
            state: State of the trainer.
            problem: Kind of labels, which names the metric.
        """
        if self.progress is None or not self._losses:
            return False  # before the first step
        loss, self._losses = float(torch.stack(self._losses).mean()), []
        if not self.progress.note_evaluation(metrics, loss, rate, state, problem):
            return False
        patience = self.strategy.phases[self.progress.phase].patience
        return patience is not None and self.progress.evaluations_without_gain >= patience

    def on_epoch_begin(self, args: "TrainingArguments", state: "TrainerState", *rest: Any, **kwargs: Any) -> None:
        """Set the epoch of the order and of the views."""
        if self.sampler is not None:
            self.sampler.set_epoch(math.floor(state.epoch or 0))
        super().on_epoch_begin(args, state, *rest, **kwargs)

    def on_save(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Add the progress of the phases to the checkpoint, and complete it."""
        folder = Path(str(args.output_dir), f"{PREFIX}{state.global_step}")
        if args.should_save and folder.is_dir() and self.progress is not None:
            with writing_checkpoint(folder, RESUME):
                self.progress.save(folder)
                if self.average is not None:
                    save_file(self.average.state_dict(), folder / AVERAGE_FILE)
                save_exact(folder, kwargs["model"], self.strategy.phases)
        super().on_save(args, state, control, **kwargs)

    def on_train_end(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        model: "PreTrainedModel",
        **kwargs: Any,
    ) -> None:
        """Record a phase that ended early, and restore the optimizer that Trainer built."""
        if self._groups is None:
            return
        if self._frozen is not None:
            self.leave(state.global_step, model)
        self.adapters = remove_adapters(model)
        if self.progress is not None:
            is_best = args.load_best_model_at_end and state.best_model_checkpoint is not None
            self.progress.note_kept(state.best_global_step if is_best else state.global_step)
        self._groups.give_back()
        self._groups = None
        self.release(args)

    def _enter(self, step: int, model: "PreTrainedModel", scheduler: LambdaLR) -> None:
        """Apply freezing, groups and schedule of the phase that contains `step`."""
        progress = self.progress
        assert progress is not None
        assert self._groups is not None
        index = progress.phase_at(step)
        is_resumed = progress.phase == index
        if not is_resumed:
            progress.begin(index)
            progress.frozen_digest = None
        phase, start, end = self.strategy.phases[index], progress.first_step(index), progress.ends[index]
        self._frozen = Frozen.of(model, phase, progress.frozen_digest)
        progress.frozen_digest = self._frozen.digest
        stages = list_stages(model)
        self._groups.replace(parameter_groups(model, stages, phase), is_new_phase=step == start)
        set_schedule(scheduler, self._groups.optimizer, phase, start, end)
        self.average = None if phase.ema_decay is None else WeightAverage(model, phase.ema_decay)
        name_strategy(model, self.strategy.done(index + 1), has_augmentation=self.carries_out)
        logger.info(f"Phase {index + 1} of {len(progress.ends)}, steps {start} to {end}: {phase.phrase}")

    def leave(self, step: int, model: "PreTrainedModel") -> None:
        """Give the model its averaged weights, and record the phase."""
        progress, frozen = self.progress, self._frozen
        assert progress is not None
        if frozen is None or step == progress.first_step(progress.phase):
            return  # recorded already, or not begun
        if self.average is not None:
            self.average.apply()
            self.average = None
        progress.log = self.log_so_far(step, model)
        self._frozen = None
        if self.strategy.phases[progress.phase].is_adapted and progress.phase < len(progress.ends) - 1:
            settle(model)


def _names(state: "TrainerState") -> set[str]:
    return set(state.stateful_callbacks or ())
