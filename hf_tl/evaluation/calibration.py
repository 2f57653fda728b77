"""Calibration: whether predictions with 80% confidence are right in 80% of cases.

Guo et al. 2017, "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hf_tl.evaluation.metrics import MULTI_LABEL, ProblemType, cross_entropy
from hf_tl.evaluation.multi_label import binary_cross_entropy

BINS = 15
"""Number of bins of equal width, as in the paper."""
LARGEST_TEMPERATURE = 100.0
MIN_WRONG = 10
"""Minimum number of wrong predictions for temperature fitting. Right predictions always favor a lower temperature, so
with one or two wrong ones the fit only reflects how confident those were."""


@dataclass(frozen=True)
class Reliability:
    """Agreement of predicted probabilities with outcomes, in bins of equal width from 0 to 1."""

    ece: float
    """Expected calibration error: mean absolute gap between probability and outcome, weighted by bin size."""
    counts: tuple[int, ...]
    """Number of cases in each bin."""
    probabilities: tuple[float | None, ...]
    """Mean probability in each bin; None if it is empty."""
    shares: tuple[float | None, ...]
    """Share of positive outcomes in each bin; None if it is empty."""

    def to_record(self) -> dict[str, Any]:
        """Return plain values for `run.json`."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def reliability(probabilities: np.ndarray, outcomes: np.ndarray, bins: int = BINS) -> Reliability:
    """Compare predicted probabilities with outcomes.

    Args:
        probabilities: Predicted probabilities, (cases,).
        outcomes: Whether each case came true, (cases,).
        bins: Number of bins of equal width.

    >>> reliability(np.array([0.9, 0.9, 0.9, 0.9]), np.array([1, 1, 1, 0])).ece.__round__(3)
    0.15
    """
    place = np.clip(np.ceil(probabilities * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, values, minlength=bins) for values in (probabilities, outcomes.astype(float))]
    means = [
        (float(predicted / count), float(true / count)) if count else (None, None)
        for predicted, true, count in zip(*sums, counts, strict=True)
    ]
    return Reliability(
        ece=float(np.abs(sums[0] - sums[1]).sum() / len(probabilities)),
        counts=tuple(counts.tolist()),
        probabilities=tuple(mean for mean, _ in means),
        shares=tuple(share for _, share in means),
    )


def confidences(problem: ProblemType, logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities to calibrate, and whether each came true.

    Args:
        problem: Problem type. Single-label: probability of the predicted class, and whether it is right. Multi-label:
            probability of each class in each image, and whether it is present.
        logits: Logits of shape (images, classes).
        labels: Class indices (images,), or zeros and ones (images, classes).
    """
    import torch

    probabilities = problem.probabilities(torch.from_numpy(np.asarray(logits, dtype=np.float64))).numpy()
    if problem is MULTI_LABEL:
        return probabilities.ravel(), np.asarray(labels).ravel() > 0
    return probabilities.max(axis=1), np.argmax(logits, axis=1) == labels


def fit_temperature(problem: ProblemType, logits: np.ndarray, labels: np.ndarray) -> tuple[float | None, int]:
    """Fit the temperature that minimizes the loss of the scaled logits.

    Temperature scaling changes no prediction.

    Args:
        problem: Problem type.
        logits: Logits of shape (images, classes), of images that the weights were not trained on.
        labels: Class indices (images,), or zeros and ones (images, classes).

    Returns:
        Temperature (None with fewer than `MIN_WRONG` wrong predictions), and the number of wrong predictions.

    >>> fit_temperature(MULTI_LABEL, np.array([[5.0, -5.0]]), np.array([[1, 0]]))
    (None, 0)
    """
    from scipy.optimize import minimize_scalar

    _, outcomes = confidences(problem, logits, labels)
    is_wrong = (logits > 0) != (labels > 0) if problem is MULTI_LABEL else ~outcomes
    if (wrong := int(is_wrong.sum())) < MIN_WRONG:
        return None, wrong
    loss, bound = binary_cross_entropy if problem is MULTI_LABEL else cross_entropy, np.log(LARGEST_TEMPERATURE)
    fit = minimize_scalar(lambda log: loss(logits / np.exp(log), labels), bounds=(-bound, bound), method="bounded")
    return float(np.exp(fit.x)), wrong
