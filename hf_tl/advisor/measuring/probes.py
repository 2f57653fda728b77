"""Cross-validated accuracy of simple classifiers on a network's features."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import curve_fit
from scipy.special import bdtrc

from hf_tl.evaluation.intervals import Interval, share_interval
from hf_tl.evaluation.paired import difference_p_value
from hf_tl.head.head_solver import FOLDS, cross_validate_head, draw_folds, solve_head
from hf_tl.reporting.numbers import with_interval

NEIGHBORS = 5
CURVE = (1 / 8, 1 / 4, 1 / 2)
"""Shares of the training images at which the learning curve is measured, besides all of them."""
CURVE_FOLDS = 3
"""Number of held-out folds of the learning curve."""


@dataclass(frozen=True)
class Accuracy:
    """Cross-validated accuracy: each image is classified by a classifier that was not trained on it."""

    correct: int
    images: int
    independent: int | None = None
    """Number of independent images: of series, where images come in series. Defaults to the number of images."""

    @property
    def value(self) -> float:
        """Return the accuracy, from 0 to 1."""
        return self.correct / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95% confidence interval of the accuracy (Wilson 1927).

        It covers the sampling of test images, but not that of training images: cross-validation gives no unbiased
        estimate of the latter (Bengio and Grandvalet 2004, https://www.jmlr.org/papers/v5/grandvalet04a.html). A series
        counts as one image, because its images may all be right or all be wrong.
        """
        return share_interval(self.value, self.independent or self.images)

    def to_record(self) -> dict[str, float | int | list[float]]:
        """Return the accuracy as plain values."""
        return {"accuracy": self.value, "interval": list(self.interval), "images": self.images}

    def __str__(self) -> str:
        return with_interval(self.value, self.interval)


@dataclass(frozen=True)
class Probe:
    """Cross-validated predictions of a classifier."""

    predictions: np.ndarray
    """Class indices (images,); -1 for the only image of a class, which cannot be held out."""
    labels: np.ndarray
    """Class indices (images,)."""
    groups: np.ndarray | None = None
    """Series of each image (images,), held out as a whole; None for independent images."""

    @property
    def is_right(self) -> np.ndarray:
        """Return whether each held-out image is classified correctly, bool, (held-out images,)."""
        return (self.predictions == self.labels)[self.predictions >= 0]

    @property
    def held_out_groups(self) -> np.ndarray | None:
        """Return the series of each held-out image (held-out images,); None for independent images."""
        return None if self.groups is None else self.groups[self.predictions >= 0]

    @property
    def accuracy(self) -> Accuracy:
        """Return the accuracy on the held-out images."""
        groups = self.held_out_groups
        independent = None if groups is None else len(np.unique(groups))
        return Accuracy(int(self.is_right.sum()), len(self.is_right), independent)

    @property
    def balanced(self) -> float:
        """Return the mean accuracy of the classes: that on images of which each class has as many."""
        seen = self.predictions >= 0
        return balanced_accuracy((self.predictions == self.labels)[seen], self.labels[seen])

    @property
    def chance(self) -> float:
        """Return the expected accuracy of predictions with the same class frequencies that ignore the images."""
        seen = self.predictions >= 0
        shares = [
            np.bincount(classes[seen], minlength=int(self.labels.max()) + 1)
            for classes in (self.predictions, self.labels)
        ]
        return float(shares[0] @ shares[1] / seen.sum() ** 2)

    @property
    def p_value(self) -> float:
        """Return the p-value of the accuracy against chance (one-sided binomial test)."""
        images = self.accuracy.independent or self.accuracy.images
        correct = round(self.accuracy.value * images)
        return float(bdtrc(correct - 1, images, self.chance))


def probe_p_value(first: Probe, second: Probe) -> float:
    """Return the p-value of the difference of two probes in the same folds (McNemar); a series counts as one image."""
    return difference_p_value(first.is_right, second.is_right, first.held_out_groups)


def balanced_accuracy(is_right: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean accuracy of the classes that occur.

    >>> balanced_accuracy(np.array([True, True, True, False]), np.array([0, 0, 0, 1]))
    0.5
    """
    return float(np.mean([is_right[labels == label].mean() for label in np.unique(labels)]))


def linear_probe(
    features: np.ndarray, labels: np.ndarray, classes: int, seed: int = 0, groups: np.ndarray | None = None
) -> tuple[Probe, float]:
    """Classify each image by logistic regression in stratified five-fold cross-validation.

    The L2 penalty is that with the lowest held-out loss (`hf_tl.head.head_solver`).

    Args:
        features: Features of shape (images, values).
        labels: Class indices (images,).
        classes: Number of classes.
        seed: Random seed of the folds.
        groups: Group of each image (images,), held out as a whole. Defaults to no groups.

    Returns:
        The probe and the L2 penalty.
    """
    tensors = torch.as_tensor(features), torch.as_tensor(labels)
    result = cross_validate_head(*tensors, classes, groups=_tensor(groups), seed=seed)
    return Probe(result.classes.numpy(), labels, groups), result.strength


def nearest_neighbors(
    features: np.ndarray, labels: np.ndarray, seed: int = 0, groups: np.ndarray | None = None
) -> Probe:
    """Classify each image by its nearest neighbors (cosine distance) in stratified cross-validation.

    Args:
        features: Features of shape (images, values); the function centers them.
        labels: Class indices (images,).
        seed: Random seed of the folds.
        groups: Group of each image (images,), held out as a whole. Defaults to no groups.
    """
    from sklearn.neighbors import KNeighborsClassifier

    counts = np.bincount(labels)
    neighbors = max(1, min(NEIGHBORS, int(np.median(counts[counts > 1])) - 1))
    classifier = KNeighborsClassifier(neighbors, metric="cosine", weights="distance", algorithm="brute")
    fold_of = draw_folds(torch.as_tensor(labels), seed, _tensor(groups)).numpy()
    predictions, centered = np.full(len(labels), -1), features - features.mean(0)
    for fold in range(fold_of.max() + 1):
        held_out = fold_of == fold
        classifier.fit(centered[~held_out], labels[~held_out])
        predictions[held_out] = classifier.predict(centered[held_out])
    return Probe(predictions, labels, groups)


def _tensor(groups: np.ndarray | None) -> torch.Tensor | None:
    return None if groups is None else torch.as_tensor(groups)


@dataclass(frozen=True)
class LearningCurve:
    """Learning curve: the error of a linear probe by the number of training images, with a fitted power law.

    error(n) = floor + scale * n^-rate, with rate between 0 and 1. Errors of networks and of linear models follow this
    law (Cortes et al. 1993, https://papers.nips.cc/paper/803; Hestness et al. 2017, https://arxiv.org/abs/1712.00409).
    """

    sizes: tuple[int, ...]
    """Numbers of training images."""
    errors: tuple[float, ...]
    """Error rates on the same held-out images at all sizes."""
    images: int
    """Number of held-out images."""
    floor: float
    scale: float
    rate: float

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """Return the 95% confidence intervals of the errors."""
        return tuple(share_interval(error, self.images) for error in self.errors)

    def error_at(self, images: float) -> float:
        """Extrapolate the error to another number of training images."""
        return min(1.0, self.floor + self.scale * images**-self.rate)

    def to_record(self) -> dict[str, Any]:
        """Return the curve as plain values."""
        return {**vars(self), "intervals": [list(interval) for interval in self.intervals]}


def learning_curve(
    features: np.ndarray, probe: Probe, classes: int, strength: float, *, seed: int = 0
) -> LearningCurve | None:
    """Measure the error of the probe on an eighth, a quarter and half of the images, and fit a power law.

    Three of the probe's five folds are held out. The probe's own errors on them are the last point.

    Args:
        features: Features of shape (images, values), in an order of which any first part is a stratified sample.
        probe: Result of `linear_probe` on these features.
        classes: Number of classes.
        strength: L2 penalty of the probe.
        seed: Random seed of the probe's folds.

    Returns:
        The learning curve; None for too few images to take an eighth of.
    """
    labels = probe.labels
    fold_of = draw_folds(torch.as_tensor(labels), seed, _tensor(probe.groups)).numpy()
    kept = round(len(labels) * (1 - 1 / FOLDS))
    sizes = [round(share * kept) for share in CURVE]
    if sizes[0] < 2 * classes or fold_of.max() + 1 < FOLDS:
        return None
    wrong, held_out = np.zeros(len(sizes)), np.isin(fold_of, range(CURVE_FOLDS))
    for fold in range(CURVE_FOLDS):
        learned, judged = np.flatnonzero(fold_of != fold), fold_of == fold
        for place, size in enumerate(sizes):
            rows = torch.as_tensor(learned[:size])
            # a constant penalty relative to the sum of the losses, as for a prior
            solution = solve_head(
                torch.as_tensor(features)[rows], torch.as_tensor(labels)[rows], classes,
                strength=strength * kept / size, seed=seed,
            )  # fmt: skip
            logits = torch.as_tensor(features[judged]) @ solution.weight.T + solution.bias
            wrong[place] += (logits.argmax(1).numpy() != labels[judged]).sum()
    images = int(held_out.sum())
    errors = [*(wrong / images), float((probe.predictions != labels)[held_out].mean())]
    sizes.append(kept)
    return LearningCurve(tuple(sizes), tuple(map(float, errors)), images, *fit_power_law(sizes, errors, images))


def fit_power_law(sizes: Sequence[int], errors: Sequence[float], images: int) -> tuple[float, float, float]:
    """Fit error(n) = floor + scale * n^-rate, each point weighted by its standard error.

    Args:
        sizes: Numbers of training images.
        errors: Measured error rates.
        images: Number of held-out images of each error rate.

    Returns:
        Floor, scale and rate.

    >>> sizes = [100, 200, 400, 800]
    >>> floor, scale, rate = fit_power_law(sizes, [0.05 + 2 * n**-0.5 for n in sizes], 10_000)
    >>> round(floor, 3), round(scale, 2), round(rate, 2)
    (0.05, 2.0, 0.5)
    """
    measured = np.asarray(errors, float)
    sigma = np.sqrt(np.maximum(measured * (1 - measured), 1 / images) / images)

    def law(n: np.ndarray, floor: float, scale: float, rate: float) -> np.ndarray:
        return floor + scale * n**-rate

    start = (measured[-1] / 2, max(1e-6, measured[0]) * math.sqrt(sizes[0]) / 2, 0.5)
    (floor, scale, rate), _ = curve_fit(
        law, np.asarray(sizes, float), measured, start, sigma, bounds=([0, 0, 0.1], [1, np.inf, 1]), max_nfev=10_000
    )
    return float(floor), float(scale), float(rate)
