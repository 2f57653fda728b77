"""Paired comparison of two models on the same images: difference, 95% interval and p-value.

The statistics count the images on which the two models disagree. They apply to these two models and to other images
drawn in the same way; they do not cover the variance between training seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from scipy.optimize import brentq

# scipy.stats gives the same probabilities, and takes half a second to import
from scipy.special import bdtr, stdtr, stdtrit

from hf_tl.evaluation.intervals import CONFIDENCE, Interval, wilson_interval
from hf_tl.evaluation.resampling import (
    SAME,
    average_precisions,
    bias_corrected_interval,
    draw_average_precisions,
    mean_of_classes,
)


@dataclass(frozen=True)
class Difference:
    """Difference of two models by one metric on the same images."""

    first: float
    second: float
    interval: Interval | None
    """Interval of `second - first`; None if no bootstrap draw differs, because zero width would be wrong."""
    p_value: float
    """Two-sided p-value of the hypothesis that there is no difference."""
    first_interval: Interval | None = None
    second_interval: Interval | None = None

    @property
    def value(self) -> float:
        """Difference `second - first`; positive if the second model is better."""
        return self.second - self.first


def difference_p_value(first: np.ndarray, second: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Compute the exact McNemar test (1947) of two classifiers on the same images.

    Args:
        first: Whether the first classifier is right on each image, (images,).
        second: Whether the second classifier is right on each image, (images,).
        groups: Number of the group of each image (images,). A group counts as one image, for the classifier that is
            right on more of its images. Defaults to independent images.

    >>> first, second = np.repeat([True, False], 10), np.repeat([True, True], 10)
    >>> round(difference_p_value(first, second), 4), difference_p_value(first, second, np.repeat([0, 1], 10))
    (0.002, 1.0)
    """
    gains = second.astype(np.int64) - first
    gains = gains if groups is None else np.bincount(groups, weights=gains)
    only_first, only_second = int((gains < 0).sum()), int((gains > 0).sum())
    smaller, disagreements = min(only_first, only_second), only_first + only_second
    return min(1.0, 2 * float(bdtr(smaller, disagreements, 0.5)))  # 1 where both are right as often


def paired_interval(only_first: int, only_second: int, images: int, together: int = 1) -> Interval:
    """Compute the interval of the difference of two paired proportions (Tango 1998).

    It inverts the score test (https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B), so it
    stays within -1 and 1, and has a nonzero width even if both models are right on the same images. Fagerland et al.
    (2014, https://doi.org/10.1002/sim.6148) recommend it.

    Args:
        only_first: Number of images that only the first model is right on.
        only_second: Number of images that only the second model is right on.
        images: Number of images, at least one.
        together: Number of intervals with simultaneous 95% coverage (Bonferroni).

    Returns:
        Bounds of the second proportion minus the first.

    >>> low, high = paired_interval(10, 25, 200)
    >>> round(low, 4), round(high, 4)
    (0.0179, 0.1355)
    """
    z = NormalDist().inv_cdf(1 - _tail(together))
    return _lower_bound(only_first, only_second, images, z), -_lower_bound(only_second, only_first, images, z)


def _tail(together: int) -> float:
    """Return the error probability on each side of one of several simultaneous intervals."""
    return (1 - CONFIDENCE) / 2 / together


def _lower_bound(only_first: int, only_second: int, images: int, z: float) -> float:
    """Find the smallest difference (second - first) that the score test does not reject."""
    observed = (only_second - only_first) / images
    if observed == -1:
        return observed

    def excess(difference: float) -> float:
        # maximum likelihood estimate of the share that only the first is right on, given this difference
        half = ((2 * images - only_second + only_first) * difference - only_first - only_second) / 2
        share = (math.sqrt(half**2 + 2 * images * only_first * difference * (1 - difference)) - half) / (2 * images)
        variance = max(0.0, 2 * share + difference * (1 - difference)) / images
        return observed - difference - z * math.sqrt(variance)

    # at the observed difference the variance may be zero, and with it the excess
    return float(brentq(excess, -1, observed - 1e-9))


def share_difference(first: np.ndarray, second: np.ndarray, together: int = 1) -> Difference:
    """Compare the accuracies of two models on the same images.

    Args:
        first: Whether the first model is right on each image, (images,), at least one.
        second: Whether the second model is right on each image, (images,).
        together: As in `paired_interval`.
    """
    images, hits = len(first), [int(is_right.sum()) for is_right in (first, second)]
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return Difference(
        hits[0] / images,
        hits[1] / images,
        paired_interval(only_first, only_second, images, together),
        difference_p_value(first, second),
        *(wilson_interval(count, images) for count in hits),
    )


def precision_differences(
    first: np.ndarray, second: np.ndarray, labels: np.ndarray, *, seed: int = 0
) -> tuple[Difference, list[Difference | None]]:
    """Compare the mean average precision of two models, and the average precision of each class, by a paired bootstrap.

    Intervals and p-values are those of Student's t with the bootstrap standard error. For differences, their coverage
    is better than that of bootstrap quantiles, which are skewed if a class has a small number of images.

    Args:
        first: Scores of the first model, (images, classes).
        second: Scores of the second model, (images, classes).
        labels: Zeros and ones, (images, classes).
        seed: Random seed of the bootstrap.

    Returns:
        Difference of the means, and that of each class (None with fewer than two positive images). The intervals of the
        classes are simultaneous.
    """
    values = [average_precisions(scores, labels) for scores in (first, second)]
    draws = draw_average_precisions((first, second), labels, seed=seed)
    means = [float(np.nanmean(precisions)) for precisions in values]
    drawn = [mean_of_classes(precisions) for precisions in draws]
    positives = labels.sum(axis=0).tolist()
    overall = replace(
        _difference_of_draws(means[0], means[1], drawn[1] - drawn[0], sum(positives)),
        first_interval=bias_corrected_interval(means[0], drawn[0]),
        second_interval=bias_corrected_interval(means[1], drawn[1]),
    )
    measured = [name for name, count in enumerate(positives) if count > 1]
    classes: list[Difference | None] = [None] * len(positives)
    for name in measured:
        before, after = (float(precisions[name]) for precisions in values)
        differences = draws[1, :, name] - draws[0, :, name]
        classes[name] = _difference_of_draws(before, after, differences, positives[name], len(measured))
    return overall, classes


def _difference_of_draws(
    first: float, second: float, draws: np.ndarray, positives: int, together: int = 1
) -> Difference:
    error = float(np.nanstd(draws, ddof=1))
    if error < SAME:
        return Difference(first, second, None, 1.0)
    value, freedom = second - first, max(1, positives - 1)
    half = error * -float(stdtrit(freedom, _tail(together)))
    interval = (max(-1.0, value - half), min(1.0, value + half))
    return Difference(first, second, interval, 2 * float(stdtr(freedom, -abs(value) / error)))


def corrected(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values for multiple testing (Holm 1979): family-wise error rate of 5% at a threshold of 0.05.

    None stays None.

    >>> corrected([0.03, None, 0.01, 0.5])
    [0.06, None, 0.03, 0.5]
    """
    order = sorted((index for index, p in enumerate(p_values) if p is not None), key=lambda index: p_values[index] or 0)
    results: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * (p_values[index] or 0)))
        results[index] = highest
    return results
