"""The training after the one that chose: once more from the start, on the images set apart for validation too.

What chooses epochs, thresholds and the rung of a climb must not be learned from. Once it has chosen, it can teach like
any other image, as in scikit-learn's `GridSearchCV(refit=True)`: of few images, those set apart are a tenth or a fifth.
Nothing is left to measure the new weights on but the test images; what was measured on the validation images is of the
training before.

A climb comes to a depth, and its weights to a place where a head that fitted already left the stages before it little
to learn. So the last training goes to that depth at once, with a new head, for as many passes as the rungs took
(`Strategy.at_once`); also where the validation split is the dataset's own, and stays one.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from hf_tl.data.datasets import ImageData
from hf_tl.data.streams import streams_of
from hf_tl.optimization.optim import phase_ends
from hf_tl.processes.together import agree
from hf_tl.reporting.console import say
from hf_tl.strategy import Phase, Strategy
from hf_tl.training.loop import Training

if TYPE_CHECKING:
    from datasets import Dataset


def is_given_back(data: ImageData) -> bool:
    """Tell whether the validation images may be learned from once they have chosen.

    Only what was taken from the training images is given back to them: a validation split of the dataset's own stays
    one. The images of a stream come in its order, and cannot be.
    """
    return "validation" in data.set_apart and not streams_of(data.splits)


def is_refitted(strategy: Strategy, data: ImageData) -> bool:
    """Tell whether a training by a strategy is followed by another one, with more images or other than a climb."""
    is_climb = strategy.is_climb
    return strategy.refit and (is_given_back(data) or (is_climb and not streams_of(data.splits)))


@dataclass(frozen=True)
class Refit:
    """A training that was made and has not run, and the weights that it begins with."""

    training: Training
    weights: dict[str, Tensor]
    learns_validation: bool

    @classmethod
    def of(cls, training: Training, *, learns_validation: bool = True) -> "Refit":
        """Remember the weights, before the training runs or goes back to a checkpoint."""
        state = training.model.state_dict()
        weights = {name: state[name].to("cpu", copy=True) for name in training.ever_trained}
        return cls(training, weights, learns_validation)

    @cached_property
    def images(self) -> "Dataset":
        """All that it learns from."""
        from datasets import concatenate_datasets

        data = self.training.data
        if not self.learns_validation:
            return data.train_images
        return concatenate_datasets([data.train_images, data.validation_images])

    @property
    def strategy(self) -> Strategy:
        """Strategy of the second training, known once the first is done.

        Nothing is measured on the way, so nothing can stop it early: where early stopping ended a phase of the first
        training, the second one is as long as the first was when its weights were kept.
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
        """Tell, on all processes alike, whether it would be another training than the one before, and has time."""
        log = self.training.state.log
        if not self.learns_validation and len(log.kept_phases) == 1:
            return False
        has_time = self.has_time()
        if not has_time:
            say(self.training.accelerator, "Not trained again from the start: --time_budget leaves no room")
        return has_time

    def has_time(self) -> bool:
        """Tell, on all processes alike, whether it fits into what the training left of its `time_budget`.

        A step takes about as long as one of the deepest rung.
        """
        first, budget = self.training, self.training.config.time_budget
        *_, steps = phase_ends(self.strategy.phases, len(self.images) / first.images_per_step)
        deepest = first.state.log.kept_phases[-1]
        expected = steps * deepest.seconds / deepest.steps
        return agree(first.accelerator, budget is None or first.state.log.seconds + expected <= 60 * budget)

    def run(self) -> Training:
        """Train by what was kept, from the weights of the beginning.

        Raises:
            TrainingError, CheckpointError, SystemExit: as `Training.run`.
        """
        from accelerate.utils import set_seed

        first, images = self.training, self.images
        among = ", those of validation among them" if self.learns_validation else ""
        say(first.accelerator, f"\nTraining again from the start on {len(images):,} images{among}")
        first.model.load_state_dict(self.weights, strict=False)
        set_seed(first.config.seed)
        again = Training(
            first.accelerator,
            first.model,
            self.strategy,
            first.data.transforms_of,
            images,
            None,
            first.config,
            first.fingerprint,
            first.orders,
            identity=first.identity,
        )
        if first.config.resume_from_checkpoint is not None:
            again.restore("auto")
        again.run()
        return again
