"""Random hold-out splits by groups of images, independent of file names and order.

A group lies on one side of every split. Where nothing names groups, the copies of an image are one, by their digest.
Groups are ranked by a hash of the seed and their name, or else the digest. The lowest ranks of each class are drawn. An
added image shifts the ranks of its own class by at most one place, so it moves at most one other group of that class
into or out of each split. If the number of drawn images is rounded differently, a group of another class may move too.
`hf_tl.record.LearnedFrom` protects evaluation from such moves.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import pyarrow as pa

from hf_tl.errors import DataError, name_some
from hf_tl.record.learned import DIGEST_BYTES

DRAWN = ("test", "validation")
"""Splits that are drawn if a dataset lacks them, in this order."""
IMAGE_BY_IMAGE = (
    "; or draw image by image: --group_pattern none, without --group_column and without --group_near_duplicates"
)


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
    groups: Sequence[str] = ()
    """Group of each image; empty where nothing names groups."""

    def ranks(self, seed: int) -> np.ndarray:
        """Return the rank of each image's group by a hash of the seed and the group's name, (images,).

        Images of equal rank are a group, which lies on one side of every split: without names of groups, copies.
        """
        units = pa.array([group.encode() for group in self.groups] if self.groups else self.digests, pa.large_binary())
        numbered = units.dictionary_encode()
        prefix = f"{seed}/".encode()
        hashes = b"".join(sha256(prefix + name).digest() for name in numbered.dictionary.to_pylist())
        columns = np.frombuffer(hashes, ">u8").reshape(-1, 4).T.astype(np.uint64)
        ranks = np.empty(columns.shape[1], np.int64)
        ranks[np.lexsort(columns[::-1])] = np.arange(len(ranks))
        return ranks[numbered.indices.to_numpy()]

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.labels.ndim == 2

    def counts(self, rows: Sequence[int] | None = None) -> np.ndarray:
        """Return the number of images of each class, (classes,)."""
        labels = self.labels if rows is None else self.labels[list(rows)]
        if self.is_multi_label:
            return np.asarray(labels.sum(axis=0))
        return np.asarray(np.bincount(labels, minlength=len(self.classes)))

    def classes_of(self, row: int) -> list[int]:
        """Return the classes of an image."""
        return np.flatnonzero(self.labels[row]).tolist() if self.is_multi_label else [int(self.labels[row])]

    def strata(self) -> np.ndarray:
        """Return the stratum of each image, (images,): its class, or for multi-label data whether it has any label."""
        return np.asarray(self.labels.any(axis=1), np.int64) if self.is_multi_label else self.labels

    def select(self, rows: Sequence[int]) -> "Pool":
        """Return the pool of the given rows."""
        groups = [self.groups[row] for row in rows] if self.groups else ()
        return Pool([self.digests[row] for row in rows], self.labels[np.asarray(rows, np.int64)], self.classes, groups)

    def without_groups(self) -> "Pool":
        """Return the pool as versions without groups drew from it."""
        return Pool(self.digests, self.labels, self.classes)


def number_units(units: Sequence[Hashable]) -> np.ndarray:
    """Return the number of the group of each image (images,), in the order in which the groups first occur.

    >>> number_units(["b", "a", "b"]).tolist()
    [0, 1, 0]
    """
    numbers: dict[Hashable, int] = {}
    return np.fromiter((numbers.setdefault(unit, len(numbers)) for unit in units), np.int64, len(units))


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
        learned: Digests, truncated to `DIGEST_BYTES`, of training images of the starting weights. These stay in train,
            with their groups.
        include_learned: Whether to draw such images nevertheless if no others remain.

    Returns:
        Rows of each drawn split and of `train`, ascending. Every class keeps an image in train.

    Raises:
        DataError: A class does not have enough distinct images or groups, or nothing can be drawn.
    """
    ranks = pool.ranks(seed)
    if not pool.is_multi_label:
        _require_units(pool, ranks, fractions)
    remaining = np.arange(len(ranks))
    splits: dict[str, list[int]] = {}
    for number, (split, fraction) in enumerate(fractions.items()):
        rest = pool.select(remaining.tolist())
        is_learned = _of_learned_groups(rest, ranks[remaining], learned)
        spare = 1 if pool.is_multi_label else len(fractions) - number
        quota = _quota(_stratum_counts(rest), fraction, spare, rest.is_multi_label)
        if is_learned.any() and not include_learned:
            later = list(fractions.values())[number + 1 :]
            quota = _share_out(rest, quota, is_learned, later, spare - 1)
        drawn = _draw(rest, ranks[remaining], quota.tolist(), spare, is_learned, include_learned)
        shown = rest.counts(drawn) > 0
        if not shown.any() or (is_learned.any() and not pool.is_multi_label and shown.sum() < 2):
            _refuse(pool, split, sum(digest[:DIGEST_BYTES] in learned for digest in rest.digests))
        splits[split] = remaining[drawn].tolist()
        remaining = np.delete(remaining, drawn)
    return {**splits, "train": remaining.tolist()}


def _of_learned_groups(pool: Pool, ranks: np.ndarray, learned: Collection[bytes]) -> np.ndarray:
    """Return whether the group of each image holds a training image of the starting weights, bool, (images,)."""
    if not learned:
        return np.zeros(len(ranks), bool)
    is_learned = np.fromiter((digest[:DIGEST_BYTES] in learned for digest in pool.digests), bool, len(ranks))
    return np.isin(ranks, ranks[is_learned])


def _require_units(pool: Pool, ranks: np.ndarray, fractions: Mapping[str, float]) -> None:
    different = _count_different(pool, ranks)
    minimum = 1 + len(fractions)
    small = [f"{pool.classes[label]} ({n})" for label, n in sorted(different.items()) if n < minimum]
    if not small:
        return
    raise DataError(
        f"classes with fewer than {minimum} {'groups of' if pool.groups else 'different'} images, too few for train, "
        f"{' and '.join(fractions)}: {name_some(small)}; add images, remove the class, or provide the splits"
        f"{IMAGE_BY_IMAGE if pool.groups else ''}"
    )


def _refuse(pool: Pool, split: str, learned: int) -> None:
    if learned:
        raise DataError(
            f"no {split} split can be drawn: an earlier training learned from {learned:,} of {len(pool.digests):,} "
            f"images, which would not measure generalization, and no class can spare another"
            f"{' group' if pool.groups else ''}; add images, provide a split {split}, or measure on training images "
            f"with --include_training_images{IMAGE_BY_IMAGE if pool.groups else ''}"
        )
    raise DataError(
        f"too few {'groups of ' if pool.groups else ''}images with labels to draw {split} and keep every class in "
        f"train; add images, or provide the split{IMAGE_BY_IMAGE if pool.groups else ''}"
    )


def _draw(
    pool: Pool, ranks: np.ndarray, quota: list[int], spare: int, is_learned: np.ndarray, include_learned: bool
) -> list[int]:
    """Draw groups by rank until each stratum has its quota; keep `spare` groups of each class."""
    ranked = _Ranked(ranks, is_learned, include_learned=include_learned)
    taken = _Taken(pool, ranks, quota, spare)
    waiting, total = [], sum(quota)
    for rows in ranked:
        if len(taken.rows) >= total:
            break
        if not taken.add(rows, taken.has_room) and pool.groups:
            waiting.append(rows)
    for rows in sorted(waiting, key=lambda rows: (is_learned[rows[0]], len(rows))):
        taken.add(rows, taken.comes_nearer)
    # if every group of a class is larger than the quota, draw one of them
    for stratum, wanted in enumerate(quota):
        if wanted and taken.room[stratum] == wanted:
            # copies with different labels count for the first label, so that the draws of earlier versions are repeated
            own = [rows for rows in ranked if stratum in taken.strata_of(rows if pool.groups else rows[:1])]
            own.sort(key=lambda rows: (is_learned[rows[0]], len(rows)))
            any(taken.add(rows) for rows in own)
    return sorted(taken.rows)


class _Ranked:
    """Rows of each group, by rank.

    Groups of training images of the starting weights come last, or are left out.
    """

    def __init__(self, ranks: np.ndarray, is_learned: np.ndarray, *, include_learned: bool) -> None:
        rows = np.arange(len(ranks)) if include_learned else np.flatnonzero(~is_learned)
        rows = rows[np.argsort(ranks[rows], kind="stable")]
        starts = np.flatnonzero(np.diff(ranks[rows], prepend=-1))
        order = np.argsort(is_learned[rows[starts]], kind="stable")
        self._rows, self._starts = rows.tolist(), starts[order].tolist()
        self._ends = np.append(starts, len(rows))[1:][order].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self._rows[start:end] for start, end in zip(self._starts, self._ends, strict=True))


class _Taken:
    """Groups that a draw has taken, and the images of each stratum that it still has room for."""

    def __init__(self, pool: Pool, ranks: np.ndarray, quota: list[int], spare: int) -> None:
        self.rows: list[int] = []
        self.room = list(quota)
        self._spare, self._pool, self._strata = spare, pool, pool.strata().tolist()
        self._remaining, self._is_multi_label = _count_different(pool, ranks), pool.is_multi_label

    def strata_of(self, rows: Sequence[int]) -> Mapping[int, int]:
        return {self._strata[rows[0]]: 1} if len(rows) == 1 else Counter(self._strata[row] for row in rows)

    def has_room(self, needed: Mapping[int, int]) -> bool:
        return all(self.room[stratum] >= count for stratum, count in needed.items())

    def comes_nearer(self, needed: Mapping[int, int]) -> bool:
        """Return whether a group brings the numbers of images nearer to the quota, above or below it."""
        after = sum(abs(self.room[stratum] - count) for stratum, count in needed.items())
        return after < sum(abs(self.room[stratum]) for stratum in needed)

    def add(self, rows: list[int], is_wanted: Callable[[Mapping[int, int]], bool] = lambda needed: True) -> bool:
        """Take a group if it is wanted and every class keeps enough others."""
        needed = self.strata_of(rows)
        if not is_wanted(needed):
            return False
        classes = {label for row in rows for label in self._pool.classes_of(row)} if self._is_multi_label else needed
        if any(self._remaining[label] <= self._spare for label in classes):
            return False
        self.rows += rows
        for stratum, count in needed.items():
            self.room[stratum] -= count
        for label in classes:
            self._remaining[label] -= 1
        return True


def _count_different(pool: Pool, ranks: np.ndarray) -> Counter[int]:
    """Count the groups of each class."""
    rows, labels = np.nonzero(pool.labels) if pool.is_multi_label else (np.arange(len(pool.labels)), pool.labels)
    different = np.unique(ranks[rows] * len(pool.classes) + labels) % len(pool.classes)
    return Counter(dict(zip(*(values.tolist() for values in np.unique(different, return_counts=True)), strict=True)))


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
    return np.minimum.reduce([part, quota, free])
