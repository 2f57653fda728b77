"""How near the data are to those of the pretraining: how many of an untrained network's errors pretraining removes."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_tl.advisor.observation import Observation
from hf_tl.advisor.probes import Accuracy, Probe, linear_probe

COMPARED = 500
"""Images that both networks are compared on."""
RESAMPLES = 2_000


@dataclass(frozen=True)
class Similarity:
    """The share of an untrained network's errors that pretraining removes.

    1 - error / error of the untrained, of linear probes on the same images: 1 where the features of the pretraining
    separate the classes, 0 where they are worth no more than those of random weights, which are no bad features at all
    (Jarrett et al. 2009, https://doi.org/10.1109/ICCV.2009.5459469). It needs no image of the pretraining data and no
    source head.
    """

    value: float
    """Between 0, very different, and 1."""
    interval: tuple[float, float]
    """Of 95 % of the draws of as many images (bootstrap)."""
    pretrained: Accuracy
    """Of what the pretrained network gives its head."""
    untrained: Accuracy
    """Of the best depth of the same architecture with random weights."""

    def to_record(self) -> dict[str, Any]:
        """Write it as plain values."""
        return {
            "value": self.value,
            "interval": list(self.interval),
            "pretrained": self.pretrained.to_record(),
            "untrained": self.untrained.to_record(),
        }

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.interval[0]:.2f} to {self.interval[1]:.2f})"


def compare_with_untrained(pretrained: Probe, untrained: Observation, classes: int, seed: int = 0) -> Similarity:
    """Compare what a pretrained network gives its head with the best that random weights give.

    Args:
        pretrained: linear probe of the head's input.
        untrained: of the same architecture, for the same images.
        classes: how many there are.
        seed: of folds and bootstrap.
    """
    others = [linear_probe(features, pretrained.labels, classes, seed)[0] for features in untrained.depths.values()]
    other = max(others, key=lambda probe: probe.accuracy.value)
    return similarity_of(pretrained, other, seed)


def similarity_of(pretrained: Probe, untrained: Probe, seed: int = 0) -> Similarity:
    """Compute the similarity, and its interval, from two probes on the same images."""
    wrong = np.stack([~pretrained.is_right, ~untrained.is_right])
    images = wrong.shape[1]
    drawn = np.random.default_rng(seed).integers(0, images, (RESAMPLES, images))
    values = _share(wrong[:, drawn].sum(-1), images)
    low, high = np.quantile(values, [0.025, 0.975])
    value = float(_share(wrong.sum(1), images))
    return Similarity(value, (float(low), float(high)), pretrained.accuracy, untrained.accuracy)


def _share(wrong: np.ndarray, images: int) -> np.ndarray:
    """Give the share of the errors that is removed; one more wrong image on both sides keeps it finite."""
    own, other = wrong + 1
    return np.clip(1 - own / other, 0, 1)
