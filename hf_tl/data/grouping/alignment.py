"""Whether two images are the same picture, after resizing, recompression, recoloring or a crop of up to about 5%.

Small gray versions are laid over each other. Of one picture, parts of 90 to 100% of the width and height are stretched
to the whole; the similarity is the correlation of the pixels at the best part of either picture. Different photos of
similar scenes reach 0.990, altered versions of the same photo 0.9917 and more (`scripts/check_inspect.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from hf_tl.data.grouping.hashes import SIDE

SAME_PICTURE = 0.991
"""Smallest similarity of near-duplicates."""
PLAIN, ROUGH = 0.75, 0.94
"""Smallest correlation without an alignment, and with a rough one, of pairs that are compared further."""
PAIRS = 128
"""Number of pairs that are compared at a time."""


@dataclass(frozen=True)
class Windows:
    """Parts of a row of pixels, each resized linearly to the same number of pixels."""

    matrices: np.ndarray
    """Matrices (windows, resized pixels, pixels); the first one takes the whole row."""

    @classmethod
    def of(cls, pixels: int, resized: int, shares: tuple[float, ...], places: tuple[float, ...]) -> "Windows":
        """Return the whole row, and the parts of these shares at these places (0: start, 1: end)."""
        centers = (np.arange(resized) + 0.5) / resized
        matrices = []
        for share, place in [(1.0, 0.0), *product(shares, places)]:
            positions = (place * (1 - share) + share * centers) * pixels - 0.5
            distances = np.abs(np.arange(pixels)[None] - positions[:, None])
            weights = np.maximum(0, 1 - distances / max(1, pixels / resized))
            matrices.append(weights / weights.sum(1, keepdims=True))
        return cls(np.stack(matrices).astype(np.float32))


ROUGHLY = Windows.of(SIDE, 16, (0.95, 0.9), (0, 0.5, 1))
COARSE = Windows.of(SIDE, 32, (0.95, 0.9), (0, 0.5, 1))
FINE = Windows.of(SIDE, 32, (0.98, 0.965, 0.95, 0.935, 0.92, 0.9), (0, 0.2, 0.4, 0.6, 0.8, 1))
ROUNDS = 2
"""Number of times that the fine windows in both directions are searched, each with the other direction fixed."""


def near_duplicates(pairs: np.ndarray, read: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Select the pairs that show the same picture.

    Args:
        pairs: Rows of candidate pairs (pairs, 2).
        read: Function from rows to their small gray versions (images, 64, 64), uint8.

    Returns:
        The selected pairs (pairs, 2), and their similarities (pairs,).
    """
    selected, similarities = [np.empty((0, 2), np.int64)], [np.empty(0, np.float32)]
    for start in range(0, len(pairs), PAIRS):
        chunk = pairs[start : start + PAIRS]
        first, second = (read(rows).astype(np.float32) for rows in chunk.T)
        kept = np.arange(len(chunk))
        for smallest, compare in ((PLAIN, _plain), (ROUGH, _rough), (SAME_PICTURE, _exact)):
            similarity = compare(first[kept], second[kept])
            kept, similarity = kept[similarity >= smallest], similarity[similarity >= smallest]
        selected.append(chunk[kept])
        similarities.append(similarity)
    return np.concatenate(selected), np.concatenate(similarities)


def _plain(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (_resized(first, ROUGHLY) * _resized(second, ROUGHLY)).sum((1, 2))


def _rough(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.maximum(_coarse(first, second, ROUGHLY)[0], _coarse(second, first, ROUGHLY)[0])


def _exact(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.maximum(_refined(first, second), _refined(second, first))


def _resized(pictures: np.ndarray, windows: Windows) -> np.ndarray:
    """Return whole pictures, resized and standardized (images, height, width)."""
    whole = windows.matrices[0]
    return _standardized(whole @ pictures @ whole.T)


def _coarse(whole: np.ndarray, cut: np.ndarray, windows: Windows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare a picture with all parts of another; return the best similarity, and the windows in both directions."""
    matrices = windows.matrices
    rows = matrices[None] @ cut[:, None]
    parts = _standardized(rows[:, :, None] @ matrices.transpose(0, 2, 1)[None, None])
    similarity = np.einsum("pyx,pcdyx->pcd", _resized(whole, windows), parts, optimize=True)
    similarity = similarity.reshape(len(whole), len(matrices) ** 2)
    best = similarity.argmax(1)
    return similarity.max(1), matrices[best // len(matrices)], matrices[best % len(matrices)]


def _refined(whole: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """Return the similarity of a picture to the best part of another, refined in one direction after the other."""
    picture, matrices = _resized(whole, FINE), FINE.matrices
    best, vertical, horizontal = _coarse(whole, cut, COARSE)
    for _ in range(ROUNDS):
        columns = cut @ horizontal.transpose(0, 2, 1)
        parts = _standardized(matrices[None] @ columns[:, None])
        similarity = np.einsum("pyx,pcyx->pc", picture, parts, optimize=True)
        vertical = matrices[similarity.argmax(1)]
        rows = vertical @ cut
        parts = _standardized(rows[:, None] @ matrices.transpose(0, 2, 1)[None])
        similarity = np.einsum("pyx,pcyx->pc", picture, parts, optimize=True)
        horizontal = matrices[similarity.argmax(1)]
        best = np.maximum(best, similarity.max(1))
    return best


def _standardized(pictures: np.ndarray) -> np.ndarray:
    """Return pictures of mean 0 and length 1; a picture of one color becomes 0, which is similar to nothing."""
    centered = pictures - pictures.mean((-1, -2), keepdims=True)
    length = np.sqrt(np.square(centered).sum((-1, -2), keepdims=True))
    return centered / np.maximum(length, 1.0)
