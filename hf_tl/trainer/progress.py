"""Progress of the phases under Trainer, and the file in which a checkpoint keeps it."""

import json
import time
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hf_tl.backbones.load import SCHEMA_VERSION
from hf_tl.checkpoints.state import TrainingLog
from hf_tl.errors import CheckpointError, unreadable
from hf_tl.evaluation.metrics import ProblemType
from hf_tl.record.codec import decode, encode
from hf_tl.storage.documents import read_json
from hf_tl.strategy import Strategy
from hf_tl.training.evaluation import Evaluation

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerState

STATE_FILE = "strategy_state.json"
AVERAGE_FILE = "average.safetensors"
"""Moving average of the weights, in a checkpoint of a phase with `ema_decay`."""


@dataclass
class Progress:
    """Steps at which the phases end, the current phase, and the log of the finished ones."""

    ends: list[int]
    """Optimizer step at which each phase ends. Early stopping moves the end of a phase, and all later ones with it."""
    steps_per_epoch: int
    phase: int = -1
    """Index of the current phase; -1 before the first."""
    frozen_digest: str | None = None
    """Digest of the tensors that the current phase freezes, at its start."""
    phase_seconds: float = 0.0
    """Seconds that the current phase took before the last resume."""
    evaluations_without_gain: int = 0
    log: TrainingLog = field(default_factory=TrainingLog)

    def __post_init__(self) -> None:
        self._start = time.perf_counter()

    def phase_at(self, step: int) -> int:
        """Return the index of the phase that takes the optimizer step after `step` steps."""
        return min(bisect_right(self.ends, step), len(self.ends) - 1)

    def first_step(self, phase: int) -> int:
        """Return the number of optimizer steps before a phase."""
        return self.ends[phase - 1] if phase else 0

    def end_phase(self, step: int) -> None:
        """End the current phase after `step` steps; the later phases follow it immediately."""
        saved = self.ends[self.phase] - step
        self.ends = [end - saved if index >= self.phase else end for index, end in enumerate(self.ends)]

    def begin(self, phase: int) -> None:
        """Start the clock of a phase."""
        self.phase, self.phase_seconds, self.evaluations_without_gain = phase, 0.0, 0
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of the current phase so far."""
        return self.phase_seconds + time.perf_counter() - self._start

    def note_evaluation(
        self, metrics: Mapping[str, float], train_loss: float, rate: float, state: "TrainerState", problem: ProblemType
    ) -> bool:
        """Add an evaluation to the log, and count the evaluations without a new best.

        Args:
            metrics: Metrics that Trainer returned, with its prefix.
            train_loss: Mean training loss since the last evaluation.
            rate: Learning rate of the head.
            state: State of the trainer.
            problem: Kind of labels, which names the metric.

        Returns:
            Whether the metrics include those of hf_tl; others are not logged.
        """
        names = [*(figure.key for figure in problem.figures), "loss"]
        validation = {name: metrics[f"eval_{name}"] for name in names if f"eval_{name}" in metrics}
        if not {problem.primary.key, "loss"} <= set(validation):
            return False
        evaluation = Evaluation(self.phase, self._epoch(state.global_step), rate, train_loss, validation)
        self.log.history.append(evaluation.entry(self.seconds))
        self.log.best = evaluation.candidate()
        if self.log.highest is None or problem.quality(validation) > problem.quality(self.log.highest["validation"]):
            self.log.highest, self.evaluations_without_gain = evaluation.candidate(), 0
        else:
            self.evaluations_without_gain += 1
        return True

    def note_kept(self, step: int | None) -> None:
        """Record the evaluation of the weights that are kept, those after `step` steps, if there is one."""
        entries = [entry for entry in self.log.history if step is not None and entry["epoch"] == self._epoch(step)]
        self.log.best = {name: entries[-1][name] for name in ("phase", "epoch", "validation")} if entries else None

    def _epoch(self, step: int) -> float:
        return round(step / self.steps_per_epoch, 4)

    def save(self, folder: Path) -> None:
        """Write the progress into a checkpoint."""
        own = {key: value for key, value in asdict(self).items() if key != "log"}
        content = {**own, "phase_seconds": self.seconds, "log": encode(self.log)}
        (folder / STATE_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read the progress of a checkpoint; return None if it holds none.

        Raises:
            CheckpointError: The progress is damaged.
        """
        file = folder / STATE_FILE
        if not file.is_file():
            return None
        try:
            return decode(cls, read_json(file), str(file))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"expected the progress of a training in {file}, found {unreadable(error)}; resume from another "
                "checkpoint"
            ) from error


def name_strategy(model: "PreTrainedModel", strategy: Strategy, *, has_augmentation: bool) -> None:
    """Write a strategy into the config of a model.

    Args:
        model: Model in training.
        strategy: Phases that have begun.
        has_augmentation: Whether the phases carry out their augmentation; the transform of a dataset is unknown here.
    """
    record = getattr(model.config, "hf_tl", None) or {"schema_version": SCHEMA_VERSION}
    phases = strategy.to_record()
    if not has_augmentation:
        for phase in phases["phases"]:
            del phase["augmentation"]
    model.config.hf_tl = {**record, "strategy": phases}
