"""Similarity of the data to the pretraining data, from the errors that pretraining removes."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_tl.advisor.measuring.observation import Observation
from hf_tl.advisor.measuring.probes import Accuracy, Probe, linear_probe

COMPARED = 500
"""Number of images on which both networks are compared."""
RESAMPLES = 2_000


@dataclass(frozen=True)
class Similarity:
    """Share of an untrained network's errors that pretraining removes.

    1 - error / error of the untrained network, of linear probes on the same images. It is 1 where the pretrained
    features separate the classes, and 0 where they are no better than those of random weights, which are not bad
    features (Jarrett et al. 2009, https://doi.org/10.1109/ICCV.2009.5459469). It needs no image of the pretraining data
    and no pretrained head.
    """

    value: float
    """Similarity, from 0 (very different) to 1."""
    interval: tuple[float, float]
    """95% bootstrap confidence interval."""
    pretrained: Accuracy
    """Accuracy of the linear probe on the pretrained head's input."""
    untrained: Accuracy
    """Accuracy of the linear probe at the best depth of the same architecture with random weights."""

    def to_record(self) -> dict[str, Any]:
        """Return the similarity as plain values."""
        return {
            "value": self.value,
            "interval": list(self.interval),
            "pretrained": self.pretrained.to_record(),
            "untrained": self.untrained.to_record(),
        }

    @property
    def shown_interval(self) -> str:
        """Format the interval."""
        return f"{self.interval[0]:.2f}–{self.interval[1]:.2f}"

    def __str__(self) -> str:
        return f"{self.value:.2f} (95% CI {self.shown_interval})"


def compare_with_untrained(pretrained: Probe, untrained: Observation, classes: int, seed: int = 0) -> Similarity:
    """Compare the features of a pretrained network with the best features of random weights.

    Args:
        pretrained: Linear probe of the head's input.
        untrained: Features of the same architecture with random weights, for the same images.
        classes: Number of classes.
        seed: Random seed of the folds and the bootstrap.
    """
    labels, groups = pretrained.labels, pretrained.groups
    others = [linear_probe(features, labels, classes, seed, groups)[0] for features in untrained.depths.values()]
    other = max(others, key=lambda probe: probe.accuracy.value)
    return similarity_of(pretrained, other, seed)


def similarity_of(pretrained: Probe, untrained: Probe, seed: int = 0) -> Similarity:
    """Compute the similarity and its confidence interval from two probes on the same images."""
    wrong = np.stack([~pretrained.is_right, ~untrained.is_right])
    images = wrong.shape[1]
    drawn = np.random.default_rng(seed).integers(0, images, (RESAMPLES, images))
    values = _share(wrong[:, drawn].sum(-1), images)
    low, high = np.quantile(values, [0.025, 0.975])
    value = float(_share(wrong.sum(1), images))
    return Similarity(value, (float(low), float(high)), pretrained.accuracy, untrained.accuracy)


def _share(wrong: np.ndarray, images: int) -> np.ndarray:
    """Return the share of errors removed; one more error on both sides keeps it finite."""
    own, other = wrong + 1
    return np.clip(1 - own / other, 0, 1)
