"""Outliers: images far from all others in the embedding."""

from dataclasses import dataclass

import numpy as np

NEIGHBORS = 5
"""Number of nearest neighbors whose mean distance counts."""
FENCE = 3.0
"""Distance above the upper quartile, in interquartile ranges, from which an image is an outlier ("far out": Tukey 1977,
Exploratory Data Analysis)."""
LEAST = 20
"""Smallest number of images among which outliers are looked for."""


@dataclass(frozen=True)
class Outliers:
    """Distance of each image to its nearest neighbors."""

    rows: np.ndarray
    """Images, the farthest first."""
    distances: np.ndarray
    """Mean cosine distance of each image to its nearest neighbors (images,)."""
    fence: float
    """Smallest distance of an outlier."""

    @property
    def count(self) -> int:
        """Number of outliers, which come first in `rows`."""
        return int((self.distances > self.fence).sum())


def find_outliers(rows: np.ndarray, similarities: np.ndarray) -> Outliers | None:
    """Rank images by their distance to their nearest neighbors (Ramaswamy et al. 2000, https://doi.org/10.1145/335191.335437).

    Args:
        rows: Images.
        similarities: Cosine similarity of each image to its nearest neighbors (images, neighbors), the nearest first.

    Returns:
        The ranking; None for too few images.
    """
    if len(rows) < LEAST:
        return None
    distances = 1 - similarities[:, :NEIGHBORS].mean(1)
    low, high = np.percentile(distances, (25, 75))
    order = np.argsort(-distances, kind="stable")
    return Outliers(rows[order], distances[order], float(high + FENCE * (high - low)))
