"""Suspected label errors, by confident learning on a linear probe of the features.

Confident learning (Northcutt et al. 2021, https://arxiv.org/abs/1911.00068) needs the probabilities of a classifier for
images that it was not trained on. It counts how many images of each label confidently belong to another class, and
suspects that many of them: those with the lowest probability of their own label ("prune by class").
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hf_tl.advisor.measuring.probes import Accuracy
from hf_tl.features.feature_store import FeatureRows
from hf_tl.head.head_solver import cross_validate_head, draw_folds, solve_head

LEAST = 5
"""Smallest number of images of a class that is judged."""
CHUNK = 4096
"""Number of images whose features are in memory at a time."""


@dataclass(frozen=True)
class LabelErrors:
    """Judgment of each label by a classifier that was not trained on the image."""

    rows: np.ndarray
    """Judged images, the least probable label first."""
    own: np.ndarray
    """Probability of the label of each judged image."""
    suggested: np.ndarray
    """Most probable class of each judged image."""
    is_suspected: np.ndarray
    """Whether each judged image is suspected of a wrong label, bool."""
    accuracy: Accuracy
    """Accuracy of the linear probe, by the labels as they are."""

    @property
    def suspected(self) -> np.ndarray:
        """Rows of the suspected images, the least probable label first."""
        return self.rows[self.is_suspected]


def find_label_errors(
    features: FeatureRows, labels: np.ndarray, classes: int, rows: np.ndarray, sample: np.ndarray, seed: int = 0
) -> LabelErrors | None:
    """Judge the label of each image.

    Images of the sample are judged by five-fold cross-validation, all others by a probe of the whole sample.

    Args:
        features: Features of all images.
        labels: Class index of each image (images,).
        classes: Number of classes.
        rows: Images to judge.
        sample: Some or all of them, in random choice: those that the probe is fitted to.
        seed: Random seed of the folds.

    Returns:
        The judgments; None with fewer than two classes that have enough images.
    """
    counts = np.bincount(labels[sample], minlength=classes)
    is_judged = counts >= LEAST
    if is_judged.sum() < 2:
        return None
    sample = sample[is_judged[labels[sample]]]
    others = np.setdiff1d(rows[is_judged[labels[rows]]], sample)
    known = torch.as_tensor(labels[sample])
    held_out = _cross_validated(features.read(sample.tolist())[0], known, classes, seed)
    own = held_out[torch.arange(len(known)), known].numpy()
    thresholds = np.full(classes, np.inf, np.float32)
    for label in np.flatnonzero(is_judged):
        thresholds[label] = own[labels[sample] == label].mean()
    joint = np.zeros((classes, classes))
    parts = [_judge(held_out.numpy(), labels[sample], thresholds, joint)]
    if len(others):
        parts += [
            _judge(probabilities, labels[chunk], thresholds, joint)
            for chunk, probabilities in _predicted(features, known, classes, sample, others, seed)
        ]
    judged = np.concatenate([sample, others])
    own, suggested = (np.concatenate(values) for values in zip(*parts, strict=True))
    order = np.argsort(own, kind="stable")
    judged, own, suggested = judged[order], own[order], suggested[order]
    own_label = labels[judged]
    return LabelErrors(
        rows=judged,
        own=own,
        suggested=suggested,
        is_suspected=_suspected(own_label, suggested, joint),
        accuracy=Accuracy(int((suggested == own_label).sum()), len(judged)),
    )


def _cross_validated(features: Tensor, labels: Tensor, classes: int, seed: int) -> Tensor:
    """Return the probabilities (images, classes) of probes that were fitted without the image."""
    strength = cross_validate_head(features, labels, classes, seed=seed).strength
    fold_of = draw_folds(labels, seed)
    probabilities = torch.zeros(len(labels), classes)
    for fold in range(int(fold_of.max()) + 1):
        fitted, held_out = fold_of != fold, fold_of == fold
        solution = solve_head(features[fitted], labels[fitted], classes, strength=strength, seed=seed)
        probabilities[held_out] = (features[held_out] @ solution.weight.T + solution.bias).softmax(1)
    return probabilities


def _predicted(
    features: FeatureRows, known: Tensor, classes: int, sample: np.ndarray, others: np.ndarray, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield images outside of the sample, in chunks, with their probabilities by a probe of the sample."""
    solution = solve_head(features.read(sample.tolist())[0], known, classes, seed=seed)
    for first in range(0, len(others), CHUNK):
        chunk = others[first : first + CHUNK]
        logits = features.read(chunk.tolist())[0] @ solution.weight.T + solution.bias
        yield chunk, logits.softmax(1).numpy()


def _judge(
    probabilities: np.ndarray, labels: np.ndarray, thresholds: np.ndarray, joint: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each label and the most probable class, and add to the confident joint.

    Args:
        probabilities: (images, classes).
        labels: Class indices (images,).
        thresholds: Mean probability of each class among the images with its label (classes,).
        joint: Counts of images by label and by the class that they confidently belong to (classes, classes).
    """
    confident = np.where(probabilities >= thresholds, probabilities, -1)
    best = confident.argmax(1)
    is_confident = confident.max(1) >= 0
    np.add.at(joint, (labels[is_confident], best[is_confident]), 1)
    return probabilities[np.arange(len(labels)), labels], probabilities.argmax(1)


def _suspected(labels: np.ndarray, suggested: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """Suspect as many images of each label as confidently belong to other classes, the least probable first.

    Args:
        labels: Class indices of the images, the least probable label first (images,).
        suggested: Most probable class of each image (images,).
        joint: The confident joint (classes, classes).
    """
    suspected = np.zeros(len(labels), bool)
    for label, counts in enumerate(joint):
        places = np.flatnonzero(labels == label)
        wrong = places[: int(counts.sum() - counts[label])]
        suspected[wrong[suggested[wrong] != label]] = True
    return suspected
