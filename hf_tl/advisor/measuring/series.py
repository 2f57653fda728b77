"""Series: images of the same object, person or place, which are not independent of each other.

A random split puts a series on both sides, so that a classifier recognizes the object instead of the class, and its
accuracy is too high (Roberts et al. 2017, https://doi.org/10.1111/ecog.02881). Cross-validation that holds out whole
series shows the accuracy on objects that were not seen. Series are the groups of the data where these are known.
Otherwise they are the clusters of the features within each class, if these have a substantial structure: leaving out
clusters of images that are *not* series would always lower the accuracy, because the nearest images are missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hf_tl.advisor.measuring.probes import Accuracy, Probe
from hf_tl.errors import DataError
from hf_tl.evaluation.paired import Difference, share_difference
from hf_tl.reporting.numbers import chance_of, points

SUBSTANTIAL = 0.25
"""Silhouette from which on clusters have a substantial structure (Kaufman and Rousseeuw 1990, Finding Groups in Data,
table 4). With EfficientNet-Lite0, the median over the classes is 0.11 to 0.18 for single photos (clothes, litter) and
digits with 8 to 160 images per class, and 0.34 to 0.65 for series of six altered views of a photo."""
DIMENSIONS = 8
"""Smallest number of effective dimensions of the features (participation ratio) to find series in. In fewer, any images
form clusters: images of plain colors have 2.5. Photos had 8.4 (two classes of two series each) to 100."""
CUTS = 10
"""Numbers of clusters to try in each class, from 2 to half of its images."""
FEWEST = 6
"""Smallest number of images of a class to find series in."""
EVIDENT = 0.05
"""Significance level of the difference between random folds and folds of series."""

Origin = Literal["groups", "clusters", "near-duplicates"]
ORIGINS: dict[Origin, str] = {
    "groups": "groups of the data", "clusters": "clusters of the features", "near-duplicates": "near-duplicates"
}  # fmt: skip


@dataclass(frozen=True)
class Series:
    """Series of the sample."""

    groups: np.ndarray
    """Series of each image (images,)."""
    origin: Origin
    """Whether the data name the series, the features show them, or near-duplicates alone are held out together."""
    classes: int
    """Number of classes with series."""
    silhouette: float | None = None
    """Median silhouette of the clusters over the classes; None for groups of the data."""

    @property
    def number(self) -> int:
        """Number of series with several images."""
        return int((np.unique(self.groups, return_counts=True)[1] > 1).sum())

    @property
    def typical(self) -> float:
        """Median number of images in a series with several."""
        counts = np.unique(self.groups, return_counts=True)[1]
        return float(np.median(counts[counts > 1])) if (counts > 1).any() else 1.0


def series_of(
    features: np.ndarray, labels: np.ndarray, groups: Sequence[str] | None, pairs: np.ndarray | None = None
) -> Series | None:
    """Return the series of a sample; None if there are none.

    Args:
        features: Features of shape (images, values), to find series where the data name none.
        labels: Class indices (images,).
        groups: Groups that the data name (images,); None for no groups.
        pairs: Rows of near-duplicates (pairs, 2), which belong to one series. Defaults to none.

    Raises:
        DataError: Fewer than two classes have two series, so that none can be held out.
    """
    if groups is not None:
        named = np.unique(np.asarray(groups), return_inverse=True)[1]
        series = Series(named, "groups", 0)
    else:
        series = find_series(features, labels) or Series(np.arange(len(labels)), "near-duplicates", 0)
    series = replace(series, groups=_united(series.groups, pairs))
    if not series.number:
        return None
    several = [len(np.unique(series.groups[labels == label])) > 1 for label in np.unique(labels)]
    if sum(several) < 2:
        raise DataError(
            "nothing can be measured: expected at least two classes with images of two different objects each, found "
            f"{sum(several)}; all images of the others show the same ({ORIGINS[series.origin]}); add images of other "
            "objects"
        )
    shared = np.bincount(series.groups)[series.groups] > 1
    return replace(series, classes=len(np.unique(labels[shared])))


def _united(groups: np.ndarray, pairs: np.ndarray | None) -> np.ndarray:
    """Return groups (images,) that images of a pair have in common."""
    if pairs is None or not len(pairs):
        return groups
    images, count = len(groups), len(groups) + int(groups.max()) + 1
    edges = np.concatenate([np.stack([np.arange(images), images + groups], axis=1), pairs])
    graph = coo_array((np.ones(len(edges)), edges.T), shape=(count, count))
    return np.unique(connected_components(graph, directed=False)[1][:images], return_inverse=True)[1]


def find_series(features: np.ndarray, labels: np.ndarray) -> Series | None:
    """Find series as clusters within the classes; None if the clusters have no substantial structure, or anything has.

    The clusters are those of average linkage on the cosine distances of the standardized features. Their number is that
    with the highest mean silhouette (Rousseeuw 1987, https://doi.org/10.1016/0377-0427(87)90125-7).

    Args:
        features: Features of shape (images, values).
        labels: Class indices (images,).

    >>> rng = np.random.default_rng(0)
    >>> objects = rng.normal(size=(2, 8, 1, 32))  # two classes of eight objects, seen six times each
    >>> seen = objects + 0.2 * rng.normal(size=(2, 8, 6, 32))
    >>> series = find_series(seen.reshape(96, 32), np.repeat([0, 1], 48))
    >>> series.number, series.typical
    (16, 6.0)
    >>> find_series(rng.normal(size=(96, 32)), np.repeat([0, 1], 48)) is None
    True
    """
    scale = features.std(0)
    standardized = (features - features.mean(0)) / np.where(scale > 0, scale, 1)
    lengths = np.linalg.norm(standardized, axis=1, keepdims=True)
    if _dimensions(standardized) < DIMENSIONS:
        return None
    directions = standardized / np.where(lengths > 0, lengths, 1)
    groups, silhouettes = np.arange(len(labels)), []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < FEWEST:
            continue
        silhouette, clusters = _clusters(directions[rows])
        silhouettes.append(silhouette)
        groups[rows] = rows[np.array([np.flatnonzero(clusters == cluster)[0] for cluster in clusters])]
    median = float(np.median(silhouettes)) if silhouettes else 0.0
    return Series(groups, "clusters", len(silhouettes), median) if median >= SUBSTANTIAL else None


def _dimensions(features: np.ndarray) -> float:
    """Return the participation ratio of the variances along the principal axes."""
    variances = np.linalg.svd(features, compute_uv=False) ** 2
    total = float((variances**2).sum())
    return float(variances.sum()) ** 2 / total if total > 0 else 0.0


def _clusters(directions: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the highest mean silhouette, and the cluster of each image (images,)."""
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.metrics import silhouette_score

    distances = np.clip(1 - directions @ directions.T, 0, None)
    np.fill_diagonal(distances, 0)
    numbers = sorted({round(number) for number in np.geomspace(2, max(2, len(directions) // 2), CUTS)})
    divisions = [
        AgglomerativeClustering(number, metric="precomputed", linkage="average").fit_predict(distances)
        for number in numbers
    ]
    scored = [(float(silhouette_score(distances, division, metric="precomputed")), division) for division in divisions]
    return max(scored, key=lambda pair: pair[0])


@dataclass(frozen=True)
class Gap:
    """Accuracy of the same classifier in random folds, and in folds that hold out whole series."""

    series: Series
    random: Accuracy
    random_p_value: float
    """P-value of the accuracy in random folds against chance."""
    held_out: Accuracy
    difference: Difference
    """Accuracy in random folds minus that on held-out series, on the images of both."""

    @property
    def is_evident(self) -> bool:
        """Whether the accuracy on held-out series is significantly lower."""
        return self.difference.value > 0 and self.difference.p_value < EVIDENT

    def to_record(self) -> dict[str, Any]:
        """Return the comparison as plain values."""
        return {
            "origin": self.series.origin,
            "series": self.series.number,
            "images": self.series.typical,
            "classes": self.series.classes,
            "silhouette": self.series.silhouette,
            "random": self.random.to_record(),
            "random_p_value": self.random_p_value,
            "held_out": self.held_out.to_record(),
            "difference": self.difference.value,
            "p_value": self.difference.p_value,
        }

    def __str__(self) -> str:
        name = "groups" if self.series.origin == "groups" else "series"
        return (
            f"accuracy of the linear probe {self.random} in random folds, {self.held_out} where whole {name} are held "
            f"out: {points(-self.difference.value)} points ({chance_of(self.difference.p_value)})"
        )


def compare_folds(series: Series, random: Probe, held_out: Probe) -> Gap:
    """Compare the predictions of a classifier in random folds and in folds of series.

    Args:
        series: Series of the images.
        random: Predictions in random folds.
        held_out: Predictions in folds that hold out whole series.
    """
    both = (random.predictions >= 0) & (held_out.predictions >= 0)
    right = [(probe.predictions == probe.labels)[both] for probe in (held_out, random)]
    return Gap(series, random.accuracy, random.p_value, held_out.accuracy, share_difference(right[0], right[1]))


def describe_series(series: Series) -> str:
    """Describe the series in a clause."""
    typical = f"{series.number:,} with about {series.typical:.0f} images each"
    if series.origin == "groups":
        return f"images belong to groups ({typical})"
    if series.origin == "near-duplicates":
        return f"there are near-duplicates ({typical})"
    return (
        f"images look like series of the same objects or places ({typical}; silhouette of the clusters "
        f"{series.silhouette:.2f}, substantial from {SUBSTANTIAL} on)"
    )
