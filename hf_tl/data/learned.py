"""Data leakage: training images of a checkpoint in a dataset, found by content and excluded from evaluation."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_tl.data.drawing import DRAWN, Pool, draw_splits
from hf_tl.errors import DataError
from hf_tl.record.learned import DIGEST_BYTES, LearnedFrom, LearnedSplit, split_digest

if TYPE_CHECKING:
    from hf_tl.data.image_data import ImageData

FLAG = "--include_training_images"


@dataclass(frozen=True)
class Leakage:
    """Training images of a model in a split."""

    split: str
    images: int
    """Number of images in the split, before any were left out."""
    learned: int = 0
    """Number of training images of the model that are evaluated nevertheless."""
    left_out: int = 0
    """Number of training images of the model that are excluded from evaluation."""
    unknown: tuple[LearnedSplit, ...] = ()
    """Training splits of the model that cannot be compared, because digests are missing on one side."""
    model: str = "the model"
    """Name of the model in messages."""
    are_streamed: bool = False
    """Whether the images of the split are streamed, and so have no digests."""

    @property
    def measured(self) -> int:
        """Number of images to evaluate on."""
        return self.images - self.left_out

    def to_record(self) -> dict[str, Any]:
        """Return the leakage as plain values."""
        return {"learned": self.learned, "left_out": self.left_out, "notes": self.describe()}

    @property
    def _named(self) -> str:
        return "" if self.split == "all" else f"{self.split} "

    def describe(self) -> list[str]:
        """Return one sentence per issue for the user; none if there is no leakage."""
        trained_on = self.learned + self.left_out
        texts = []
        if trained_on:
            are = f"{trained_on:,} of {self.images:,} {self._named}images are training images of {self.model}"
            texts.append(f"{are}: " + ("left out" if self.left_out else "not an estimate of generalization"))
        for split in self.unknown:
            why = "published without image digests" if split.digest is not None else "recorded without image digests"
            why = "streamed images are not compared" if self.are_streamed else why
            images = f"{split.images:,} training images" if split.images else "training images"
            texts.append(
                f"hf_tl cannot tell whether the {self._named}images were among the {images} of split {split.split} of "
                f"{split.data} ({why}), which {self.model} learned from"
            )
        return texts


def learn(learned: LearnedFrom, data: "ImageData", split: str) -> LearnedFrom:
    """Return the training images of weights after training on a split of `data`."""
    draws = data.draws
    seeds = {draw.seed for draw in draws.values()}
    return learned.plus(
        data.name,
        split,
        len(data.splits[split]),
        data.digests.get(split),
        seed=seeds.pop() if len(seeds) == 1 else None,
        **{f"{name}_fraction": draws[name].share if name in draws else None for name in DRAWN},
    )


def resolve(learned: LearnedFrom, data: "ImageData") -> LearnedFrom:
    """Find the images behind the split digests of a published model in a dataset that contains them.

    A Hub model publishes one digest per split. A split of `data` with that digest contains the same images, even if it
    must first be drawn again; the digests of its images are added. Splits that are not found stay unknown.

    Args:
        learned: Training images of the weights.
        data: Dataset, in any splits.
    """
    if learned.is_complete or not data.digests:
        return learned
    own = {split: digests for split, digests in data.digests.items() if split not in data.draws}
    if "train" in data.digests:
        own["train"] = data.digests["train"]
    # of a dataset without splits, any image may be one that was drawn
    return resolve_in(learned, own, data.pool(["train", *data.draws] if "train" in own else list(own)))


def resolve_in(learned: LearnedFrom, splits: Mapping[str, Sequence[bytes]], pool: Pool) -> LearnedFrom:
    """Find the images behind split digests; see `resolve`.

    Args:
        learned: Training images of the weights.
        splits: Image digests of the splits.
        pool: Images that splits are drawn from.
    """
    if learned.is_complete:
        return learned
    candidates = [*splits.values(), pool.digests]
    known = {split_digest(digests): digests for digests in candidates}
    digests, pins, unknown = learned.digests, learned.digests, []
    for split in learned.splits:
        if split.split == "train":  # a new training: its hold-out splits contain no earlier training images
            pins = digests
        if split not in learned.unknown:
            continue
        if split.digest is not None and split.digest not in known:
            known |= {split_digest(drawn): drawn for drawn in _drawn_again(split, pool, pins)}
        digests_of_split = None if split.digest is None else known.get(split.digest)
        if digests_of_split is None:
            unknown.append(split)
        else:
            digests = digests.union(digest[:DIGEST_BYTES] for digest in digests_of_split)
    return replace(learned, digests=digests, unknown=tuple(unknown))


def _drawn_again(split: LearnedSplit, pool: Pool, pins: frozenset[bytes]) -> Iterator[list[bytes]]:
    """Yield the splits of an earlier training, drawn again with all earlier training images kept in train."""
    fractions = {"test": split.test_fraction, "validation": split.validation_fraction}
    wanted = {name: share for name, share in fractions.items() if share is not None}
    if split.seed is None or not wanted:
        return
    pools = [pool, pool.without_groups()] if pool.groups else [pool]  # earlier versions knew no groups
    for images, include_learned in itertools.product(pools, (False, True) if pins else (False,)):
        try:
            drawn = draw_splits(images, wanted, split.seed, pins, include_learned=include_learned)
        except DataError:
            continue  # the images have changed since
        yield from ([pool.digests[row] for row in rows] for rows in drawn.values())


def leave_out_learned(
    data: "ImageData",
    learned: LearnedFrom,
    splits: Sequence[str] = ("validation", "test"),
    *,
    keep: bool = False,
    model: str = "the starting model",
) -> tuple["ImageData", dict[str, Leakage]]:
    """Exclude training images of the weights from the evaluation splits, and note how many.

    Args:
        data: Dataset.
        learned: Training images of the weights; see `resolve`.
        splits: Evaluation splits.
        keep: Whether to count such images without excluding them.
        model: Name of the model in messages.

    Returns:
        Data, and the leakage of each split.

    Raises:
        DataError: The remaining images do not allow an evaluation.
    """
    leakage, notes = {}, list(data.notes)
    for split in splits:
        images = len(data.splits[split])
        if not data.digests:
            are_streamed = bool(learned.splits)
            leak = Leakage(split, images, unknown=learned.splits, model=model, are_streamed=are_streamed)
        else:
            is_learned = learned.mask(data.digests[split])
            count = int(is_learned.sum())
            kept, out = (count, 0) if keep else (0, count)
            leak = Leakage(split, images, kept, out, learned.unknown, model)
            if leak.left_out:
                data = _without(data, split, np.flatnonzero(~is_learned).tolist(), leak)
        leakage[split] = leak
        notes += [text for text in leak.describe() if text not in notes]
    return replace(data, notes=tuple(notes)), leakage


def _without(data: "ImageData", split: str, rows: list[int], leakage: Leakage) -> "ImageData":
    remaining = data.select(split, rows)
    before, after = (sum(count > 0 for count in each.class_counts(split)) for each in (data, remaining))
    if after < min(2, before) or not rows:
        others = (
            f"the {len(rows):,} others show {'one class' if after else 'no class'}" if rows else "no other is there"
        )
        raise DataError(
            f"{leakage.left_out:,} of {leakage.images:,} {split} images are training images of {leakage.model}, and "
            f"{others}, so generalization cannot be measured: use other images, or measure on "
            f"training images with {FLAG}"
        )
    return remaining
