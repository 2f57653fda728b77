"""What the predictions of two models on the same images say about their difference."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_tl.evaluation.measure import Predictions
from hf_tl.evaluation.metrics import MULTI_LABEL, ProblemType
from hf_tl.evaluation.paired import Difference, corrected, precision_differences, share_difference

SIGNIFICANT = 0.05
"""A difference that is less probable by chance counts as one."""


@dataclass(frozen=True)
class ClassFinding:
    """One class, as two models tell it."""

    label: str
    images: int
    """That show it."""
    difference: Difference | None
    """Of the share of these images that are right; of multi-label images, of the average precision. None where there
    are too few of them."""
    p_value: float | None
    """That of the difference, corrected for the number of classes."""

    @property
    def is_significant(self) -> bool:
        """Whether it differs by more than chance."""
        return self.p_value is not None and self.p_value < SIGNIFICANT


@dataclass(frozen=True)
class Findings:
    """All that is found out of two models' predictions."""

    metrics: dict[str, Difference]
    """By the metric's key; models are compared by the first."""
    is_right: np.ndarray
    """Whether each model is right on each image (2, images); of multi-label images, on all classes."""
    is_same: np.ndarray
    """Whether both say the same of an image (images,)."""
    classes: tuple[ClassFinding, ...]
    """In the order of the labels, without those that no image shows."""

    def rows_right(self, first: bool, second: bool) -> np.ndarray:
        """Give the rows of the images that the first is right on or not, and the second is right on or not."""
        return np.flatnonzero((self.is_right[0] == first) & (self.is_right[1] == second))


def decisions(problem: ProblemType, logits: np.ndarray) -> np.ndarray:
    """Tell what a model says: the class of each image (images,), or zeros and ones (images, classes)."""
    return (logits > 0).astype(np.int64) if problem is MULTI_LABEL else logits.argmax(axis=1)


def find_differences(problem: ProblemType, labels: Sequence[str], first: Predictions, second: Predictions) -> Findings:
    """Compare two models by their predictions.

    Args:
        problem: the kind of labels.
        labels: names of the classes, in the order of the logits of both.
        first: what the first says of the images.
        second: what the second says of the same images, in the same order.
    """
    truth = first.labels.astype(np.int64)
    said = [decisions(problem, one.logits) for one in (first, second)]
    is_same, is_right = np.equal(*said), np.equal(said, truth)
    if problem is MULTI_LABEL:
        counts = truth.sum(axis=0)
        is_same, is_right = np.all(is_same, axis=1), np.all(is_right, axis=2)
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
    p_values = corrected([None if one is None else one.p_value for one in of_classes])
    classes = (
        ClassFinding(label, int(count), difference, p_value)
        for label, count, difference, p_value in zip(labels, counts, of_classes, p_values, strict=True)
    )
    return Findings(metrics, is_right, is_same, tuple(one for one in classes if one.images))
