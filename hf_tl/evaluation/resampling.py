"""Bootstrap of means and of the average precision (Efron 1979): images are resampled with replacement.

All models use the same resamples, so that they can be compared image by image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from hf_tl.evaluation.intervals import CONFIDENCE, DRAWN_AT_ONCE, RESAMPLES, Interval

SAME = 1e-6
"""Tolerance for equal means, because the resamples are computed in single precision."""


def draw_means(values: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Compute means over images in bootstrap resamples, which all rows share: (rows, images) to (rows, draws)."""
    images = values.shape[1]
    random, part = np.random.default_rng(seed), max(1, DRAWN_AT_ONCE // images)
    draws = [
        random.multinomial(images, np.full(images, 1 / images), size=min(part, RESAMPLES - start)) @ values.T / images
        for start in range(0, RESAMPLES, part)
    ]
    return np.concatenate(draws).T


def quantile_interval(draws: np.ndarray) -> Interval | None:
    """Return the interval between quantiles of draws (draws,); None if all are equal, because zero width is wrong.

    >>> random = np.random.default_rng(0)
    >>> low, high = quantile_interval(draw_means(random.normal(size=(1, 400)))[0])
    >>> -0.15 < low < -0.05 < 0.05 < high < 0.15
    True
    """
    if np.ptp(draws) < SAME:
        return None
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def draw_average_precisions(models: Sequence[np.ndarray], labels: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Compute the average precision of each class in bootstrap resamples.

    A resample is a count for each image. The counts are accumulated along the ranking of all images, which is sorted
    once. This is equivalent to sorting each resample, and much faster.

    Args:
        models: Scores (images, classes) of one or more models.
        labels: Zeros and ones, (images, classes).
        seed: Random seed of the bootstrap.

    Returns:
        Array (models, draws, classes). NaN if a resample contains no positive image of the class.
    """
    images, classes = labels.shape
    models_rankings = [[_rank(scores[:, name], labels[:, name]) for name in range(classes)] for scores in models]
    random, part = np.random.default_rng(seed), max(1, DRAWN_AT_ONCE // images)
    drawn = []
    for start in range(0, RESAMPLES, part):
        rows = random.integers(0, images, (min(part, RESAMPLES - start), images))
        counts = np.stack([np.bincount(draw, minlength=images) for draw in rows], axis=1).astype(np.float32)
        drawn.append([[ranking.average_precision(counts) for ranking in rankings] for rankings in models_rankings])
    return np.concatenate(drawn, axis=-1).transpose(0, 2, 1)


def average_precisions(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compute the average precision of each class, (classes,); NaN for a class without positive images.

    >>> average_precisions(np.array([[0.9, 1.0], [0.8, 2.0], [0.1, 3.0]]), np.array([[1, 0], [0, 0], [1, 0]])).round(4)
    array([0.8333,    nan])
    """
    once = np.ones((len(labels), 1))
    return np.array([_rank(*pair).average_precision(once)[0] for pair in zip(scores.T, labels.T, strict=True)])


@dataclass(frozen=True)
class _Ranking:
    """Ranking of all images by the score of a class, highest first."""

    order: np.ndarray
    """Rows of the images, down to the last that ties with a positive image."""
    positives: np.ndarray
    """Ranks of the positive images."""
    ends: np.ndarray
    """Last ranks of the scores that positive images have; precision counts all images up to there."""
    end_of: np.ndarray
    """Index into `ends` for each positive image."""

    def average_precision(self, counts: np.ndarray) -> np.ndarray:
        """Compute the average precision of each resample, (draws,), from its counts of each image, (images, draws)."""
        if not len(self.positives):
            return np.full(counts.shape[1], np.nan)
        ranked = counts[self.order]
        starts = np.concatenate([[0], self.ends[:-1] + 1])
        seen = np.add.reduceat(ranked, starts).cumsum(axis=0)[self.end_of]
        weights = ranked[self.positives]
        hits = weights.cumsum(axis=0)[np.searchsorted(self.positives, self.ends[self.end_of], side="right") - 1]
        precisions = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: a resample without positives
            return (weights * precisions).sum(axis=0, dtype=np.float64) / hits[-1]


def _rank(scores: np.ndarray, labels: np.ndarray) -> _Ranking:
    descending = -np.nan_to_num(np.asarray(scores, dtype=np.float64), nan=np.finfo(np.float64).min)
    order = np.argsort(descending, kind="stable")
    positives = np.flatnonzero(labels[order])
    sorted_scores = descending[order]
    ends, end_of = np.unique(
        np.searchsorted(sorted_scores, sorted_scores[positives], side="right") - 1, return_inverse=True
    )
    return _Ranking(order[: ends[-1] + 1] if len(ends) else order[:0], positives, ends, end_of)


def mean_of_classes(precisions: np.ndarray) -> np.ndarray:
    """Average over the classes with a defined average precision: (draws, classes) to (draws,).

    NaN for a resample without positive images of any class.
    """
    is_measured = ~np.isnan(precisions)
    with np.errstate(invalid="ignore"):
        return np.where(is_measured, precisions, 0).sum(axis=-1) / is_measured.sum(axis=-1)


def mean_average_precision_interval(scores: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> Interval | None:
    """Compute the interval of the mean average precision by the bias-corrected percentile bootstrap (Efron 1981).

    A resample contains some images several times, adjacent in the ranking, which inflates its average precision. The
    bias correction (https://doi.org/10.2307/3314608) shifts the quantiles back. Without it, intervals are too high if
    classes have a small number of images. The acceleration of BCa has almost no effect here.

    Args:
        scores: Scores of shape (images, classes).
        labels: Zeros and ones of shape (images, classes), at least one of them 1.
        seed: Random seed of the bootstrap.

    Returns:
        Interval. None if all resamples are equal (a perfect ranking), because zero width would be wrong.

    >>> random = np.random.default_rng(0)
    >>> labels = random.integers(0, 2, (200, 3))
    >>> low, high = mean_average_precision_interval(labels + random.normal(size=labels.shape), labels)
    >>> 0.78 < low < 0.80 < 0.86 < high < 0.88
    True
    """
    draws = draw_average_precisions([scores], labels, seed=seed)[0]
    return bias_corrected_interval(float(np.nanmean(average_precisions(scores, labels))), mean_of_classes(draws))


def bias_corrected_interval(value: float, draws: np.ndarray) -> Interval | None:
    """Return the quantiles of draws (draws,), shifted by the share of draws below the value (bias correction)."""
    draws = draws[~np.isnan(draws)]
    if np.ptp(draws) < SAME:
        return None
    normal = NormalDist()
    below = np.mean(draws < value - SAME) + np.mean(np.abs(draws - value) <= SAME) / 2
    bias = normal.inv_cdf(float(np.clip(below, 1 / len(draws), 1 - 1 / len(draws))))
    tails = [normal.cdf(2 * bias + normal.inv_cdf(share)) for share in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)]
    low, high = np.quantile(draws, tails)
    return float(low), float(high)
