"""Expected test accuracy of the recommended training, as a range."""

from dataclasses import dataclass
from typing import Any

from hf_tl.advisor.measuring.evidence import BackboneEvidence
from hf_tl.advisor.trials.results import Trial
from hf_tl.advisor.trials.running import FOLDS
from hf_tl.reporting.numbers import range_of

REMOVED = {"transfer": (-0.35, 0.15), "scratch": (-1.0, 0.95)}
REMOVED_BY_TUNING = (-0.25, 0.85)
"""Share of the errors of the last linear probe that a training removes, in nine of ten cells of the benchmark
(`scripts/benchmark_advisor.py`; 60 trainings of the head, 60 of all stages, with pretrained weights)."""
FASTEST_RATE = 0.5
"""Exponent of the power law by which errors fall at most with the number of training images."""


@dataclass(frozen=True)
class Expectation:
    """Range of the test accuracy."""

    low: float
    high: float
    basis: str
    """Measurements that the range follows from."""

    def to_record(self) -> dict[str, Any]:
        """Return the range as plain values."""
        return dict(vars(self))

    def __str__(self) -> str:
        return f"test accuracy of {range_of((self.low, self.high), is_percentage=True)}, {self.basis}"


def expect(backbone: BackboneEvidence, strategy: str, trial: Trial | None) -> Expectation:
    """Return the expected test accuracy of a training.

    After trials, it ranges from the lower end of the interval to its upper end with all training images instead of two
    thirds of them. Otherwise it follows from the linear probe. Where clusters of the features may be series, random
    folds bound it from above, because nobody knows whether the test images show the same objects.

    Args:
        backbone: Evidence of the backbone.
        strategy: Name of the strategy.
        trial: Result of the strategy in cross-validation; None without trials.
    """
    if trial is not None:
        low, high = trial.accuracy.interval
        high, basis = 1 - (1 - high) * (1 - 1 / FOLDS) ** FASTEST_RATE, "by cross-validated training"
    else:
        accuracy = backbone.head.linear.accuracy
        least, most = REMOVED.get(strategy, REMOVED_BY_TUNING)
        error = 1 - accuracy.value
        low = min(accuracy.interval[0], 1 - (1 - least) * error)
        high, basis = max(accuracy.interval[1], 1 - (1 - most) * error), "by the linear probe and the benchmark"
    if backbone.gap is not None and backbone.gap.is_evident:
        basis += ", on objects that are not among the training images"
        if backbone.gap.series.origin == "clusters":
            high = max(high, backbone.gap.random.interval[1])
            basis += "; the upper end is that of objects that are"
    return Expectation(max(0.0, low), min(1.0, high), basis)
