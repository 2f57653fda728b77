"""Interpolation of weights between the start and the end of fine-tuning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

InterpolationRule = Literal["one standard error", "too few images", "chosen", "first training"]
HeadOfStart = Literal["start", "end"]


@dataclass(frozen=True)
class InterpolationPoint:
    """Validation results of interpolated weights."""

    coefficient: float
    """Position of the weights: 0 before fine-tuning, 1 after it."""
    metrics: Mapping[str, float | None]
    interval: tuple[float, float] | None = None
    """95% confidence interval of the primary metric."""


@dataclass(frozen=True)
class InterpolationRecord:
    """Interpolation of the weights after fine-tuning with those before it (WiSE-FT)."""

    kept: float
    """Coefficient of the saved weights."""
    rule: InterpolationRule
    """Reason for the coefficient. `one standard error`: the nearest to the start that is right on as many validation
    images as the best, within one standard error. `too few images`: the middle. `chosen`: by the user. `first
    training`: that of the training before a refit, whose validation results are the points."""
    images: int
    """Number of validation images."""
    points: tuple[InterpolationPoint, ...]
    """Results in ascending order of the coefficient."""
    head: HeadOfStart
    """Head at coefficient 0: `start`, trained before fine-tuning began; `end`, that of the end, because it was not."""
