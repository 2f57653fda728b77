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
    """Return the expected test accuracy of a training, on images like these.

    After trials, it ranges from the lower end of the interval to its upper end with all training images instead of two
    thirds of them. Otherwise it follows from the linear probe. Where classes differ in size, it covers test images with
    these class frequencies and with equal ones. Where clusters of the features may be series, random folds bound it
    from above, because nobody knows whether the test images show the same objects.

    Args:
        backbone: Evidence of the backbone.
        strategy: Name of the strategy.
        trial: Result of the strategy in cross-validation; None without trials.
    """
    measured = backbone.head.linear if trial is None else trial
    accuracy, balanced = measured.accuracy, measured.balanced
    low, high = accuracy.interval
    low, high = low + min(0.0, balanced - accuracy.value), high + max(0.0, balanced - accuracy.value)
    if trial is not None:
        high, basis = 1 - (1 - high) * (1 - 1 / FOLDS) ** FASTEST_RATE, "by cross-validated training"
    else:
        least, most = REMOVED.get(strategy, REMOVED_BY_TUNING)
        ends = sorted((accuracy.value, balanced))
        low = min(low, 1 - (1 - least) * (1 - ends[0]))
        high, basis = max(high, 1 - (1 - most) * (1 - ends[1])), "by the linear probe and the benchmark"
    basis += ", on images like these"
    if backbone.gap is not None and backbone.gap.is_evident:
        basis += " of other objects"
        if backbone.gap.series.origin == "clusters":
            high = max(high, backbone.gap.random.interval[1])
            basis += "; the upper end is for the same objects"
    return Expectation(max(0.0, low), min(1.0, high), basis)
