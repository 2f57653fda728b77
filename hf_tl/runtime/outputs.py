"""Outputs of a classifier, in torch or in the runtime of an exported file."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Outputs:
    """Outputs of a classifier for some images."""

    probabilities: np.ndarray
    """Probability of each class, (images, classes)."""
    ood_scores: np.ndarray | None = None
    """Out-of-distribution scores, (images,); None for a model that never abstains."""
    embeddings: np.ndarray | None = None
    """Inputs of the last layer, averaged over places or tokens, (images, features); None where they were not asked
    for."""
