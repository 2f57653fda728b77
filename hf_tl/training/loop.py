"""The Accelerate loop: trains the phases of a strategy in order."""

import contextlib
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_tl.backbones.libraries.transformers import random_weights
from hf_tl.backbones.stages.freezing import fix_unused, freeze, frozen_tensors
from hf_tl.backbones.stages.stage import Stage, list_stages
from hf_tl.backbones.weights.digest import digest, whole
from hf_tl.checkpoints.checkpoint import FOLDER, REFIT_FOLDER
from hf_tl.checkpoints.saving import (
    Checkpoints,
    gather_random_states,
    identity_of,
    names_trained_by,
    optimizer_state,
    set_optimizer_state,
)
from hf_tl.checkpoints.sigterm import Sigterm
from hf_tl.checkpoints.state import Contents, TrainingLog, TrainingState, set_random_state
from hf_tl.config import TrainingConfig
from hf_tl.data.images import Transforms
from hf_tl.data.streams import first_image
from hf_tl.errors import CheckpointError, ConfigError, TrainingError
from hf_tl.evaluation.measure import Predictions, measure
from hf_tl.evaluation.metrics import problem_type_of
from hf_tl.features.features import Features
from hf_tl.features.inputs import PhaseInputs
from hf_tl.head.solved_head import linear_head, solve_phase
from hf_tl.optimization.averaging import WeightAverage
from hf_tl.optimization.loss import balanced_weights, training_loss
from hf_tl.optimization.optim import build_optimizer, build_schedule, phase_ends, stage_rates
from hf_tl.optimization.recompute import recomputed_activations
from hf_tl.optimization.steps import train_steps
from hf_tl.processes.sharding import load_whole, shard
from hf_tl.record import FrozenProof, PhaseRecord
from hf_tl.reporting.console import progress_bar, say
from hf_tl.reporting.numbers import duration
from hf_tl.strategy import Phase, Strategy
from hf_tl.training.escalation import Climb, climb_of, describe_rung
from hf_tl.training.phase_data import PhaseData
from hf_tl.training.selection import count_without_gain, judge_evaluation

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedModel

INTERRUPTED_STATUS = 143
"""Exit status after SIGTERM, once a checkpoint has been written: 128 + 15, as shells report it."""


@dataclass(frozen=True)
class _Span:
    """A phase and its range of optimizer steps."""

    index: int
    phase: Phase
    first: int
    """Number of optimizer steps before the phase."""
    end: int
    """Number of optimizer steps at its end."""


class Training:
    """Training of a model with a strategy; `run` carries it out."""

    def __init__(
        self,
        accelerator: "Accelerator",
        model: "PreTrainedModel",
        strategy: Strategy,
        transforms_of: Callable[[Phase], Transforms],
        train_images: "Dataset",
        validation_images: "Dataset | None",
        config: TrainingConfig,
        fingerprint: str = "",
        orders: Mapping[str, str] | None = None,
        rung_seconds: Sequence[float] = (),
        identity: Mapping[str, Any] | None = None,
        hold: Callable[[Mapping[str, Tensor], "Training"], None] | None = None,
    ) -> None:
        """Prepare the training.

        Args:
            accelerator: Accelerator that sets devices and precision.
            model: Model to train in place. It ends with the weights chosen by model selection (`selection`).
            strategy: Strategy; its phases are trained in order.
            transforms_of: Function from a phase to its transforms, which differ in augmentation.
            train_images: Training split, with an image and a label column as named in the transforms.
            validation_images: Images for model selection, never trained on. None keeps the last weights (`refit`).
            config: Batch sizes, seed and other settings. Checkpoints need an `output_dir`.
            fingerprint: Fingerprint of the data; a checkpoint of other data is rejected.
            orders: Order of the images in each split, if known: see `ImageData`.
            rung_seconds: Expected seconds of each stage depth of an escalation, for `time_budget`.
            identity: What else a checkpoint and the run that resumes from it must share, such as the origin of the
                weights and the preprocessing.
            hold: Function called on all processes before each step that may be the last, with the best trained tensors
                so far. It saves a model in case the run is interrupted after that step.

        Raises:
            StageError: A phase names stages that the model does not have.
            ConfigError: A phase is shorter than a step, mixes images in batches of odd size, solves a head that is not
                linear, or needs random access to a stream.
        """
        self.accelerator = accelerator
        self.model = model.to(memory_format=torch.channels_last)
        self._whole = self.model
        """The model itself; `model` is a sharded copy during `run`."""
        self._kind = type(model)
        self.strategy = strategy
        self.config = config
        self.stages = list_stages(model)
        self.problem = problem_type_of(model)
        self.state = TrainingState()
        self.images_per_step = (
            config.per_device_train_batch_size * accelerator.num_processes * config.gradient_accumulation_steps
        )
        self.phase_ends = phase_ends(strategy.phases, len(train_images) / self.images_per_step)
        self.fingerprint, self.orders = fingerprint, orders
        self.checkpoints = Checkpoints(
            accelerator,
            config,
            {**identity_of(accelerator, strategy, config, fingerprint, len(train_images)), **(identity or {})},
            FOLDER if validation_images is not None else REFIT_FOLDER,
        )
        if config.per_device_train_batch_size % 2 and any(phase.mixup or phase.cutmix for phase in strategy.phases):
            raise ConfigError(
                "mixup and CutMix mix the images of a batch in pairs: --per_device_train_batch_size must be even, "
                f"found {config.per_device_train_batch_size}; or --mixup 0 --cutmix 0"
            )
        if any(phase.is_solved for phase in strategy.phases):
            linear_head(accelerator, model, self.stages[-1])  # raises an error before the training
        self._solution: dict[str, Any] | None = None
        self.ever_trained = names_trained_by(strategy.phases, self.stages)
        self._best_weights: dict[str, Tensor] = {}
        self._average: WeightAverage | None = None
        self._start = 0.0
        """Start time, as if the training had never been interrupted."""
        self._restored: Contents | None = None
        self.data = PhaseData(
            Features(accelerator, model, config, orders), transforms_of, train_images, validation_images
        )
        self.data.require(strategy.phases)
        self._sigterm = Sigterm(accelerator)
        self._climb = climb_of(strategy, config, rung_seconds)
        self.identity, self.hold = identity, hold

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
        images = self._two_images()
        fix_unused(self.model, images)
        self._whole, self.model = self.model, shard(self.accelerator, self.model, self.stages, images)
        with (
            self._sigterm.noted(),
            progress_bar(total=ends[-1], initial=self.state.step, unit="step", disable=not is_main) as progress,
        ):
            for index, (phase, end) in enumerate(zip(self.strategy.phases, ends, strict=True)):
                if self.state.step >= end:
                    continue
                if self._climb is not None and not self._climb.goes_on(self.accelerator, self.state, index):
                    break
                self._run_phase(_Span(index, phase, ends[index - 1] if index else 0, end), progress)
                self._count_seconds()
        self.model = self._whole.to(self.accelerator.device)
        self.model.load_state_dict(self._best_weights, strict=False)
        # the last phase may have been rejected, or its weights not selected
        freeze(self.model, self.state.log.kept_phases[-1].recipe)
        return self.state.log

    @property
    def carried_out(self) -> Strategy:
        """Strategy up to the phase of the kept weights."""
        return self.strategy.done(len(self.state.log.kept_phases))

    def predictions(self, images: "Dataset", split: str) -> Predictions:
        """Predict images with the transforms of the last phase.

        Args:
            images: Split with an image and a label column, as named in the transforms.
            split: Name of the split.
        """
        return self.data.predictions(self.model, self.carried_out.phases[-1], images, split)

    def keep_end(self) -> None:
        """Write a final checkpoint, from which the evaluation can resume, if checkpoints are enabled.

        Raises:
            CheckpointError: The checkpoint could not be written.
        """
        if self.checkpoints.are_wanted:
            self._checkpoint(None, None)

    def _run_phase(self, span: _Span, progress: tqdm) -> None:
        """Freeze, train to the end of the span with a new optimizer, and verify that frozen tensors did not change."""
        start, before = time.perf_counter(), self.state.phase_seconds
        frozen_stages, frozen = self._begin(span)
        inputs, prepared = self._prepare(span, frozen)
        model, optimizer, schedule, loader = prepared
        trained = [stage.name for stage in self.stages if stage not in frozen_stages]
        progress.set_description(f"phase {span.index + 1}/{len(self.strategy.phases)}: {_short(trained)}")
        phase, evaluations_without_gain = span.phase, count_without_gain(self.state.log, span.index)
        self._hold_if_last(span)
        with self._recomputed(frozen_stages):
            for loss in self._steps(model, optimizer, schedule, loader, phase, inputs):
                self.state.step += 1
                if self._average is not None:
                    self._average.update(self.state.step - span.first)
                self.state.losses.append(loss)
                self.state.phase_seconds = before + time.perf_counter() - start
                progress.update()
                is_epoch_end = self._epochs(self.state.step) > self._epochs(self.state.step - 1)
                if is_epoch_end or self.state.step == span.end:
                    with contextlib.nullcontext() if self._average is None else self._average.applied():
                        rate = 0.0 if phase.is_solved else float(schedule.get_last_lr()[0])
                        is_highest = self._evaluate(span.index, inputs, rate, progress)
                    evaluations_without_gain = 0 if is_highest else evaluations_without_gain + 1
                if phase.patience is not None and evaluations_without_gain >= phase.patience:
                    break
                if self.state.step < span.end:
                    self._checkpoint_if_due(is_epoch_end, optimizer, schedule)
                    self._hold_if_last(span)
        if self._average is not None:
            self._average.apply()
            self._average = None
        self._write_down(span, trained, frozen)
        title = f"Phase {span.index + 1}/{len(self.strategy.phases)} {_short(trained)}"
        say(self.accelerator, f"{title}: {progress.postfix} ({duration(self.state.phase_seconds)})")
        # early stopping skips the rest of the span
        progress.update(span.end - self.state.step)
        self.state.step, self.state.frozen_digest, self.state.phase_seconds = span.end, None, 0.0
        self.state.uses_features, self._solution = None, None
        # mixed precision wraps `forward` on the model itself; accelerate's unwrapping also strips its own decorators
        for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
            self.model.__dict__.pop(name, None)
        self.accelerator.free_memory(model, optimizer, loader)
        if self._climb is not None:
            self._judge(self._climb, phase)
        if span.end < self.phase_ends[-1]:
            self._checkpoint_if_due(True, None, None)

    def _begin(self, span: _Span) -> tuple[tuple[Stage, ...], str]:
        """Freeze what the phase does not train.

        Returns:
            The frozen stages, and the digest of their tensors.

        Raises:
            CheckpointError: The frozen tensors differ from those of the checkpoint.
        """
        phase = span.phase
        if self.state.frozen_digest is None:  # the phase starts, and does not resume
            if self._climb is not None and span.index:
                self._climb.begin(self.state, self._best_weights)
            if phase.from_random_weights:
                drawn = self._random_weights()
                load_whole(self.model, drawn)
                self._whole.load_state_dict(drawn)
        frozen_stages = freeze(self.model, phase)
        frozen = digest(frozen_tensors(self.model))
        if self.state.frozen_digest not in (None, frozen):
            raise CheckpointError("the frozen weights are not those of the checkpoint: start from the same --model")
        self.state.frozen_digest = frozen
        return frozen_stages, frozen

    def _random_weights(self) -> dict[str, Tensor]:
        return random_weights(self._kind, self.model.config, self.config.seed)

    @property
    def begun(self) -> Sequence[Phase]:
        """Phases that have started."""
        done = bisect_right(self.phase_ends, self.state.step)
        return self.strategy.phases[: done + (self.state.frozen_digest is not None)]

    def _prepare(self, span: _Span, frozen: str) -> tuple[PhaseInputs, tuple[nn.Module, Any, Any, DataLoader]]:
        """Return the inputs of the phase; and its model, optimizer, schedule and loader, prepared and restored."""
        phase, steps = span.phase, span.end - span.first
        optimizer = build_optimizer(self.model, self.stages, phase)
        schedule = build_schedule(optimizer, phase, steps)
        passes = 1.0 if phase.is_solved else steps * self.images_per_step / len(self.data.train_images)
        inputs = self.data.inputs(phase, frozen, passes, self.state.uses_features)
        self.state.uses_features = inputs.are_features
        loader = self._loader(phase, inputs, span.end)
        # wrapped anew in each phase: DistributedDataParallel records at creation which parameters get gradients
        wrapped, optimizer, loader = self.accelerator.prepare(self.model, optimizer, loader)
        self._average = None if phase.ema_decay is None else WeightAverage(self.model, phase.ema_decay)
        self._restore_phase(optimizer, schedule)
        return inputs, (wrapped, optimizer, schedule, loader)

    def _write_down(self, span: _Span, trained: list[str], frozen: str) -> None:
        """Append the finished phase to the log.

        Raises:
            TrainingError: A frozen tensor changed.
        """
        steps = self.state.step - span.first
        self.state.log.phases.append(
            PhaseRecord(
                recipe=span.phase,
                trained_stages=tuple(trained),
                learning_rates=self._rates(span.phase),
                parameters_trained=sum(p.numel() for p in self.model.parameters() if p.requires_grad),
                steps=steps,
                epochs=round(self.passes(steps), 4),
                seconds=self.state.phase_seconds,
                proof=self._prove_frozen(span.index, frozen),
                uses_features=bool(self.state.uses_features),
                solution=self._solution,
            )
        )

    def _hold_if_last(self, span: _Span) -> None:
        """Pass the best weights so far to `hold` before a step that may be the last, also by early stopping."""
        step = self.state.step + 1
        may_stop = span.phase.patience is not None and self._epochs(step) > self._epochs(step - 1)
        if self.hold is not None and (may_stop or step == span.end):
            self.hold(self._best_weights or self._trained_tensors(), self)

    def _judge(self, climb: Climb, phase: Phase) -> None:
        """Judge the finished stage depth by its best weights; keep them or restore the previous ones."""
        load_whole(self.model, self._best_weights)
        found = self.data.predictions(self.model, phase, self.data.validation_images, "validation")
        self._best_weights = climb.end(
            self.state, self._best_weights, self.problem.is_right(found.logits, found.labels)
        )
        rungs = self.state.log.rungs
        say(self.accelerator, f"{describe_rung(rungs[-1], len(rungs), climb.escalation.rungs)}")

    def _rates(self, phase: Phase) -> dict[str, float]:
        """Return the peak learning rate of each stage with trainable parameters; it is empty for a solved head."""
        trainable = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        return {} if phase.is_solved else stage_rates(self.stages, phase, trainable)

    def _loader(self, phase: Phase, inputs: PhaseInputs, end: int) -> DataLoader:
        """Create the loader of the steps from the current one to `end`."""
        return self.data.loader(phase, inputs, (self.state.step * self.images_per_step, end * self.images_per_step))

    def _recomputed(self, frozen_stages: tuple[Stage, ...]) -> contextlib.AbstractContextManager[Any]:
        if not self.config.gradient_checkpointing:
            return contextlib.nullcontext()
        return recomputed_activations(self.model, [stage for stage in self.stages if stage not in frozen_stages])

    def _steps(
        self, model: nn.Module, optimizer: Any, schedule: Any, loader: DataLoader, phase: Phase, inputs: PhaseInputs
    ) -> Iterator[float]:
        if phase.is_solved:
            head = linear_head(self.accelerator, self.model, self.stages[-1])
            loss, self._solution = solve_phase(
                self.accelerator, self.model, head, inputs, phase, self.config, self.data.workers(inputs.are_features)
            )
            return iter([loss])
        weights = None
        if phase.class_weights == "balanced":
            weights = balanced_weights(self.data.labels(phase), self.model.config.num_labels)
            weights = weights.to(self.accelerator.device)

        def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
            return training_loss(logits, labels, phase, weights, self.problem)

        return train_steps(
            self.accelerator,
            model,
            optimizer,
            schedule,
            loader,
            inputs.logits_of,
            loss_of,
            self.config.max_grad_norm,
            self.state.step,
        )

    def _evaluate(self, index: int, inputs: PhaseInputs, rate: float, progress: tqdm) -> bool:
        """Evaluate on the validation images, and keep the weights if model selection chooses them.

        Returns:
            Whether the evaluation is the best so far.
        """
        self._share_statistics()
        metrics = None if inputs.validation is None else self._measure(inputs)
        train_loss = math.fsum(self.state.losses) / len(self.state.losses)
        epoch = self.passes(self.state.step)
        log = self.state.log
        entry = {"phase": index, "epoch": round(epoch, 4), "learning_rate": rate, "train_loss": train_loss}
        log.history.append({**entry, "validation": metrics, "seconds": self.state.phase_seconds})
        self.state.losses = []
        evaluation = {"phase": index, "epoch": entry["epoch"], "validation": metrics}
        if metrics is None:  # a refit is not evaluated: the tracker keeps the curves of the first training
            progress.set_postfix_str(f"loss {train_loss:.3f}")
            log.best, is_highest, is_kept = evaluation, True, self.state.step == self.phase_ends[-1]
        else:
            scalars = {f"validation/{name}": value for name, value in metrics.items()}
            curves = {"train/loss": train_loss, "train/learning_rate": rate, **scalars}
            self.accelerator.log(curves, step=self.state.step)
            primary = self.problem.primary
            progress.set_postfix_str(f"loss {train_loss:.3f}, validation {primary.name} {metrics[primary.key]:.1%}")
            assert self.data.validation_images is not None
            images = len(self.data.validation_images)
            is_highest, is_kept = judge_evaluation(log, evaluation, self.problem, images)
        if is_kept:
            self._best_weights = {name: tensor.to("cpu", copy=True) for name, tensor in self._trained_tensors().items()}
        return is_highest

    def _measure(self, inputs: PhaseInputs) -> dict[str, float]:
        config = self.config
        return measure(
            self.accelerator,
            self.model,
            inputs.validation,
            config.per_device_eval_batch_size,
            self.data.workers(inputs.are_features),
            flip=config.test_time_flip,
            collate_fn=inputs.validation_collate,
            logits_of=inputs.logits_of,
        )

    def _share_statistics(self) -> None:
        """Broadcast BatchNorm statistics from the main process, as DistributedDataParallel does before each forward."""
        from accelerate.utils import broadcast

        buffers = dict(self.model.named_buffers())
        for name, shared in broadcast(buffers).items():
            buffers[name].copy_(shared)

    def _prove_frozen(self, index: int, before: str) -> FrozenProof:
        tensors = frozen_tensors(self.model)
        proof = FrozenProof(len(tensors), before, digest(tensors))
        if not proof.holds:
            raise TrainingError(f"frozen tensors moved in phase {index + 1} ({before[:12]} became {proof.after[:12]})")
        return proof

    def _restore_phase(self, optimizer: Any, schedule: Any) -> None:
        """Restore optimizer, schedule, scaler and random states in the phase in which the checkpoint was written."""
        restored, self._restored = self._restored, None
        if restored is None:
            return
        if restored.optimizer is not None:
            set_optimizer_state(self.accelerator, self.model, optimizer, schedule, self._average, restored.optimizer)
        set_random_state(self.accelerator, restored.random_states[self.accelerator.process_index])

    def _checkpoint_if_due(self, is_epoch_end: bool, optimizer: Any, schedule: Any) -> None:
        """Write a checkpoint when it is due, and after SIGTERM on any process, which ends the run."""
        is_interrupted = self._sigterm.came()
        if self.checkpoints.is_due(self.state.step, is_epoch_end=is_epoch_end, is_interrupted=is_interrupted):
            self._count_seconds()
            self._checkpoint(optimizer, schedule)
        if is_interrupted:
            say(
                self.accelerator,
                f"SIGTERM: stopped after step {self.state.step}; go on with --resume_from_checkpoint auto",
            )
            raise SystemExit(INTERRUPTED_STATUS)

    def _count_seconds(self) -> None:
        self.state.log.seconds = time.perf_counter() - self._start

    def _checkpoint(self, optimizer: Any, schedule: Any) -> None:
        states = None
        if optimizer is not None:
            states = optimizer_state(self.accelerator, self.model, optimizer, schedule, self._average)
        self.checkpoints.write(
            Contents(
                state=self.state,
                weights=self._trained_tensors(),
                best=self._best_weights,
                kept={} if self._climb is None else self._climb.weights,
                optimizer=states,
                random_states=gather_random_states(self.accelerator),
            )
        )

    def _trained_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that some phase trains; no others can change. All processes must call this."""
        state = self.accelerator.unwrap_model(self.model).state_dict()
        return {name: whole(tensor.detach()) for name, tensor in state.items() if name in self.ever_trained}

    def _two_images(self) -> Tensor:
        transform = self.data.transforms_of(self.strategy.phases[0]).eval
        pixel_values = transform(first_image(self.data.train_images))
        return torch.stack([pixel_values] * 2).to(self.model.device)

    def passes(self, steps: int) -> float:
        """Convert optimizer steps to passes over the training images."""
        return steps * self.images_per_step / len(self.data.train_images)

    def _epochs(self, step: int) -> int:
        return step * self.images_per_step // len(self.data.train_images)


def _short(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
