"""Out-of-distribution scores: how unlike the training images an image is, from the last layer's input and the logits.

NumPy alone, so that a program without torch can use them. A higher score is more unlike.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

NEIGHBORS = 5
"""Neighbor whose distance is the score."""
WIDEST = 2048
"""Largest number of features for a covariance, which takes memory with their square."""


class Score:
    """Out-of-distribution score; its fields are the arrays that it needs."""

    name: ClassVar[str]
    title: ClassVar[str]

    @classmethod
    def fit(cls, features: np.ndarray, labels: np.ndarray) -> Self | None:
        """Fit the score to training images; None if they do not allow it.

        Args:
            features: Input of the last layer (images, features).
            labels: Class indices (images,).
        """
        raise NotImplementedError

    def __call__(self, features: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Return the score of each image, (images,), from its features and its logits (images, classes)."""
        raise NotImplementedError


@dataclass(frozen=True)
class NearestNeighbors(Score):
    """Distance to the fifth nearest training image, on the unit sphere.

    Sun et al. 2022, "Out-of-Distribution Detection with Deep Nearest Neighbors", https://arxiv.org/abs/2204.06507.

    >>> score = NearestNeighbors.fit(np.eye(6)[:5], np.zeros(5))
    >>> score(np.eye(6)[[0, 5]], np.zeros((2, 1))).round(3)
    array([1.414, 1.414])
    """

    name = "nearest_neighbors"
    title = "distance to the fifth nearest training image"
    bank: np.ndarray
    """Features of training images (images, features), of length one."""

    @classmethod
    def fit(cls, features: np.ndarray, labels: np.ndarray) -> Self:
        """Store the features in 16 bits."""
        return cls(_unit(features).astype(np.float16))

    def __call__(self, features: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Return the Euclidean distance, from 0 to 2."""
        similarity = _unit(features) @ self.bank.astype(np.float32).T
        place = min(NEIGHBORS, similarity.shape[1]) - 1
        nearest = -np.partition(-similarity, place, axis=1)[:, place]
        return np.sqrt(np.maximum(2 - 2 * nearest.astype(np.float64), 0))


@dataclass(frozen=True)
class Mahalanobis(Score):
    """Squared Mahalanobis distance to the nearest class mean, with one covariance for all classes.

    Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
    https://arxiv.org/abs/1807.03888; the covariance is shrunk as by Ledoit and Wolf, 2004.
    """

    name = "mahalanobis"
    title = "Mahalanobis distance to the nearest class"
    whitening: np.ndarray
    """Matrix (features, features) after which the covariance is the identity."""
    means: np.ndarray
    """Class means after it, (classes, features)."""

    @classmethod
    def fit(cls, features: np.ndarray, labels: np.ndarray) -> Self | None:
        """Fit means and covariance; None for more than `WIDEST` features, or without two images of a class."""
        from sklearn.covariance import ledoit_wolf

        classes, places = np.unique(labels, return_inverse=True)
        if features.shape[1] > WIDEST or len(features) <= len(classes):
            return None
        values = features.astype(np.float64)
        means = np.stack([values[places == place].mean(axis=0) for place in range(len(classes))])
        covariance, _ = ledoit_wolf(values - means[places], assume_centered=True)
        variances, directions = np.linalg.eigh(covariance)
        if variances.max() <= 0:
            return None
        whitening = directions / np.sqrt(np.maximum(variances, 1e-9 * variances.max()))
        return cls(whitening.astype(np.float32), (means @ whitening).astype(np.float32))

    def __call__(self, features: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Return the squared distance."""
        white = features.astype(np.float32) @ self.whitening
        return np.min([((white - mean) ** 2).sum(axis=1) for mean in self.means], axis=0)


@dataclass(frozen=True)
class Energy(Score):
    """Energy: minus the log of the summed exponentials of the logits.

    Liu et al. 2020, "Energy-based Out-of-distribution Detection", https://arxiv.org/abs/2010.03759.

    >>> Energy()(np.zeros((1, 2)), np.log([[1.0, 3.0]])).round(3)
    array([-1.386])
    """

    name = "energy"
    title = "energy of the logits"

    @classmethod
    def fit(cls, features: np.ndarray, labels: np.ndarray) -> Self:
        """Return the score, which needs no training images."""
        return cls()

    def __call__(self, features: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Return the energy in nats."""
        highest = logits.max(axis=1, keepdims=True)
        return -(highest[:, 0] + np.log(np.exp(logits - highest).sum(axis=1)))


SCORES: dict[str, type[Score]] = {kind.name: kind for kind in (NearestNeighbors, Mahalanobis, Energy)}
"""Scores by name; of equal ones, the first is chosen."""


def _unit(features: np.ndarray) -> np.ndarray:
    values = features.astype(np.float32)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.divide(values, length, out=np.zeros_like(values), where=length > 0)
