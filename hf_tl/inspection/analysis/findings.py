"""Findings among the images: copies, suspected label errors and outliers."""

from dataclasses import dataclass

import numpy as np

from hf_tl.inspection.analysis.copies import SIMILAR as SIMILAR_EMBEDDINGS
from hf_tl.inspection.analysis.copies import Copies, find_copies
from hf_tl.inspection.analysis.label_errors import LabelErrors, find_label_errors
from hf_tl.inspection.analysis.outliers import Outliers, find_outliers
from hf_tl.inspection.embedding import embed, nearest_neighbors
from hf_tl.inspection.opening import LabeledImages
from hf_tl.inspection.reading import Facts
from hf_tl.reporting.console import say

SAMPLE = 5_000
"""Largest number of images, in random choice, that components and the linear probe are fitted to."""
NEIGHBORS = 10
"""Number of nearest neighbors of each image that are looked for."""


@dataclass(frozen=True)
class Findings:
    """Findings of an inspection."""

    copies: tuple[Copies, ...]
    label_errors: LabelErrors | None
    """None without a backbone, for several labels per image, and for too few images."""
    outliers: Outliers | None
    """None without a backbone, and for too few images."""


def analyze(images: LabeledImages, facts: Facts, seed: int = 0) -> Findings:
    """Find copies and, from the features of a backbone, suspected label errors and outliers.

    Args:
        images: Images.
        facts: Result of `read_images`.
        seed: Random seed of the sample and of the folds of the linear probe.
    """
    rows = facts.readable
    if facts.features is None or len(rows) < 2:
        say(None, f"Comparing {len(rows):,} images by their perceptual hashes")
        return Findings(find_copies(images, facts), None, None)
    say(None, f"Comparing {len(rows):,} images by their perceptual hashes and embeddings")
    sample = np.sort(np.random.default_rng(seed).permutation(rows)[:SAMPLE])
    similarities, neighbors = nearest_neighbors(embed(facts.features, sample, rows), NEIGHBORS)
    is_similar = similarities >= SIMILAR_EMBEDDINGS
    pairs = np.stack([np.repeat(rows, is_similar.sum(1)), rows[neighbors[is_similar]]], axis=1)
    copies = find_copies(images, facts, pairs)
    errors = None
    if not images.is_multi_label:
        say(None, f"Judging the labels by a linear probe of {len(sample):,} images")
        errors = find_label_errors(facts.features, images.labels, len(images.classes), rows, sample, seed)
    return Findings(copies, errors, find_outliers(rows, similarities))
