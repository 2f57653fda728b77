"""95% confidence intervals: the sampling error for test sets of this size, drawn in the same way.

They do not cover distribution shift.
"""

import math
from statistics import NormalDist
from typing import Any

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 1000
DRAWN_AT_ONCE = 4_000_000
"""Maximum number of values drawn at once, to limit memory."""

Interval = tuple[float, float]


def wilson_interval(hits: int, trials: int) -> Interval:
    """Compute the Wilson interval of a proportion of at least one trial.

    Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953.

    >>> low, high = wilson_interval(950, 1000)
    >>> round(low, 4), round(high, 4)
    (0.9347, 0.9619)
    """
    # same result as scipy.stats.binomtest, whose import would take longer than writing a whole card
    share, z = hits / trials, NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    center, scale = share + z**2 / (2 * trials), 1 + z**2 / trials
    half = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    low, high = (center - half) / scale, (center + half) / scale
    return max(0.0, min(share, low)), min(1.0, max(share, high))  # exact bounds where the share is 0 or 1


def share_interval(share: float, trials: int) -> Interval:
    """Compute the Wilson interval of a proportion of `trials`."""
    return wilson_interval(min(trials, round(share * trials)), trials)


def f1_intervals(
    predictions: np.ndarray, labels: np.ndarray, *, independent: int | None = None, seed: int = 0
) -> dict[str, Interval]:
    """Compute the intervals of macro and micro F1 by the percentile bootstrap (Efron 1979).

    Images are resampled with replacement. F1 depends only on the counts of the pairs of true and predicted class, so
    these counts are drawn from a multinomial distribution, which is equivalent and much faster.

    Args:
        predictions: Class indices (images,), or zeros and ones (images, classes).
        labels: Labels of the same shape.
        independent: Number of independent images to draw. Defaults to the number of images.
        seed: Random seed of the bootstrap.

    Returns:
        Intervals of `macro_f1`, over the classes that occur in a resample, and `micro_f1`. Empty if all predictions are
        right: every resample would be right too, and the interval would wrongly have zero width.

    >>> predictions, labels = np.array([0, 1, 1, 0] * 25), np.array([0, 1, 0, 0] * 25)
    >>> low, high = f1_intervals(predictions, labels)["macro_f1"]
    >>> 0.6 < low < 0.73 < high < 0.85
    True
    """
    if np.array_equal(predictions, labels):
        return {}
    hits, occurrences, counts = _pairs(predictions, labels) if labels.ndim == 1 else _decisions(predictions, labels)
    random, images = np.random.default_rng(seed), int(counts.sum())
    size = images if independent is None else max(1, round(images * independent / len(labels)))
    part = max(1, DRAWN_AT_ONCE // len(counts))
    macro: list[float] = []
    micro: list[float] = []
    while len(macro) < RESAMPLES:
        drawn = random.multinomial(size, counts / images, size=min(part, RESAMPLES - len(macro)))
        drawn_hits, totals = drawn @ hits, drawn @ occurrences
        macro.extend(_mean_ratio(2 * drawn_hits, totals))
        micro.extend(_mean_ratio(2 * drawn_hits.sum(axis=1, keepdims=True), totals.sum(axis=1, keepdims=True)))
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    # F1 is undefined in a resample without true or predicted classes
    bounds = {name: np.nanquantile(values, tails) for name, values in (("macro_f1", macro), ("micro_f1", micro))}
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}


def _mean_ratio(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """Average the ratios with nonzero denominators in each row, (draws, classes) to (draws,); NaN if there are none."""
    measured = wholes > 0
    ratios = np.divide(parts, wholes, out=np.zeros(parts.shape), where=measured)
    classes = measured.sum(axis=1)
    return np.divide(ratios.sum(axis=1), classes, out=np.full(len(classes), np.nan), where=classes > 0)


def _pairs(predictions: np.ndarray, labels: np.ndarray) -> tuple[Any, Any, np.ndarray]:
    """Return for each pair of true and predicted class: its hits and occurrences by class, and its count."""
    from scipy.sparse import csr_array

    pairs, counts = np.unique(np.stack([labels, predictions]), axis=1, return_counts=True)
    (true, predicted), rows = pairs, np.arange(pairs.shape[1])
    shape = (len(rows), int(pairs.max()) + 1)
    hits = csr_array((true == predicted, (rows, true)), shape=shape, dtype=np.float64)
    # a right prediction counts twice for its class, as true and as predicted: duplicate entries are summed
    classes = np.concatenate([true, predicted])
    occurrences = csr_array((np.ones(2 * len(rows)), (np.tile(rows, 2), classes)), shape=shape)
    return hits, occurrences, counts


def _decisions(predictions: np.ndarray, labels: np.ndarray) -> tuple[Any, Any, np.ndarray]:
    """Return hits and occurrences by class for each multi-label image, each with a count of 1."""
    predictions, labels = predictions.astype(np.float64), labels.astype(np.float64)
    return predictions * labels, predictions + labels, np.ones(len(labels))
