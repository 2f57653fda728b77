"""Refit: retraining from scratch after model selection, on the training and validation images.

Epochs, thresholds and the stage depth of an escalation must be selected on images that are not trained on. After the
selection these images can be trained on, as in scikit-learn's `GridSearchCV(refit=True)`: in small datasets they are a
tenth or a fifth of the images. Then only the test images can measure the new weights. Validation metrics and curves are
from the first training.

After an escalation, the head was fitted before the deeper stages were trained, which leaves those little to learn. So
the refit trains at the selected depth from the start, with a new head, for as many passes as all depths took
(`Strategy.at_once`). This also holds for a dataset with its own validation split, which is never trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from hf_tl.data.datasets import ImageData
from hf_tl.data.streaming.streams import streams_of
from hf_tl.optimization.optim import phase_ends
from hf_tl.processes.together import agree
from hf_tl.reporting.console import say
from hf_tl.strategy import Phase, Strategy
from hf_tl.training.loop import Training

if TYPE_CHECKING:
    from datasets import Dataset


def is_given_back(data: ImageData) -> bool:
    """Return whether a refit may learn from the validation images.

    It may only if they were split off from the training images; a validation split of the dataset itself stays one.
    Streams are read in their own order, so their splits cannot be merged.
    """
    return "validation" in data.set_apart and not streams_of(data.splits)


def is_refitted(strategy: Strategy, data: ImageData) -> bool:
    """Return whether a refit follows the training: with more images, or after an escalation."""
    is_climb = strategy.is_climb
    return strategy.refit and (is_given_back(data) or (is_climb and not streams_of(data.splits)))


@dataclass(frozen=True)
class Refit:
    """A training before its start, and its starting weights."""

    training: Training
    weights: dict[str, Tensor]
    learns_validation: bool

    @classmethod
    def of(cls, training: Training, *, learns_validation: bool = True) -> "Refit":
        """Copy the starting weights, before the training runs or restores a checkpoint."""
        state = training.model.state_dict()
        weights = {name: state[name].to("cpu", copy=True) for name in training.ever_trained}
        return cls(training, weights, learns_validation)

    @cached_property
    def images(self) -> "Dataset":
        """Images of the refit."""
        from datasets import concatenate_datasets

        data = self.training.data
        if not self.learns_validation:
            return data.train_images
        return concatenate_datasets([data.train_images, data.validation_images])

    @property
    def units(self) -> Sequence[str | bytes]:
        """Group of each image of the refit, in row order; empty where it is unknown."""
        splits = ("train", "validation") if self.learns_validation else ("train",)
        return [unit for split in splits for unit in self.training.images.units.get(split, ())]

    @property
    def strategy(self) -> Strategy:
        """Strategy of the refit, available after the first training.

        A refit is not evaluated, so it cannot stop early. Where early stopping ended a phase of the first training, the
        refit trains as long as the first training had when its weights were kept.
        """
        chosen = self.training.carried_out
        phases = tuple(self._as_long(index, phase) for index, phase in enumerate(chosen.phases))
        return replace(chosen, phases=phases).at_once()

    def _as_long(self, index: int, phase: Phase) -> Phase:
        first = self.training
        done, best = first.state.log.kept_phases[index], first.state.log.best
        start = first.phase_ends[index - 1] if index else 0
        if phase.patience is None or done.steps == first.phase_ends[index] - start:
            return replace(phase, patience=None)
        steps = done.steps
        if best is not None and best["phase"] == index:
            steps = round(best["epoch"] / first.passes(1)) - start  # the log's epochs are rounded
        return replace(phase, patience=None, epochs=first.passes(steps), steps=None)

    def is_due(self) -> bool:
        """Return whether to refit: if it differs from the first training and fits into the time budget."""
        log = self.training.state.log
        if log.best is not None and not log.best["epoch"]:
            say(self.training.accelerator, "Skipping the retraining: no training improved on the zero-shot head")
            return False
        if not self.learns_validation and len(log.kept_phases) == 1:
            return False
        has_time = self.has_time()
        if not has_time:
            say(self.training.accelerator, "Skipping the retraining: --time_budget leaves no room")
        return has_time

    def has_time(self) -> bool:
        """Return whether the refit fits into the rest of `time_budget`, the same on all processes.

        The estimate takes the seconds per step of the deepest phase.
        """
        first, budget = self.training, self.training.config.time_budget
        *_, steps = phase_ends(self.strategy.phases, len(self.images) / first.images_per_step)
        deepest = first.state.log.kept_phases[-1]
        expected = steps * deepest.seconds / deepest.steps
        return agree(first.accelerator, budget is None or first.state.log.seconds + expected <= 60 * budget)

    def run(self) -> Training:
        """Retrain from the starting weights with the selected strategy.

        Raises:
            TrainingError, CheckpointError, SystemExit: See `Training.run`.
        """
        from accelerate.utils import set_seed

        first, images = self.training, self.images
        splits = "train + validation" if self.learns_validation else "train"
        say(first.accelerator, f"Retraining from scratch on {splits} ({len(images):,} images)")
        first.model.load_state_dict(self.weights, strict=False)
        set_seed(first.config.seed)
        again = Training(
            first.accelerator,
            first.model,
            self.strategy,
            replace(first.images, train=images, validation=None, units={"train": self.units}),
            first.config,
            identity=first.identity,
        )
        again.start = first.start.again(again.strategy.phases, again.stages)
        if first.config.resume_from_checkpoint is not None:
            again.restore("auto")
        again.run()
        return again
