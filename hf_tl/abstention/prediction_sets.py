"""Prediction sets: the classes of an image that hold its own in a chosen share of images of each class.

Split conformal prediction with a threshold for each class: Sadinle, Lei and Wasserman 2019, "Least Ambiguous Set-Valued
Classifiers with Bounded Error Levels", https://arxiv.org/abs/1609.00451. Images of a group count as one: Lee et al.
2023, "Distribution-free inference with hierarchical data", https://arxiv.org/abs/2306.06342.
"""

import numpy as np


def set_thresholds(
    probabilities: np.ndarray, labels: np.ndarray, coverage: float, groups: np.ndarray | None = None
) -> np.ndarray:
    """Return the smallest probability with which each class is in a set, (classes,).

    A class with too few images for `coverage` gets the threshold of all images.

    Args:
        probabilities: Probability of each class for held-out images (images, classes).
        labels: Class indices (images,).
        coverage: Share of the images of each class whose set is to hold the class.
        groups: Group of each image (images,), whose images are not independent.

    >>> probabilities = np.column_stack([np.linspace(0, 1, 9), 1 - np.linspace(0, 1, 9)])
    >>> set_thresholds(probabilities, np.zeros(9, int), 0.9).round(3)
    array([0., 0.])
    """
    rows = np.arange(len(labels))
    shortfall = 1 - probabilities[rows, labels]
    names = rows if groups is None else np.asarray(groups)
    everywhere = quantile(shortfall, coverage, names)
    limits = np.full(probabilities.shape[1], 1.0 if everywhere is None else everywhere)
    for label in np.unique(labels):
        own = labels == label
        limit = quantile(shortfall[own], coverage, names[own])
        limits[label] = limits[label] if limit is None else limit
    return 1 - limits


def prediction_sets(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return whether each class is in the set of each image, (images, classes); the most probable class always is.

    >>> prediction_sets(np.array([[0.5, 0.4, 0.1], [0.2, 0.5, 0.3]]), np.array([0.3, 0.6, 0.3])).astype(int)
    array([[1, 0, 0],
           [0, 1, 1]])
    """
    sets = probabilities >= thresholds
    sets[np.arange(len(sets)), probabilities.argmax(axis=1)] = True
    return np.asarray(sets)


def quantile(values: np.ndarray, level: float, groups: np.ndarray | None = None) -> float | None:
    """Return the value that a new one exceeds with probability `1 - level`; None if there are too few values.

    Between two values it is interpolated, so that the expected share is `level` and not the next larger multiple.

    Args:
        values: Values, (n,).
        level: Level, from 0 to 1.
        groups: Group of each value, (n,), which counts as one value (default: independent values).

    >>> quantile(np.arange(1.0, 20.0), 0.9), quantile(np.arange(8.0), 0.9)
    (18.0, None)
    """
    names = np.arange(len(values)) if groups is None else groups
    _, numbers, counts = np.unique(names, return_inverse=True, return_counts=True)
    order = np.argsort(values, kind="stable")
    weights = 1 / counts[numbers][order]
    reached = np.cumsum(weights) + (1 - weights) / 2  # the rank of independent values
    wanted = level * (len(counts) + 1)
    if wanted > len(counts) + 1e-9:
        return None
    return float(np.interp(wanted, reached, values[order]))
