"""Sample of images for the evidence: of limited size, without duplicates."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset, Image, concatenate_datasets

from hf_tl.data.columns import IMAGE, LABEL
from hf_tl.data.fingerprint import row_name
from hf_tl.data.grouping.near_duplicates import near_duplicates_of
from hf_tl.errors import DataError, name_some
from hf_tl.record import LearnedFrom

if TYPE_CHECKING:
    from hf_tl.data.datasets import ImageData

IMAGES = 2_000
"""Largest number of images in the sample."""
EVEN = 5
"""Images of each class that come first, before the classes are drawn in proportion to their size."""
NAMED = 20
"""Largest number of named groups of copies, and of named conflicts."""


@dataclass(frozen=True)
class Copies:
    """Files that hold the same image."""

    names: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def is_conflict(self) -> bool:
        """Return whether the copies have different labels."""
        return len(set(self.labels)) > 1

    def __str__(self) -> str:
        return " = ".join(f"{name} ({label})" for name, label in zip(self.names, self.labels, strict=True))


@dataclass(frozen=True)
class Sample:
    """Sample of images with their labels."""

    images: Dataset
    """Images; any first part of them is as balanced or proportional as the whole."""
    labels: np.ndarray
    """Class indices (images,)."""
    classes: tuple[str, ...]
    available: int
    """Number of images in train and validation."""
    learned: int
    """Images left out because a backbone was trained on them: its features depend on their labels."""
    copies: int
    """Images left out as copies of another image of the same class."""
    conflicts: int
    """Groups of copies with different labels; all of them are left out."""
    named: tuple[Copies, ...]
    """Names of some of the groups, conflicts first."""
    groups: tuple[str, ...] | None = None
    """Group of each image, as the data name it; None for no groups."""
    pairs: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    """Pairs of near-duplicates (pairs, 2)."""


def draw_sample(data: "ImageData", limit: int = IMAGES, seed: int = 0, learned: LearnedFrom | None = None) -> Sample:
    """Draw a stratified sample of train and validation, without duplicates.

    The test images are not used, because they measure the recommended training later.

    Args:
        data: Data with one label per image.
        limit: Largest number of images in the sample.
        seed: Random seed of the order.
        learned: Training images of the backbones; they are left out.

    Raises:
        DataError: The data are multi-label, or fewer than two classes have two images.
    """
    if data.problem_type != "single_label_classification":
        raise DataError(
            "expected one label per image (hf-tl recommend, --strategy auto), found multi-label data; name a column "
            "of single labels with --label_column, or choose a strategy yourself: hf-tl train --strategy finetune"
        )
    rows = concatenate_datasets([data.splits[split] for split in ("train", "validation")])
    labels = np.asarray(rows[LABEL][:])
    digests = [*data.digests["train"], *data.digests["validation"]]
    named_groups = [*data.groups.get("train", ()), *data.groups.get("validation", ())]
    is_learned = (learned or LearnedFrom()).mask(digests)
    groups = _copies(digests)
    conflicts = [group for group in groups if len(set(labels[group].tolist())) > 1]
    same = [group for group in groups if len(set(labels[group].tolist())) == 1]
    left_out = set(np.flatnonzero(is_learned).tolist())
    left_out |= {row for group in conflicts for row in group} | {row for group in same for row in group[1:]}
    kept = np.array([row for row in range(len(labels)) if row not in left_out], dtype=int)
    counts = np.bincount(labels[kept], minlength=len(data.labels))
    if int((counts >= 2).sum()) < 2:
        if is_learned.any():
            raise DataError(
                f"nothing can be measured: {int(is_learned.sum()):,} of {len(digests):,} images of train and "
                "validation are training images of a backbone, so that its features depend on their labels; add "
                "images, or include them with --include_training_images"
            )
        images = name_some(f"{name} ({count})" for name, count in zip(data.labels, counts, strict=True))
        raise DataError(
            "nothing can be measured: expected at least two classes with two different images each in train and "
            f"validation, found {images}; add images"
        )
    chosen = kept[stratified_order(labels[kept], seed)[:limit]]
    stored = rows.cast_column(IMAGE, Image(decode=False))
    images = rows.select(chosen, keep_in_memory=True)
    return Sample(
        images=images,
        labels=labels[chosen],
        classes=data.labels,
        available=len(labels),
        learned=int(is_learned.sum()),
        copies=sum(len(group) - 1 for group in same),
        conflicts=len(conflicts),
        named=tuple(
            Copies(
                tuple(_name(stored[row][IMAGE], row) for row in group),
                tuple(data.labels[labels[row]] for row in group),
            )
            for group in [*conflicts[:NAMED], *same[:NAMED]]
        ),
        groups=tuple(named_groups[row] for row in chosen) if named_groups else None,
        pairs=near_duplicates_of({"sample": images}, [digests[row] for row in chosen]),
    )


def _name(stored: Any, row: int) -> str:
    """Return the image's file within the dataset, or its row: reports contain no path of this machine."""
    return "/".join(Path(row_name(stored, row, "train and validation")).parts[-3:])


def _copies(digests: Sequence[bytes]) -> list[list[int]]:
    """Group the rows whose stored images are identical, byte for byte."""
    groups: defaultdict[bytes, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        groups[digest].append(row)
    return [group for group in groups.values() if len(group) > 1]


def stratified_order(labels: Sequence[int] | np.ndarray, seed: int) -> np.ndarray:
    """Order images so that any first part is a stratified sample.

    The first images of each class come first. The others follow in proportion to the size of their class.

    >>> labels = [0] * 90 + [1] * 10
    >>> [np.bincount(np.array(labels)[stratified_order(labels, 0)[:n]]).tolist() for n in (10, 40)]
    [[5, 5], [35, 5]]
    """
    labels = np.asarray(labels)
    order = np.random.default_rng(seed).permutation(len(labels))
    counts = np.bincount(labels)
    seen = np.zeros_like(counts)
    keys = np.empty((len(labels), 2))
    for row in order:
        rank, label = seen[labels[row]], labels[row]
        seen[label] += 1
        keys[row] = (rank, 0) if rank < EVEN else (EVEN, (rank + 0.5) / counts[label])
    return order[np.lexsort((keys[order, 1], keys[order, 0]))]
