"""Evaluation during training: once per epoch and at the end of each phase."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_tl.checkpoints.state import TrainingState
from hf_tl.config import TrainingConfig
from hf_tl.evaluation.intervals import share_interval
from hf_tl.evaluation.measure import measure
from hf_tl.evaluation.metrics import ProblemType
from hf_tl.processes.accelerator import writing_logs
from hf_tl.reporting.numbers import epoch_in_phase, measured_on
from hf_tl.training.phase_data import PhaseData
from hf_tl.training.phase_run import PhaseRun
from hf_tl.training.selection import judge_evaluation

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn


@dataclass(frozen=True)
class Evaluation:
    """Training loss since the last evaluation, and metrics on the validation images."""

    phase: int
    epoch: float
    """Passes over the training images so far, in all phases together."""
    learning_rate: float
    """Learning rate of the head."""
    train_loss: float
    validation: Mapping[str, float] | None
    """Metrics; None without validation images."""

    def entry(self, seconds: float) -> dict[str, Any]:
        """Return the entry in the history of the log."""
        rates = {"learning_rate": self.learning_rate, "train_loss": self.train_loss}
        return {"phase": self.phase, "epoch": self.epoch, **rates, "validation": self.validation, "seconds": seconds}

    def candidate(self) -> dict[str, Any]:
        """Return the entry that model selection compares and the log keeps."""
        return {"phase": self.phase, "epoch": self.epoch, "validation": self.validation}

    def curves(self) -> dict[str, float]:
        """Return the values for the experiment tracker."""
        metrics = {f"validation/{name}": value for name, value in (self.validation or {}).items()}
        return {"train/loss": self.train_loss, "train/learning_rate": self.learning_rate, **metrics}


@dataclass(frozen=True)
class Evaluator:
    """Measurement of a model in training, and selection among its evaluations."""

    accelerator: "Accelerator"
    data: PhaseData
    config: TrainingConfig
    problem: ProblemType

    def evaluate(self, run: PhaseRun, state: TrainingState, epoch: float) -> Evaluation:
        """Evaluate the model, and add the result to the history of the log."""
        share_statistics(run.model)
        loss = math.fsum(state.losses) / len(state.losses)
        evaluation = Evaluation(run.span.index, epoch, run.learning_rate, loss, self._measure(run))
        state.log.history.append(evaluation.entry(state.phase_seconds))
        state.losses = []
        return evaluation

    def _measure(self, run: PhaseRun) -> dict[str, float] | None:
        """Compute the metrics on the validation images; None without them."""
        inputs = run.inputs
        if inputs.validation is None:
            return None
        return measure(
            self.accelerator,
            run.model,
            inputs.validation,
            self.config.per_device_eval_batch_size,
            self.data.workers(inputs.are_features),
            flip=self.config.test_time_flip,
            collate_fn=inputs.validation_collate,
            logits_of=inputs.logits_of,
        )

    def select(self, evaluation: Evaluation, state: TrainingState, *, is_last: bool) -> tuple[bool, bool]:
        """Send an evaluation to the experiment tracker, and compare it with those before it.

        A training without validation images keeps its last weights. Its curves are not tracked: the tracker holds those
        of the training with model selection.

        Returns:
            Whether the evaluation is the best so far, and whether its weights are selected.
        """
        images = self.data.validation_images
        if images is None:
            state.log.best = evaluation.candidate()
            return True, is_last
        with writing_logs(self.config):
            self.accelerator.log(evaluation.curves(), step=state.step)
        return judge_evaluation(state.log, evaluation.candidate(), self.problem, self.data.independent)

    def log_line(self, run: PhaseRun, state: TrainingState, phases: int) -> str | None:
        """Describe the last entry of the history in a line for the log: one line per epoch of a phase.

        Args:
            run: Phase in progress.
            state: State of the training.
            phases: Number of phases.

        Returns:
            The line; None for a solved head, and if an earlier entry ended the same epoch.
        """
        phase, index, history = run.span.phase, run.span.index, state.log.history
        if phase.is_solved:
            return None
        if phase.epochs is None:
            place = f"Step {state.step - run.span.first:,} of {run.span.end - run.span.first:,}"
        else:
            before = max((entry["epoch"] for entry in history if entry["phase"] < index), default=0.0)
            own = [entry["epoch"] for entry in history if entry["phase"] == index]
            *earlier, number = (epoch_in_phase(passes, before, phase.epochs) for passes in own)
            if number in earlier:
                return None
            place = f"Epoch {number} of {math.ceil(phase.epochs)}"
        where = f", phase {index + 1}" if phases > 1 else ""
        return f"{place}{where}: {self.describe(history[-1], with_interval=True)}"

    def describe(self, entry: Mapping[str, Any], *, with_interval: bool = False) -> str:
        """Describe an entry of the history in a few words, for the progress bar and the log."""
        loss, primary = f"training loss {entry['train_loss']:.3f}", self.problem.primary
        if entry["validation"] is None or self.data.validation_images is None:
            return loss
        share, images = entry["validation"][primary.key], len(self.data.validation_images)
        text = f"{loss}, validation {primary.name} {share:.1%}"
        if not with_interval:
            return text
        is_proportion = primary.key == self.problem.accuracy
        interval = share_interval(share, self.data.independent) if is_proportion else None
        return f"{text} ({measured_on(images, interval)})"


def share_statistics(model: "nn.Module") -> None:
    """Broadcast BatchNorm statistics from the main process, as DistributedDataParallel does before each forward."""
    from accelerate.utils import broadcast

    buffers = dict(model.named_buffers())
    for name, shared in broadcast(buffers).items():
        buffers[name].copy_(shared)
