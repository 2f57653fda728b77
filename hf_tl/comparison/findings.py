"""Statistical comparison of the predictions of two models on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_tl.evaluation.measure import Predictions
from hf_tl.evaluation.metrics import MULTI_LABEL, ProblemType
from hf_tl.evaluation.paired import Difference, corrected, precision_differences, share_difference

SIGNIFICANT = 0.05
"""Significance level."""


@dataclass(frozen=True)
class ClassFinding:
    """Comparison of two models on one class."""

    label: str
    images: int
    """Number of images of the class."""
    difference: Difference | None
    """Difference in recall; for multi-label images, in average precision. None if there are not enough images."""
    p_value: float | None
    """P-value of the difference, corrected for the number of classes."""

    @property
    def is_significant(self) -> bool:
        """Whether the difference is significant."""
        return self.p_value is not None and self.p_value < SIGNIFICANT


@dataclass(frozen=True)
class Findings:
    """All results of the comparison of two models' predictions."""

    metrics: dict[str, Difference]
    """Differences by metric key; the first is the primary metric."""
    is_right: np.ndarray
    """Whether each model is right on each image, (2, images); for multi-label images, on all classes."""
    is_same: np.ndarray
    """Whether both models make the same prediction for each image, (images,)."""
    classes: tuple[ClassFinding, ...]
    """Comparison by class, in label order, without classes that have no images."""

    def rows_right(self, first: bool, second: bool) -> np.ndarray:
        """Return the rows of the images that the first and the second model classify correctly, or not."""
        return np.flatnonzero((self.is_right[0] == first) & (self.is_right[1] == second))


def find_differences(problem: ProblemType, labels: Sequence[str], first: Predictions, second: Predictions) -> Findings:
    """Compare two models by their predictions.

    Args:
        problem: Problem type.
        labels: Class names, in the order of the logits of both.
        first: Predictions of the first model.
        second: Predictions of the second model for the same images, in the same order.
    """
    truth = first.labels.astype(np.int64)
    is_right = np.stack([problem.is_right(predictions.logits, truth) for predictions in (first, second)])
    is_same = problem.is_right(first.logits, problem.decide(second.logits))
    if problem is MULTI_LABEL:
        counts = truth.sum(axis=0)
        precision, of_classes = precision_differences(first.logits, second.logits, truth)
        metrics = {problem.primary.key: precision, problem.accuracy: share_difference(*is_right)}
    else:
        counts = np.bincount(truth, minlength=len(labels))
        metrics = {problem.accuracy: share_difference(*is_right)}
        seen = int((counts > 0).sum())
        of_classes = [
            share_difference(is_right[0, truth == index], is_right[1, truth == index], seen) if count else None
            for index, count in enumerate(counts)
        ]
    p_values = corrected([None if difference is None else difference.p_value for difference in of_classes])
    classes = (
        ClassFinding(label, int(count), difference, p_value)
        for label, count, difference, p_value in zip(labels, counts, of_classes, p_values, strict=True)
    )
    return Findings(metrics, is_right, is_same, tuple(finding for finding in classes if finding.images))
