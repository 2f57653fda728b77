"""The average precision of images that are drawn again with replacement (the bootstrap; Efron 1979).

The same draws serve several models, so that they can be compared image by image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from hf_tl.evaluation.intervals import CONFIDENCE, DRAWN_AT_ONCE, RESAMPLES, Interval

SAME = 1e-6
"""Means that are nearer are the same: the draws are computed in single precision."""


def draw_average_precisions(models: Sequence[np.ndarray], labels: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Compute the average precision of each class in draws of as many images, with replacement.

    A draw is told by how often it holds each image, and these weights are added up along the ranking of all images,
    which is sorted once: the same as sorting each draw, and much faster.

    Args:
        models: scores (images, classes) of one model or more.
        labels: zeros and ones (images, classes).
        seed: of the draws.

    Returns:
        An array (models, draws, classes). Where a draw holds no image of a class, it has no average precision: NaN.
    """
    images, classes = labels.shape
    rankings = [[_rank(scores[:, name], labels[:, name]) for name in range(classes)] for scores in models]
    random, part = np.random.default_rng(seed), max(1, DRAWN_AT_ONCE // images)
    drawn = []
    for start in range(0, RESAMPLES, part):
        rows = random.integers(0, images, (min(part, RESAMPLES - start), images))
        counts = np.stack([np.bincount(draw, minlength=images) for draw in rows], axis=1).astype(np.float32)
        drawn.append([[ranking.average_precision(counts) for ranking in one] for one in rankings])
    return np.concatenate(drawn, axis=-1).transpose(0, 2, 1)


def average_precisions(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compute the average precision of each class (classes,), NaN of one that no image shows.

    >>> average_precisions(np.array([[0.9, 1.0], [0.8, 2.0], [0.1, 3.0]]), np.array([[1, 0], [0, 0], [1, 0]])).round(4)
    array([0.8333,    nan])
    """
    once = np.ones((len(labels), 1))
    return np.array([_rank(*pair).average_precision(once)[0] for pair in zip(scores.T, labels.T, strict=True)])


@dataclass(frozen=True)
class _Ranking:
    """All images by the score of a class, the highest first."""

    order: np.ndarray
    """Rows of the images, down to the last that ties with a positive one."""
    positives: np.ndarray
    """Places of the images that show the class."""
    ends: np.ndarray
    """The last places of the scores that positive images have: precision counts all images down to there."""
    end_of: np.ndarray
    """Which of `ends` belongs to each positive image."""

    def average_precision(self, counts: np.ndarray) -> np.ndarray:
        """Compute it of each draw (draws,), from how often each draw holds each image (images, draws)."""
        if not len(self.positives):
            return np.full(counts.shape[1], np.nan)
        ranked = counts[self.order]
        starts = np.concatenate([[0], self.ends[:-1] + 1])
        seen = np.add.reduceat(ranked, starts, axis=0).cumsum(axis=0)[self.end_of]
        found = ranked[self.positives]
        hits = found.cumsum(axis=0)[np.searchsorted(self.positives, self.ends[self.end_of], side="right") - 1]
        precisions = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: a draw without positives
            return (found * precisions).sum(axis=0, dtype=np.float64) / hits[-1]


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
    """Average over the classes that have an average precision: (draws, classes) to (draws,).

    NaN of a draw in which no image shows a class.
    """
    is_measured = ~np.isnan(precisions)
    with np.errstate(invalid="ignore"):
        return np.where(is_measured, precisions, 0).sum(axis=-1) / is_measured.sum(axis=-1)


def mean_average_precision_interval(scores: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> Interval | None:
    """Give the interval of the mean average precision by the bias-corrected percentile bootstrap (Efron 1981).

    A draw holds some images several times, one after another in the ranking, which makes it look better than it is;
    the correction (https://doi.org/10.2307/3314608) shifts the quantiles back. Without it, intervals lie too high where
    classes have few images. The acceleration of BCa, which is usual beside it, changes next to nothing here.

    Args:
        scores: (images, classes).
        labels: zeros and ones (images, classes), at least one of them 1.
        seed: of the draws.

    Returns:
        None where all draws are alike, as where nothing is ranked wrongly: an interval of no width is not true.

    >>> random = np.random.default_rng(0)
    >>> labels = random.integers(0, 2, (200, 3))
    >>> low, high = mean_average_precision_interval(labels + random.normal(size=labels.shape), labels)
    >>> 0.65 < low < 0.72 < 0.78 < high < 0.85
    True
    """
    draws = draw_average_precisions([scores], labels, seed=seed)[0]
    return bias_corrected_interval(float(np.nanmean(average_precisions(scores, labels))), mean_of_classes(draws))


def bias_corrected_interval(value: float, draws: np.ndarray) -> Interval | None:
    """Give the quantiles of draws (draws,), shifted by how many of them lie below the value; see above."""
    draws = draws[~np.isnan(draws)]
    if np.ptp(draws) < SAME:
        return None
    normal = NormalDist()
    below = np.mean(draws < value - SAME) + np.mean(np.abs(draws - value) <= SAME) / 2
    bias = normal.inv_cdf(float(np.clip(below, 1 / len(draws), 1 - 1 / len(draws))))
    tails = [normal.cdf(2 * bias + normal.inv_cdf(share)) for share in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)]
    low, high = np.quantile(draws, tails)
    return float(low), float(high)
