"""Metrics of a model on corrupted images."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class CorruptedMetrics:
    """Metrics of a split under one corruption at one strength."""

    corruption: str
    """Key of the corruption, such as `gaussian_noise`."""
    strength: float
    """Strength, in the unit of the corruption."""
    metrics: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """95% confidence intervals of some metrics."""


@dataclass(frozen=True)
class Robustness:
    """Metrics of a split under common corruptions, and their means."""

    input_size: tuple[int, int]
    """Height and width in pixels of the corrupted images: the input of the network."""
    results: tuple[CorruptedMetrics, ...]
    """Results by corruption, in ascending severity."""
    mean: Mapping[str, float | None]
    """Mean of each metric over all corruptions and strengths."""
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """95% confidence intervals of some means: images are resampled, corruptions are not."""
    drop: Mapping[str, float] = field(default_factory=dict)
    """Metric on clean images minus the mean, for the metrics with an interval of it."""
    drop_intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """95% confidence intervals of the drop, paired by image."""
