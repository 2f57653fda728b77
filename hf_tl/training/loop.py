"""The Accelerate loop: trains the phases of a strategy in order."""

import contextlib
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_tl.backbones.libraries.transformers import random_weights
from hf_tl.backbones.stages.freezing import fix_unused, freeze
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.checkpoints.checkpoint import FOLDER, REFIT_FOLDER
from hf_tl.checkpoints.saving import Checkpoints, gather_random_states, identity_of, names_trained_by
from hf_tl.checkpoints.state import Contents, Outcome, TrainingLog, TrainingState, set_random_state
from hf_tl.config import TrainingConfig
from hf_tl.evaluation.measure import Predictions
from hf_tl.evaluation.metrics import problem_type_of
from hf_tl.features.features import Features
from hf_tl.features.inputs import PhaseInputs
from hf_tl.lora.adapter import Adapter, adapter_of
from hf_tl.optimization.head_penalty import HeadPenalty
from hf_tl.optimization.optim import phase_ends
from hf_tl.reporting.console import progress_bar, say
from hf_tl.reporting.numbers import duration, first_to_last
from hf_tl.strategy import Phase, Strategy
from hf_tl.training.escalation import Climb, climb_of, describe_rung
from hf_tl.training.evaluation import Evaluator
from hf_tl.training.held_model import HeldModel
from hf_tl.training.interpolation import StartingPoint
from hf_tl.training.phase_data import PhaseData, TrainingImages
from hf_tl.training.phase_run import Frozen, PhaseRun, Span, check_recipes
from hf_tl.training.selection import count_without_gain, judge_zero_shot

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedModel


class Training:
    """Training of a model with a strategy; `run` carries it out."""

    def __init__(
        self,
        accelerator: "Accelerator",
        model: "PreTrainedModel",
        strategy: Strategy,
        images: TrainingImages,
        config: TrainingConfig,
        *,
        identity: Mapping[str, Any] | None = None,
        rung_seconds: Sequence[float] = (),
        hold: Callable[[Mapping[str, Tensor], "Training"], None] | None = None,
    ) -> None:
        """Prepare the training.

        Args:
            accelerator: Accelerator that sets devices and precision.
            model: Model to train in place. It ends with the weights chosen by model selection (`selection`).
            strategy: Strategy; its phases are trained in order.
            images: Training and validation images, and their transforms.
            config: Batch sizes, seed and other settings. Checkpoints need an `output_dir`.
            identity: What else a checkpoint and the run that resumes from it must share, such as the origin of the
                weights and the preprocessing.
            rung_seconds: Expected seconds of each stage depth of an escalation, for `time_budget`.
            hold: Function called on all processes before each step that may be the last, with the best trained tensors
                so far. It saves a model in case the run is interrupted after that step.

        Raises:
            StageError: A phase names stages that the model does not have.
            ConfigError: A phase cannot be trained on these images with this model and batch size.
        """
        self.accelerator = accelerator
        self.model = model.to(memory_format=torch.channels_last)
        """The model itself; `run` may train a sharded copy."""
        self._held: HeldModel
        self._kind = type(model)
        self.strategy, self.images, self.config = strategy, images, config
        self.stages = list_stages(model)
        self.problem = problem_type_of(model)
        self.state = TrainingState()
        self.images_per_step = (
            config.per_device_train_batch_size * accelerator.num_processes * config.gradient_accumulation_steps
        )
        self.phase_ends = phase_ends(strategy.phases, len(images.train) / self.images_per_step)
        self.ever_trained = names_trained_by(strategy.phases, self.stages)
        features = Features(accelerator, model, config, images.orders)
        self.data = PhaseData.of(features, images)
        check_recipes(accelerator, self.model, self.stages[-1], strategy.phases, config)
        self.data.require(strategy.phases)
        self._evaluator = Evaluator(accelerator, self.data, config, self.problem)
        shared = identity_of(accelerator, strategy, config, images.fingerprint, len(images.train))
        folder = FOLDER if images.validation is not None else REFIT_FOLDER
        self.checkpoints = Checkpoints(accelerator, config, {**shared, **(identity or {})}, folder)
        self.identity, self.hold = identity, hold
        self._best_weights: dict[str, Tensor] = {}
        self._start = 0.0
        """Start time, as if the training had never been interrupted."""
        self._restored: Contents | None = None
        self._climb = climb_of(strategy, config, rung_seconds)
        self._head_penalty = HeadPenalty(self.model, self.stages[-1])
        self.start = StartingPoint()  # weights before fine-tuning, for an interpolation

    def restore(self, source: str) -> None:
        """Restore a checkpoint; the next `run` continues from there.

        Args:
            source: Folder of a checkpoint, or `auto` for the newest complete one, if any.

        Raises:
            CheckpointError: The checkpoint is incomplete or from another run, or the frozen weights have changed since.
        """
        self._restored = self.checkpoints.read(source)
        if self._restored is None:
            return
        self.state, self._best_weights = self._restored.state, dict(self._restored.best)
        self.start.weights = dict(self._restored.start)
        if self._climb is not None:
            self._climb.weights = dict(self._restored.kept)
        if any(phase.from_random_weights for phase in self.begun):
            self.model.load_state_dict(self._random_weights())
        self.model.load_state_dict(self._restored.weights, strict=False)

    def run(self) -> TrainingLog:
        """Train all phases and return the log; the model then holds the selected weights.

        Raises:
            TrainingError: A loss or a gradient is not finite, or a frozen tensor changed.
            CheckpointError: A checkpoint could not be written.
            SystemExit: The process received SIGTERM; a checkpoint was written.
        """
        self._start = time.perf_counter() - self.state.log.seconds
        ends, is_main = self.phase_ends, self.accelerator.is_main_process
        images = self.data.two_images(self.strategy.phases[0]).to(self.model.device)
        fix_unused(self.model, images)
        self._held = HeldModel(self.accelerator, self.model, images, self.ever_trained)
        with (
            self.checkpoints.sigterm.recorded(),
            progress_bar(total=ends[-1], initial=self.state.step, unit="step", disable=not is_main) as progress,
        ):
            for index, (phase, end) in enumerate(zip(self.strategy.phases, ends, strict=True)):
                if self.state.step >= end:
                    continue
                if self._climb is not None and not self._climb.continues(self.accelerator, self.state, index):
                    break
                self._run_phase(Span(index, phase, ends[index - 1] if index else 0, end), progress)
                self._count_seconds()
        self._held.release()
        self.model.load_state_dict(self._best_weights, strict=False)
        # the last phase may have been rejected, or its weights not selected
        freeze(self.model, self.state.log.kept_phases[-1].recipe)
        return self.state.log

    def start_from(self, zero_shot: Mapping[str, Any], right: np.ndarray) -> None:
        """Let the model before its first step compete with later evaluations; see `judge_zero_shot`."""
        judge_zero_shot(self.state, zero_shot, right, self.problem)
        state = self.model.state_dict()
        self._best_weights = {name: state[name].to("cpu", copy=True) for name in self.ever_trained}

    @property
    def outcome(self) -> Outcome:
        """Outcome so far, for the record."""
        return Outcome(self.strategy, self.state.log, len(self.data.train_images))

    @property
    def adapter(self) -> Adapter | None:
        """Adapter of the selected weights, if they are the starting weights with one."""
        return adapter_of(self.carried_out.phases, self.stages, self._best_weights)

    @property
    def carried_out(self) -> Strategy:
        """Strategy up to the phase of the kept weights."""
        return self.outcome.carried_out

    def predictions(self, images: "Dataset", split: str) -> Predictions:
        """Predict the images of a split with the transforms of the last phase."""
        return self.data.predictions(self.model, self.carried_out.phases[-1], images, split)

    def write_final_checkpoint(self) -> None:
        """Write a final checkpoint, from which the evaluation can resume, if checkpoints are enabled."""
        if self.checkpoints.are_wanted:
            self.checkpoints.write(self._contents(None))

    def _run_phase(self, span: Span, progress: tqdm) -> None:
        """Freeze, train to the end of the span with a new optimizer, and verify that frozen tensors did not change."""
        start, before = time.perf_counter(), self.state.phase_seconds
        run = self._prepare(span, self._begin(span))
        title = f"{span.index + 1}/{len(self.strategy.phases)} ({first_to_last(run.trained)})"
        progress.set_description(f"Phase {title}")
        progress.set_postfix_str("")
        evaluations_without_gain = count_without_gain(self.state.log, span.index)
        self._hold_if_last(span)
        with run.recomputed() if self.config.gradient_checkpointing else contextlib.nullcontext():
            for loss in self._steps(run):
                self.state.step += 1
                self.state.losses.append(loss)
                self.state.phase_seconds = before + time.perf_counter() - start
                progress.update()
                is_epoch_end = self._ends_epoch(self.state.step)
                if is_epoch_end or self.state.step == span.end:
                    with run.averaged():
                        is_highest = self._evaluate(run, progress)
                    evaluations_without_gain = 0 if is_highest else evaluations_without_gain + 1
                if span.phase.patience is not None and evaluations_without_gain >= span.phase.patience:
                    break
                if self.state.step < span.end:
                    self._checkpoint_if_due(is_epoch_end, run)
                    self._hold_if_last(span)
        run.end()
        self.state.log.phases.append(run.record(self.state, self.passes(self.state.step - span.first)))
        result = self._evaluator.describe(self.state.log.history[-1], with_interval=True)
        say(self.accelerator, f"Trained phase {title}: {result} in {duration(self.state.phase_seconds)}")
        # early stopping skips the rest of the span
        progress.update(span.end - self.state.step)
        self.state.end_phase(span.end)
        run.release()
        if span.phase.is_adapted:
            self._held.merge()
        if self._climb is not None:
            self._judge(self._climb, span.phase)
        if span.end < self.phase_ends[-1]:
            self._checkpoint_if_due(True, None)

    def _begin(self, span: Span) -> Frozen:
        """Start or resume a phase: weights, and frozen stages.

        Raises:
            CheckpointError: The frozen tensors differ from those of the checkpoint.
        """
        if self.state.frozen_digest is None:  # the phase starts, and does not resume
            if self._climb is not None and (span.index or self.state.log.zero_shot is not None):
                self._climb.begin(self.state, self._best_weights)
            self.start.begin(span.index, self._held.copies)
            if span.phase.from_random_weights:
                self._held.load(self._random_weights())
        if span.phase.is_adapted:
            self._held.adapt(span.phase, self.config.seed + span.index)
        frozen = Frozen.of(self._held.model, span.phase, self.state.frozen_digest)
        self._held.follow(span.phase)
        self.state.frozen_digest = frozen.digest
        return frozen

    def _random_weights(self) -> dict[str, Tensor]:
        return random_weights(self._kind, self.model.config, self.config.seed)

    @property
    def begun(self) -> Sequence[Phase]:
        """Phases that have started."""
        done = bisect_right(self.phase_ends, self.state.step)
        return self.strategy.phases[: done + (self.state.frozen_digest is not None)]

    def _prepare(self, span: Span, frozen: Frozen) -> PhaseRun:
        """Choose the inputs of a phase and build its optimizer, restored from the checkpoint if there is one."""
        phase = span.phase
        passes = 1.0 if phase.is_solved else self.passes(span.end - span.first)
        state = self.state
        inputs = self.data.inputs(phase, frozen.digest, passes, state.uses_features, state.frozen_precision)
        state.uses_features, state.frozen_precision = inputs.are_features, inputs.frozen_precision
        self._held.park(is_used=inputs.runs_prefix)
        loader = self._loader(phase, inputs, span.end)
        run = PhaseRun(self.accelerator, self._held.model, span, frozen, inputs, loader)
        self._restore_phase(run)
        return run

    def _steps(self, run: PhaseRun) -> Iterator[float]:
        return run.steps(self.data, self.config, self.state, self._head_penalty)

    def _hold_if_last(self, span: Span) -> None:
        """Pass the best weights so far to `hold` before a step that may be the last, also by early stopping."""
        step = self.state.step + 1
        may_stop = span.phase.patience is not None and self._ends_epoch(step)
        if self.hold is not None and (may_stop or step == span.end):
            self.hold(self._best_weights or self._held.tensors(merged=True), self)

    def _judge(self, climb: Climb, phase: Phase) -> None:
        """Judge the finished stage depth by its best weights; keep them or restore the previous ones."""
        self._held.load(self._best_weights)
        validation = self.data.predictions(self._held.model, phase, self.data.validation_images, "validation")
        right = self.problem.is_right(validation.logits, validation.labels)
        self._best_weights = climb.end(self.state, self._best_weights, right, self.data.groups("validation"))
        rungs = self.state.log.rungs
        say(self.accelerator, describe_rung(rungs[-1], len(rungs), climb.escalation.rungs))

    def _loader(self, phase: Phase, inputs: PhaseInputs, end: int) -> DataLoader:
        """Create the loader of the steps from the current one to `end`."""
        return self.data.loader(phase, inputs, (self.state.step * self.images_per_step, end * self.images_per_step))

    def _evaluate(self, run: PhaseRun, progress: tqdm) -> bool:
        """Evaluate on the validation images, and keep the weights if model selection chooses them.

        Returns:
            Whether the evaluation is the best so far.
        """
        evaluation = self._evaluator.evaluate(run, self.state, round(self.passes(self.state.step), 4))
        progress.set_postfix_str(self._evaluator.describe(self.state.log.history[-1]))
        if line := self._evaluator.log_line(run, self.state, len(self.strategy.phases)):
            say(self.accelerator, line)
        is_last = self.state.step == self.phase_ends[-1]
        is_highest, is_kept = self._evaluator.select(evaluation, self.state, is_last=is_last)
        if is_kept:
            self._best_weights = self._held.copies()
        return is_highest

    def _restore_phase(self, run: PhaseRun) -> None:
        """Restore optimizer, schedule, scaler and random states in the phase in which the checkpoint was written."""
        restored, self._restored = self._restored, None
        if restored is None:
            return
        if restored.optimizer is not None:
            run.restore(restored.optimizer)
        set_random_state(self.accelerator, restored.random_states[self.accelerator.process_index])

    def _checkpoint_if_due(self, is_epoch_end: bool, run: PhaseRun | None) -> None:
        """Write a checkpoint when it is due, and after SIGTERM on any process, which ends the run."""

        def gather() -> Contents:
            self._count_seconds()
            return self._contents(run)

        self.checkpoints.write_if_due(self.state.step, is_epoch_end, gather)

    def _count_seconds(self) -> None:
        self.state.log.seconds = time.perf_counter() - self._start

    def _contents(self, run: PhaseRun | None) -> Contents:
        """Gather the contents of a checkpoint, within a phase or between phases. All processes must call this."""
        return Contents(
            state=self.state,
            weights=self._held.tensors(merged=False),
            best=self._best_weights,
            kept={} if self._climb is None else self._climb.weights,
            start=self.start.weights,
            optimizer=None if run is None else run.state(),
            random_states=gather_random_states(self.accelerator),
        )

    def passes(self, steps: int) -> float:
        """Convert optimizer steps to passes over the training images."""
        return steps * self.images_per_step / len(self.data.train_images)

    def _ends_epoch(self, step: int) -> bool:
        """Return whether a pass over the training images ends with a step."""
        images = len(self.data.train_images)
        return step * self.images_per_step // images > (step - 1) * self.images_per_step // images
