"""Perceptual hashes, and pairs of images with similar hashes."""

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.fft import dct

from hf_tl.data.decoding.colors import to_rgb

SMALLEST = 32
"""Smallest side in pixels of images that are compared by their pictures: smaller ones have too little detail."""
SIDE = 64
"""Side in pixels of the small gray version of an image."""
FREQUENCIES = 8
"""Lowest frequencies in each direction that the hash covers: 64 bits."""
COSINES = dct(np.eye(SIDE, dtype=np.float32), axis=0)[:FREQUENCIES]
"""Matrix of the cosine transform to these frequencies (frequencies, pixels)."""
DISTANCE, NEAREST = 18, 10
"""Largest number of different bits of a pair, and largest number of later images that an image is paired with."""
QUERIES, REFERENCES = 256, 8192
"""Size of the blocks in which all pairs are compared; memory does not depend on the number of images."""


def small_version(image: Image.Image) -> np.ndarray:
    """Return the small gray version of an upright image (64, 64), uint8."""
    gray = to_rgb(image).convert("L")
    return np.asarray(gray.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0))


def perceptual_hashes(small: np.ndarray) -> np.ndarray:
    """Return the perceptual hashes (pHash) of images: which low frequencies are above the median.

    The hash hardly changes when an image is resized, recompressed or recolored (Zauner 2010, Implementation and
    benchmarking of perceptual image hash functions).

    Args:
        small: Gray images (images, 64, 64), uint8.

    Returns:
        64 bits each (images,), uint64.
    """
    frequencies = (COSINES @ small.astype(np.float32) @ COSINES.T).reshape(len(small), -1)
    median = np.median(frequencies[:, 1:], axis=1, keepdims=True)  # without the mean brightness
    return np.packbits(frequencies > median, axis=1).view(np.uint64)[:, 0]


def similar_hashes(hashes: Sequence[int] | np.ndarray, distance: int = DISTANCE, nearest: int = NEAREST) -> np.ndarray:
    """Find pairs of images with similar hashes, in blocks.

    Args:
        hashes: Result of `perceptual_hashes`.
        distance: Largest number of different bits.
        nearest: Largest number of later images that an image is paired with; the most similar count.

    Returns:
        Pairs of rows (pairs, 2), the smaller row first.

    >>> similar_hashes([0b0011, 0b0111, 2**64 - 1], distance=2).tolist()
    [[0, 1]]
    """
    hashes = np.asarray(hashes, np.uint64)
    pairs = [np.empty((0, 2), np.int64)]
    for first in range(0, len(hashes), QUERIES):
        queries = hashes[first : first + QUERIES, None]
        block = []
        for start in range(first, len(hashes), REFERENCES):
            bits = _count_ones(queries ^ hashes[None, start : start + REFERENCES])
            rows, others = np.nonzero(bits <= distance)
            is_later = rows + first < others + start
            block.append(np.stack([rows + first, others + start, bits[rows, others]])[:, is_later])
        rows, others, bits = np.concatenate(block, axis=1)
        order = np.lexsort((bits, rows))
        rows, others = rows[order], others[order]
        rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
        pairs.append(np.stack([rows, others], axis=1)[rank < nearest])
    return np.concatenate(pairs)


def _count_ones(words: np.ndarray) -> np.ndarray:
    """Count the ones of each 64-bit word."""
    if hasattr(np, "bitwise_count"):  # not in NumPy 1
        return np.bitwise_count(words)
    return _ones_of_16_bits()[words.view(np.uint16)].reshape(*words.shape, 4).sum(axis=-1, dtype=np.uint8)


@functools.cache
def _ones_of_16_bits() -> np.ndarray:
    """Return the number of ones of each 16-bit word."""
    words = np.arange(1 << 16, dtype=np.uint16)[:, None].view(np.uint8)
    return np.unpackbits(words, axis=1).sum(axis=1, dtype=np.uint8)
