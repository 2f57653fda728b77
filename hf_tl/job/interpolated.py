"""Interpolated weights of a run: searched after training, and committed in place of the trained ones."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from hf_tl.backbones.stages.stage import list_stages
from hf_tl.job.job import Job
from hf_tl.reporting.console import say
from hf_tl.training.interpolation import Interpolation, StartingPoint, check_interpolation

if TYPE_CHECKING:
    from hf_tl.checkpoints.state import Outcome
    from hf_tl.evaluation.measure import Predictions
    from hf_tl.record import InterpolationRecord


def starting_point(job: Job) -> StartingPoint:
    """Return the starting point of a run; an empty one if the weights are not to be interpolated.

    Raises:
        ConfigError: The run has no two ends to interpolate between.
    """
    if job.config.interpolate is None:
        return StartingPoint()
    origin = job.provenance.origin
    start = StartingPoint.of(job.strategy.phases, list_stages(job.model), job.head_stages, origin)
    check_interpolation(start, job.strategy, origin)
    return start


def interpolate_weights(
    job: Job,
    outcome: "Outcome",
    start: StartingPoint,
    predict: "Callable[[], Predictions] | None",
    earlier: "InterpolationRecord | None" = None,
) -> bool:
    """Give the model the interpolated weights, and note them in the log of the training.

    Args:
        job: Inputs of the run.
        outcome: Outcome of the training, whose log is changed.
        start: Weights from which fine-tuning started.
        predict: Prediction of the validation images; None if the weights were trained on them.
        earlier: Result of the training before a refit, which is repeated if there are no validation images.

    Returns:
        Whether the model has other weights now.
    """
    wanted = job.config.interpolate
    interpolation = Interpolation(job.accelerator, job.model, start, job.problem)
    if wanted is None or (predict is None and earlier is None) or not interpolation.is_possible(outcome):
        return False
    if predict is None:
        assert earlier is not None
        outcome.log.interpolation = interpolation.repeat(earlier)
    else:
        images = len(job.data.splits["validation"])
        say(job.accelerator, f"Interpolating the weights with those before fine-tuning ({images:,} validation images)")
        outcome.log.interpolation = interpolation.search(wanted, predict)
    return True


def keeps_end(outcome: "Outcome") -> bool:
    """Return whether the interpolated weights are those of the end, which the adapter of a training belongs to."""
    result = outcome.log.interpolation
    return result is not None and result.kept == 1
