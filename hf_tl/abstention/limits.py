"""Limits of abstention: which images get no class, and which classes cannot be excluded.

NumPy alone, so that a program without torch can use them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hf_tl.abstention.prediction_sets import prediction_sets


@dataclass(frozen=True)
class Limits:
    """Threshold of the out-of-distribution score, and those of the prediction sets."""

    threshold: float
    """Largest score of an accepted image."""
    set_thresholds: np.ndarray
    """Smallest probability with which each class is in a set, (classes,)."""

    def accepts(self, scores: np.ndarray) -> np.ndarray:
        """Return whether an image with each score gets a class; one without a number does not.

        >>> Limits(0.5, np.zeros(2)).accepts(np.array([0.5, 0.6, np.nan]))
        array([ True, False, False])
        """
        return np.asarray(scores <= self.threshold)

    def sets(self, probabilities: np.ndarray) -> np.ndarray:
        """Return whether each class is in the prediction set of each image, (images, classes)."""
        return prediction_sets(probabilities, self.set_thresholds)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return {"threshold": self.threshold, "set_thresholds": self.set_thresholds.tolist()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], classes: int) -> Self:
        """Read the values of `to_json`.

        Raises:
            ValueError: A value is of another kind or size.
        """
        thresholds = np.asarray(content["set_thresholds"], np.float64)
        if thresholds.shape != (classes,) or not np.isfinite(thresholds).all():
            raise ValueError(f"thresholds of shape {thresholds.shape}, expected {classes:,} numbers")
        if type(content["threshold"]) is not float or not math.isfinite(content["threshold"]):
            raise ValueError(f"threshold {content['threshold']!r:.80}, expected a number")
        return cls(content["threshold"], thresholds)
