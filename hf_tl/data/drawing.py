"""Random hold-out splits by image content, independent of file names and order.

Images are ranked by a hash of the seed and their digest. Copies of an image share a digest, so they stay in one split.
The lowest ranks of each class are drawn. An added image shifts the ranks of its own class by at most one place, so it
moves at most one other image of that class into or out of each split. If the number of drawn images is rounded
differently, an image of another class may move too. `hf_tl.record.LearnedFrom` protects evaluation from such moves.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from hf_tl.errors import DataError, name_some
from hf_tl.record.learned import DIGEST_BYTES

DRAWN = ("test", "validation")
"""Splits that are drawn if a dataset lacks them, in this order."""


@dataclass(frozen=True)
class Draw:
    """Parameters with which a split was drawn from the training images."""

    share: float
    """Requested share of the images."""
    seed: int


@dataclass(frozen=True)
class Pool:
    """Images to draw from."""

    digests: Sequence[bytes]
    labels: np.ndarray
    """Class indices (images,), or zeros and ones (images, classes)."""
    classes: tuple[str, ...]

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.labels.ndim == 2

    def counts(self, rows: Sequence[int] | None = None) -> np.ndarray:
        """Return the number of images of each class, (classes,)."""
        labels = self.labels if rows is None else self.labels[list(rows)]
        if self.is_multi_label:
            return np.asarray(labels.sum(axis=0, dtype=np.int64))
        return np.asarray(np.bincount(labels, minlength=len(self.classes)))

    def classes_of(self, row: int) -> list[int]:
        """Return the classes of an image."""
        return np.flatnonzero(self.labels[row]).tolist() if self.is_multi_label else [int(self.labels[row])]

    def strata(self) -> np.ndarray:
        """Return the stratum of each image, (images,): its class, or for multi-label data whether it has any label."""
        return np.asarray(self.labels.any(axis=1), np.int64) if self.is_multi_label else self.labels

    def select(self, rows: Sequence[int]) -> "Pool":
        """Return the pool of the given rows."""
        return Pool([self.digests[row] for row in rows], self.labels[list(rows)], self.classes)


def draw_splits(
    pool: Pool,
    fractions: Mapping[str, float],
    seed: int,
    learned: Collection[bytes] = frozenset(),
    *,
    include_learned: bool = False,
) -> dict[str, list[int]]:
    """Draw the splits that a dataset lacks from its training images.

    Args:
        pool: Training images.
        fractions: Share of each split, `test` before `validation`; each is a share of the images that remain.
        seed: Random seed.
        learned: Digests, truncated to `DIGEST_BYTES`, of training images of the starting weights. These stay in train.
        include_learned: Whether to draw such images nevertheless if no others remain.

    Returns:
        Rows of each drawn split and of `train`, ascending. Every class keeps an image in train.

    Raises:
        DataError: A class does not have enough distinct images, or nothing can be drawn.
    """
    if not pool.is_multi_label:
        _require_images(pool, fractions)
    remaining = list(range(len(pool.digests)))
    splits: dict[str, list[int]] = {}
    for number, (split, fraction) in enumerate(fractions.items()):
        rest = pool.select(remaining)
        is_learned = np.fromiter((digest[:DIGEST_BYTES] in learned for digest in rest.digests), bool, len(remaining))
        spare = 1 if pool.is_multi_label else len(fractions) - number
        quota = _quota(_stratum_counts(rest), fraction, spare, rest.is_multi_label)
        if is_learned.any() and not include_learned:
            later = list(fractions.values())[number + 1 :]
            quota = _share_out(rest, quota, is_learned, later, spare - 1)
        drawn = _draw(rest, quota.tolist(), seed, spare, is_learned, include_learned)
        shown = rest.counts(drawn) > 0
        if not shown.any() or (is_learned.any() and not pool.is_multi_label and shown.sum() < 2):
            _refuse(pool, split, int(is_learned.sum()))
        splits[split] = [remaining[row] for row in drawn]
        kept = set(splits[split])
        remaining = [row for row in remaining if row not in kept]
    return {**splits, "train": remaining}


def _require_images(pool: Pool, fractions: Mapping[str, float]) -> None:
    different = Counter(label for _, label in set(zip(pool.digests, pool.labels.tolist(), strict=True)))
    minimum = 1 + len(fractions)
    if small := [f"{pool.classes[label]} ({n})" for label, n in sorted(different.items()) if n < minimum]:
        raise DataError(
            f"classes with fewer than {minimum} different images, too few for train, {' and '.join(fractions)}: "
            f"{name_some(small)}; add images, remove the class, or provide the splits"
        )


def _refuse(pool: Pool, split: str, learned: int) -> None:
    if learned:
        raise DataError(
            f"no {split} split can be drawn: the starting model learned from {learned:,} of {len(pool.digests):,} "
            f"images, which would not measure generalization, and no class can spare another; add images, provide a "
            f"split {split}, or measure on training images with --include_training_images"
        )
    raise DataError(
        f"too few images with labels to draw {split} and keep every class in train; add images, or provide the split"
    )


def _draw(
    pool: Pool, quota: list[int], seed: int, spare: int, is_learned: np.ndarray, include_learned: bool
) -> list[int]:
    """Draw groups of copies by rank until each stratum has its quota; keep `spare` different images of each class."""
    groups: defaultdict[bytes, list[int]] = defaultdict(list)
    for row, digest in enumerate(pool.digests):
        if include_learned or not is_learned[row]:
            groups[digest].append(row)
    different = _count_different(pool)
    prefix = f"{seed}/".encode()
    ranked = sorted(groups.items(), key=lambda item: (is_learned[item[1][0]], sha256(prefix + item[0]).digest()))
    strata = pool.strata().tolist()
    room, drawn, total = list(quota), [], sum(quota)

    def take(rows: list[int], *, is_over: bool) -> bool:
        needed = Counter(strata[row] for row in rows)
        classes = {label for row in rows for label in pool.classes_of(row)}
        if any(different[label] - 1 < spare for label in classes):
            return False
        if not is_over and any(room[stratum] < count for stratum, count in needed.items()):
            return False
        drawn.extend(rows)
        for stratum, count in needed.items():
            room[stratum] -= count
        for label in classes:
            different[label] -= 1
        return True

    for _, rows in ranked:
        if len(drawn) >= total:
            break
        take(rows, is_over=False)
    # if every image of a class has more copies than the quota, draw one image with its copies
    for stratum, wanted in enumerate(quota):
        if wanted and room[stratum] == wanted:
            own = [rows for _, rows in ranked if strata[rows[0]] == stratum]
            own.sort(key=lambda rows: (is_learned[rows[0]], len(rows)))
            any(take(rows, is_over=True) for rows in own)
    return sorted(drawn)


def _count_different(pool: Pool) -> Counter[int]:
    """Count the images of each class, copies once."""
    return Counter(
        label
        for _, label in {(digest, label) for row, digest in enumerate(pool.digests) for label in pool.classes_of(row)}
    )


def _stratum_counts(pool: Pool) -> np.ndarray:
    return np.bincount(pool.strata(), minlength=2 if pool.is_multi_label else len(pool.classes))


def _quota(counts: np.ndarray, share: float, spare: int, is_multi_label: bool) -> np.ndarray:
    """Return the number of images to draw per stratum: its share, at least one, by the largest-remainder method."""
    total = math.ceil(share * int(counts.sum()))
    if is_multi_label:
        labeled = math.ceil(share * int(counts[1]))
        return np.array([total - labeled, labeled])
    wanted = share * counts
    quota = np.minimum(np.maximum(np.floor(wanted), counts > 0), np.maximum(counts - spare, 0)).astype(np.int64)
    for label in np.argsort(-(wanted - quota), kind="stable")[: max(0, total - int(quota.sum()))]:
        quota[label] += counts[label] - spare > quota[label]
    return quota


def _share_out(pool: Pool, quota: np.ndarray, is_learned: np.ndarray, later: Sequence[float], spare: int) -> np.ndarray:
    """Reserve images for the next split if fewer images can be drawn than both splits request."""
    counts = _stratum_counts(pool)
    free = np.bincount(pool.strata()[~is_learned], minlength=len(counts))
    wanted = quota + sum(_quota(counts - quota, share, spare, pool.is_multi_label) for share in later)
    part = np.maximum(free * quota // np.maximum(wanted, 1), quota > 0)
    return np.minimum(np.where(free < wanted, part, quota), free)
