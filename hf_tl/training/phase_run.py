"""One phase: its frozen part, its optimizer, its steps, and its record."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn
from torch.utils.data import DataLoader

from hf_tl.backbones.stages.freezing import freeze, frozen_tensors
from hf_tl.backbones.stages.stage import Stage, list_stages
from hf_tl.backbones.weights.digest import digest, whole
from hf_tl.checkpoints.state import TrainingState
from hf_tl.config import TrainingConfig
from hf_tl.errors import CheckpointError, ConfigError, TrainingError
from hf_tl.evaluation.metrics import problem_type_of
from hf_tl.features.inputs import PhaseInputs
from hf_tl.features.precision import describe_precision
from hf_tl.head.solved_head import linear_head, solve_phase
from hf_tl.lora.layers import adapter_tensors
from hf_tl.optimization.averaging import WeightAverage
from hf_tl.optimization.head_penalty import HeadPenalty
from hf_tl.optimization.loss import balanced_weights, training_loss
from hf_tl.optimization.optim import build_optimizer, build_schedule, stage_rates
from hf_tl.optimization.recompute import recomputed_activations
from hf_tl.optimization.steps import train_steps
from hf_tl.processes.accelerator import unwrap_precision
from hf_tl.processes.sharding import gather_optimizer, load_whole, scatter_optimizer
from hf_tl.record import FrozenProof, PhaseRecord
from hf_tl.reporting.console import say
from hf_tl.strategy import Phase
from hf_tl.training.phase_data import PhaseData
from hf_tl.training.step_precision import LossOf, check_step_precision, choose_step_precision, in_precision

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Span:
    """A phase and its range of optimizer steps."""

    index: int
    phase: Phase
    first: int
    """Number of optimizer steps before the phase."""
    end: int
    """Number of optimizer steps at its end."""


@dataclass(frozen=True)
class Frozen:
    """Part of a model that a phase does not train."""

    stages: tuple[Stage, ...]
    digest: str
    """SHA-256 of the frozen tensors at the start of the phase."""

    @classmethod
    def of(cls, model: nn.Module, phase: Phase, expected: str | None = None) -> Self:
        """Freeze the stages that a phase does not train.

        Args:
            model: Model to freeze, in place.
            phase: Phase with the trainable stages.
            expected: Digest in the checkpoint of a resumed phase.

        Raises:
            CheckpointError: The frozen tensors differ from those of the checkpoint.
        """
        frozen = cls(freeze(model, phase), digest(frozen_tensors(model)))
        if expected not in (None, frozen.digest):
            raise CheckpointError(
                "the frozen weights are not those of the checkpoint: resume with the same --model and --weights"
            )
        return frozen

    def prove(self, model: nn.Module, number: int) -> FrozenProof:
        """Return the digests of the frozen tensors before and after a phase.

        Raises:
            TrainingError: A frozen tensor changed.
        """
        tensors = frozen_tensors(model)
        proof = FrozenProof(len(tensors), self.digest, digest(tensors))
        if not proof.holds:
            raise TrainingError(
                f"phase {number} changed frozen tensors: expected the SHA-256 {proof.before[:12]} that they had at its "
                f"start, found {proof.after[:12]}. A hook or module of the model writes to them; the weights of this "
                "phase are not saved"
            )
        return proof


class PhaseRun:
    """A phase in progress, with its optimizer, schedule, weight average and training loader."""

    def __init__(
        self,
        accelerator: "Accelerator",
        model: "PreTrainedModel",
        span: Span,
        frozen: Frozen,
        inputs: PhaseInputs,
        loader: DataLoader,
    ) -> None:
        """Build the optimizer, and prepare everything for the devices.

        Args:
            accelerator: Accelerator of the training.
            model: Model, already frozen for the phase.
            span: Phase and its steps.
            frozen: Part of the model that the phase does not train.
            inputs: Images or features of the phase.
            loader: Training batches up to the end of the phase.
        """
        self.accelerator, self.model, self.stages = accelerator, model, list_stages(model)
        self.span, self.frozen, self.inputs = span, frozen, inputs
        optimizer = build_optimizer(model, self.stages, span.phase)
        self.schedule = build_schedule(optimizer, span.phase, span.end - span.first)
        # wrapped anew in each phase: DistributedDataParallel records at creation which parameters get gradients
        self.wrapped, self.optimizer, self.loader = accelerator.prepare(model, optimizer, loader)
        self.average = None if span.phase.ema_decay is None else WeightAverage(model, span.phase.ema_decay)
        self.solution: dict[str, Any] | None = None
        """Search results of a solved head, for the record."""

    @property
    def trained(self) -> list[str]:
        """Names of the stages that the phase trains, in forward order."""
        return [stage.name for stage in self.stages if stage not in self.frozen.stages]

    @property
    def learning_rate(self) -> float:
        """Learning rate of the head after the last step; 0 for a solved head."""
        return 0.0 if self.span.phase.is_solved else float(self.schedule.get_last_lr()[0])

    def recomputed(self) -> contextlib.AbstractContextManager[Any]:
        """Recompute the activations of trained stages in the backward pass while the context is open."""
        trained = [stage for stage in self.stages if stage not in self.frozen.stages]
        return recomputed_activations(self.model, trained)

    def steps(
        self, data: PhaseData, config: TrainingConfig, state: TrainingState, penalty: HeadPenalty
    ) -> Iterator[float]:
        """Train to the end of the phase, and yield the loss after each optimizer step.

        Raises:
            TrainingError: A loss or a gradient is not finite.
        """
        phase, model = self.span.phase, self.model
        if phase.is_solved:
            head = linear_head(model, self.stages[-1])
            workers = data.workers(self.inputs.are_features)
            groups = data.groups("train")
            loss, self.solution = solve_phase(
                self.accelerator, model, head, self.inputs, phase, config, workers, groups
            )
            yield loss
            return
        problem, weights, teach = problem_type_of(model), None, self.inputs.taught
        if phase.class_weights == "balanced":
            weights = balanced_weights(data.labels(phase), model.config.num_labels).to(self.accelerator.device)

        def loss_of(logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
            taught = None if teach is None else teach(batch)
            loss = training_loss(logits, batch["labels"], phase, weights, problem, taught)
            return loss + penalty(model, phase.head_penalty)

        self._choose_precision(data, config, state, loss_of)
        steps_done = state.step
        for loss in train_steps(
            self.accelerator,
            self.wrapped,
            self.optimizer,
            self.schedule,
            self.loader,
            self.inputs.logits_of,
            loss_of,
            config.max_grad_norm,
            steps_done,
        ):
            steps_done += 1
            if self.average is not None:
                self.average.update(steps_done - self.span.first)
            yield loss

    def _choose_precision(self, data: PhaseData, config: TrainingConfig, state: TrainingState, loss_of: LossOf) -> None:
        """Choose the precision of the steps, unless the phase is resumed; evaluations have it too."""
        device, logits_of = self.accelerator.device, self.inputs.logits_of
        if state.step_precision is None:
            per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps
            state.step_precision = choose_step_precision(
                self.accelerator,
                self.model,
                logits_of,
                loss_of,
                lambda: data.some(self.span.phase, self.inputs, device),
                (self.span.end - state.step) * per_step,
                config,
            )
            if state.step_precision is not None and (line := describe_precision(state.step_precision)):
                say(self.accelerator, f"Training in {line}")
        self.inputs = dataclasses.replace(
            self.inputs, logits_of=in_precision(logits_of, state.step_precision, self.accelerator)
        )

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Give the model its averaged weights, if the phase averages, while the context is open."""
        return contextlib.nullcontext() if self.average is None else self.average.applied()

    def state(self) -> dict[str, Any]:
        """Return the states of optimizer, schedule, scaler, weight average and adapters. All processes must call it."""
        scaler, average = self.accelerator.scaler, self.average
        return {
            "optimizer": gather_optimizer(self.model, self.optimizer),
            "schedule": self.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "average": None if average is None else average.state_dict(),
            "adapters": {name: whole(tensor) for name, tensor in adapter_tensors(self.model).items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the states that `state` returned."""
        load_whole(self.model, state["adapters"])
        scatter_optimizer(self.model, self.optimizer, state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def end(self) -> None:
        """Give the model its averaged weights for good."""
        if self.average is not None:
            self.average.apply()
            self.average = None

    def release(self) -> None:
        """Release the wrapped model, the optimizer and the loader."""
        unwrap_precision(self.model)
        self.accelerator.free_memory(self.wrapped, self.optimizer, self.loader)

    def record(self, state: TrainingState, passes: float) -> PhaseRecord:
        """Describe the finished phase for the log.

        Args:
            state: State of the training.
            passes: Passes over the training images in the phase.

        Raises:
            TrainingError: A frozen tensor changed.
        """
        steps, number = state.step - self.span.first, self.span.index + 1
        record = describe_phase(
            self.model, self.stages, self.span.phase, self.frozen, number, steps, passes, state.phase_seconds
        )
        return dataclasses.replace(
            record,
            uses_features=bool(state.uses_features),
            reuses_features=self.inputs.are_reused,
            frozen_precision=self.inputs.frozen_precision,
            step_precision=state.step_precision,
            solution=self.solution,
        )


def describe_phase(
    model: nn.Module,
    stages: Sequence[Stage],
    phase: Phase,
    frozen: Frozen,
    number: int,
    steps: int,
    passes: float,
    seconds: float,
) -> PhaseRecord:
    """Describe a finished phase, while the model is still frozen for it.

    Args:
        model: Model in training.
        stages: Result of `list_stages(model)`.
        phase: Phase.
        frozen: Part of the model that the phase does not train.
        number: Number of the phase, from 1.
        steps: Optimizer steps that it took.
        passes: Passes over the training images in these steps.
        seconds: Wall-clock time.

    Raises:
        TrainingError: A frozen tensor changed.
    """
    trainable = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    return PhaseRecord(
        recipe=phase,
        trained_stages=tuple(stage.name for stage in stages if stage not in frozen.stages),
        learning_rates={} if phase.is_solved else stage_rates(stages, phase, trainable),
        parameters_trained=sum(tensor.numel() for tensor in trainable.values()),
        steps=steps,
        epochs=round(passes, 4),
        seconds=seconds,
        proof=frozen.prove(model, number),
    )


def check_recipes(
    accelerator: "Accelerator", model: nn.Module, head: Stage, phases: Sequence[Phase], config: TrainingConfig
) -> None:
    """Reject phases that cannot be trained, before the training.

    Args:
        accelerator: Accelerator of the training.
        model: Model to train.
        head: Last stage of the model.
        phases: Phases of the strategy.
        config: Settings with the batch size.

    Raises:
        ConfigError: Images are mixed in batches of odd size, a head to solve is not linear, or the launcher chose
            another precision.
    """
    check_step_precision(accelerator, config)
    batch_size = config.per_device_train_batch_size
    if batch_size % 2 and any(phase.mixup or phase.cutmix for phase in phases):
        raise ConfigError(
            "mixup and CutMix mix the images of a batch in pairs: --per_device_train_batch_size must be even, found "
            f"{batch_size}. Choose an even number, or --mixup 0 --cutmix 0"
        )
    if any(phase.is_solved for phase in phases):
        linear_head(model, head)
