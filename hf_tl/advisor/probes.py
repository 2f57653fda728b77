"""How well simple classifiers do on a network's features, judged on images that they did not see."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import curve_fit
from scipy.stats import binomtest

from hf_tl.head.head_solver import FOLDS, cross_validate_head, draw_folds, solve_head

CONFIDENCE = 0.95
NEIGHBOURS = 5
CURVE = (1 / 8, 1 / 4, 1 / 2)
"""Shares of the training images at which the learning curve is measured, beside all of them."""
CURVE_FOLDS = 3
"""Folds that are held out from them."""


@dataclass(frozen=True)
class Accuracy:
    """A share of images that were classified right, each by a classifier that had not seen it."""

    correct: int
    images: int

    @property
    def value(self) -> float:
        """Between 0 and 1."""
        return self.correct / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Where the accuracy lies with 95 % confidence (Wilson 1927).

        It counts the chance of which images were looked at. That of which images were learned from is not in it: no
        unbiased estimate of it can be had from cross-validation (Bengio and Grandvalet 2004,
        https://www.jmlr.org/papers/v5/grandvalet04a.html).
        """
        found = binomtest(self.correct, self.images).proportion_ci(CONFIDENCE, method="wilson")
        return float(found.low), float(found.high)

    def to_record(self) -> dict[str, float | int | list[float]]:
        """Write it as plain values."""
        return {"accuracy": self.value, "interval": list(self.interval), "images": self.images}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} ({low:.1%} to {high:.1%})"


@dataclass(frozen=True)
class Probe:
    """What a classifier took each image for that it had not seen."""

    predictions: np.ndarray
    """Class indices (images,); -1 where an image could not be held out, as the only one of its class."""
    labels: np.ndarray
    """(images,)"""

    @property
    def is_right(self) -> np.ndarray:
        """Of the images that were held out (images,)."""
        return (self.predictions == self.labels)[self.predictions >= 0]

    @property
    def accuracy(self) -> Accuracy:
        """Over the images that were held out."""
        return Accuracy(int(self.is_right.sum()), len(self.is_right))

    @property
    def chance(self) -> float:
        """The accuracy of predictions as frequent as these that knew nothing of the image."""
        seen = self.predictions >= 0
        shares = [
            np.bincount(each[seen], minlength=int(self.labels.max()) + 1) for each in (self.predictions, self.labels)
        ]
        return float(shares[0] @ shares[1] / seen.sum() ** 2)

    @property
    def p_value(self) -> float:
        """How probable so many right ones are by chance (binomial test, one-sided)."""
        accuracy = self.accuracy
        return float(binomtest(accuracy.correct, accuracy.images, self.chance, alternative="greater").pvalue)


def linear_probe(features: np.ndarray, labels: np.ndarray, classes: int, seed: int = 0) -> tuple[Probe, float]:
    """Hold out each image once from logistic regression, in stratified five-fold cross-validation.

    Its L2 strength is the one with the lowest held-out loss (`hf_tl.head.head_solver`).

    Args:
        features: (images, values).
        labels: class indices (images,).
        classes: how many there are.
        seed: of the folds.

    Returns:
        The probe, and the strength.
    """
    found = cross_validate_head(torch.as_tensor(features), torch.as_tensor(labels), classes, seed=seed)
    return Probe(found.classes.numpy(), labels), found.strength


def nearest_neighbours(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> Probe:
    """Hold out each image once from a vote of its nearest neighbours by the cosine of their features.

    Args:
        features: (images, values); each value is centred.
        labels: class indices (images,).
        seed: of the folds.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    counts = np.bincount(labels)
    several = np.flatnonzero(counts[labels] > 1)
    neighbours = max(1, min(NEIGHBOURS, int(np.median(counts[counts > 1])) - 1))
    folds = StratifiedKFold(min(FOLDS, int(counts.max())), shuffle=True, random_state=seed)
    classifier = KNeighborsClassifier(neighbours, metric="cosine", weights="distance", algorithm="brute")
    predictions = np.full(len(labels), -1)
    with warnings.catch_warnings():
        # that a class has fewer images than folds; each of them is in another fold
        warnings.simplefilter("ignore", UserWarning)
        centred = features - features.mean(0)
        predictions[several] = cross_val_predict(classifier, centred[several], labels[several], cv=folds)
    return Probe(predictions, labels)


@dataclass(frozen=True)
class LearningCurve:
    """The error of a linear probe by the number of images that it learns from, and the power law through it.

    error(n) = floor + scale * n^-rate, with rate between 0 and 1: the law that errors of networks and of linear models
    follow (Cortes et al. 1993, https://papers.nips.cc/paper/803; Hestness et al. 2017, https://arxiv.org/abs/1712.00409).
    """

    sizes: tuple[int, ...]
    """Images learned from."""
    errors: tuple[float, ...]
    """Shares of the held-out images that were classified wrong, the same images at all sizes."""
    images: int
    """That were held out."""
    floor: float
    scale: float
    rate: float

    def error_at(self, images: float) -> float:
        """Extrapolate the error to another number of images."""
        return min(1.0, self.floor + self.scale * images**-self.rate)


def learning_curve(
    features: np.ndarray, probe: Probe, classes: int, strength: float, *, seed: int = 0
) -> LearningCurve | None:
    """Measure the probe's error when it learns from an eighth, a quarter and half of the images, and fit the power law.

    Three of the probe's five folds are held out, as they were from the probe itself: its errors on them are the last
    point.

    Args:
        features: (images, values), in an order any part of whose start is a stratified sample.
        probe: from `linear_probe` on these features.
        classes: how many there are.
        strength: of its penalty.
        seed: of its folds.

    Returns:
        None where there are too few images to take an eighth of.
    """
    labels = probe.labels
    fold_of = draw_folds(torch.as_tensor(labels), seed).numpy()
    kept = round(len(labels) * (1 - 1 / FOLDS))
    sizes = [round(share * kept) for share in CURVE]
    if sizes[0] < 2 * classes or fold_of.max() + 1 < FOLDS:
        return None
    wrong, held_out = np.zeros(len(sizes)), np.isin(fold_of, range(CURVE_FOLDS))
    for fold in range(CURVE_FOLDS):
        learned, judged = np.flatnonzero(fold_of != fold), fold_of == fold
        for place, size in enumerate(sizes):
            rows = torch.as_tensor(learned[:size])
            # the penalty weighs the same against the sum of the losses: it stands for what is known before
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
    """Fit error(n) = floor + scale * n^-rate, each point weighed by how sure it is.

    Args:
        sizes: images learned from.
        errors: measured.
        images: of which the errors are shares.

    Returns:
        floor, scale and rate.

    >>> sizes = [100, 200, 400, 800]
    >>> floor, scale, rate = fit_power_law(sizes, [0.05 + 2 * n**-0.5 for n in sizes], 10_000)
    >>> round(floor, 3), round(scale, 2), round(rate, 2)
    (0.05, 2.0, 0.5)
    """
    found = np.asarray(errors, float)
    sigma = np.sqrt(np.maximum(found * (1 - found), 1 / images) / images)

    def law(n: np.ndarray, floor: float, scale: float, rate: float) -> np.ndarray:
        return floor + scale * n**-rate

    start = (found[-1] / 2, max(1e-6, found[0]) * math.sqrt(sizes[0]) / 2, 0.5)
    (floor, scale, rate), _ = curve_fit(
        law, np.asarray(sizes, float), found, start, sigma, bounds=([0, 0, 0.1], [1, np.inf, 1]), max_nfev=10_000
    )
    return float(floor), float(scale), float(rate)
