"""Checked splits of images with one list of labels."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from datasets import Dataset, DatasetDict

from hf_tl.data.columns import LABEL, column_of, holds_lists
from hf_tl.data.decoding.conversions import Conversions
from hf_tl.data.drawing import Draw, Pool
from hf_tl.data.fingerprint import digest_in_order, fingerprint_of
from hf_tl.data.multi_label import flags_of
from hf_tl.data.streaming.streams import fingerprint_of_streams
from hf_tl.errors import name_some
from hf_tl.record import DataRecord, GroupRecord, InspectionRecord, SplitRecord, split_digest
from hf_tl.record.inspection import find_inspection
from hf_tl.record.parts import DataSource
from hf_tl.reporting.shown import Shown
from hf_tl.wording import worded


@dataclass(frozen=True, repr=False)
class ImageData(Shown):
    """Splits that are ready for training: labeled, disjoint, with the same classes in the same order."""

    splits: DatasetDict
    """Splits train, validation and test, each with the columns `image` and `label`: a `ClassLabel`, or for multi-label
    data a list of zeros and ones, one per class. Streamed splits are `StreamedImages`."""
    labels: tuple[str, ...]
    name: str
    """Publishable name: a Hub id, "digits", or the folder's own name, never a path."""
    revision: str | None
    """Commit of the Hub repository, if there is one."""
    license: str | None
    notes: tuple[str, ...]
    """Changes to the data: splits drawn or renamed, images left out."""
    source: DataSource = "memory"
    """Kind of source; `built-in` is scikit-learn's digits only."""
    layout: str = ""
    """Format in words: class folders, table, parquet files."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Origin of each split that was not drawn came from: a folder, a table, a value of a column."""
    draws: Mapping[str, Draw] = field(default_factory=dict)
    """Parameters of the drawn splits; the other splits are the dataset's own."""
    digests: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict, repr=False)
    """SHA-256 of each image by split, in row order. Empty for streams, whose content is not read."""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    """Group of each image by split, in row order; empty where nothing names groups. Drawn splits share no group."""
    grouping: GroupRecord | None = None
    """Origin of the groups, as the data were loaded."""
    conversions: Mapping[str, Conversions] = field(default_factory=dict, repr=False)
    """Images by split that a plain `pipeline()` converts differently. Empty before `check_images`, and for streams."""
    problem_type: str = "single_label_classification"
    """Problem type as in a model's config; in `multi_label_classification` an image has any number of classes."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Recommended settings of a built-in dataset: `image_size`, `horizontal_flip`."""
    inspection: InspectionRecord | None = None
    """Counts of an inspection of these images and labels, if there is one."""
    root: Path | None = field(default=None, repr=False)
    """Folder that holds the images, if they are one by one in a folder, whose index is used."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "notes", tuple(map(worded, self.notes)))

    def facts(self) -> Iterator[tuple[str, str]]:
        """Yield how the data were read, and the images of each split."""
        first, *splits = self.describe()
        yield "Data", first
        for line in splits:
            split, images = line.split(maxsplit=1)
            yield split, images.replace("  ", ", ")
        if self.notes:
            yield "Notes", "; ".join(self.notes)

    def cells(self) -> list[list[str]]:
        """Return the number of images of each class by split."""
        counts = [self.class_counts(split) for split in self.splits]
        rows = zip(self.labels, *counts, strict=True)
        return [["class", *self.splits], *([label, *map(str, numbers)] for label, *numbers in rows)]

    def class_counts(self, split: str) -> list[int]:
        """Count the images of each class in a split, in the order of `labels`."""
        return class_counts_of(self.splits[split], len(self.labels))

    @property
    def set_apart(self) -> frozenset[str]:
        """Splits that were drawn from train because the dataset lacked them."""
        return frozenset(self.draws)

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the labeled images by all their bytes, independent of order and split.

        It is the same on every machine and in every run. For streams, it covers files, labels and splits.
        """
        if not self.digests:
            return fingerprint_of_streams(self.splits, self.labels)
        labels = [label for rows in self.splits.values() for label in column_of(rows, LABEL).to_pylist()]
        digests = [digest for split in self.splits for digest in self.digests[split]]
        return fingerprint_of(digests, labels, self.labels)

    @cached_property
    def orders(self) -> dict[str, str]:
        """Fingerprint of the images of each split in their order, independent of their labels.

        The keys are the `_fingerprint` of the split in datasets, which is unique to the selection of its rows.
        """
        return {
            self.splits[split]._fingerprint: digest_in_order(digests)
            for split, digests in self.digests.items()
            if isinstance(self.splits[split], Dataset)
        }

    @property
    def units(self) -> dict[str, Sequence[str | bytes]]:
        """Return the group of each image by split, in row order, or its digest where nothing names groups.

        Images of equal units are not independent. Empty for streams.
        """
        return {split: self.groups.get(split) or self.digests.get(split, ()) for split in self.splits}

    def select(self, split: str, rows: Sequence[int]) -> Self:
        """Return the data with only the given images of a split, in that order; every omission of images uses this."""
        splits = type(self.splits)(self.splits)
        splits[split] = self.splits[split].select(np.asarray(rows, np.int64), keep_in_memory=True)
        digests, groups = dict(self.digests), dict(self.groups)
        if digests:
            digests[split] = tuple(digests[split][row] for row in rows)
        if groups:
            groups[split] = tuple(groups[split][row] for row in rows)
        conversions = dict(self.conversions)
        if split in conversions:
            conversions[split] = conversions[split].select(rows)
        return replace(self, splits=splits, digests=digests, groups=groups, conversions=conversions)

    def pool(self, splits: Iterable[str]) -> Pool:
        """Return the digests, labels and groups of several splits together."""
        names = list(splits)
        labels = np.concatenate([targets_of(self.splits[split]) for split in names])
        digests = [digest for split in names for digest in self.digests[split]]
        groups = [group for split in names for group in self.groups[split]] if self.groups else ()
        return Pool(digests, labels, self.labels, groups)

    def to_record(self) -> DataRecord:
        """Return the data entry of a run's record."""
        return DataRecord(
            name=self.name,
            labels=self.labels,
            splits={split: self._split_record(split) for split in self.splits},
            fingerprint=self.fingerprint,
            source=self.source,
            revision=self.revision,
            license=self.license,
            notes=self.notes,
            layout=self.layout or None,
            inspection=self.inspection,
            groups=self._group_record(),
        )

    def with_inspection(self, folder: str | None) -> Self:
        """Return the data with the counts of an inspection of exactly these images and labels.

        Args:
            folder: Output folder of `hf-tl inspect`. By default, the one that it chooses for this dataset is looked up.

        Raises:
            DataError: The given folder holds no inspection, or one of other data.
        """
        splits = {split: split_digest(digests) for split, digests in self.digests.items()}
        return replace(self, inspection=find_inspection(folder, self.name, self.fingerprint, splits))

    def describe(self) -> list[str]:
        """Describe how the data were read: format, classes, and the images and the origin of each split."""
        classes = f"{len(self.labels)} classes ({name_some(self.labels, 10)})"
        several = ", any number of them in an image" if self.problem_type == "multi_label_classification" else ""
        lines = [f"{self.name}: {f'{self.layout}, ' if self.layout else ''}{classes}{several}"]
        width = max(len(f"{len(rows):,}") for rows in self.splits.values())
        for split, rows in self.splits.items():
            draw = self.draws.get(split)
            origin = self._drawn(f" ({draw.share:.0%}, seed {draw.seed})") if draw else self.origins.get(split, "")
            lines.append(f"{split:<10} {len(rows):>{width},} images  {origin}".rstrip())
        return lines

    def _drawn(self, parameters: str = "") -> str:
        by = "" if self.grouping is None else f" by {self.grouping.origin}"
        return f"drawn from train{by}{parameters}"

    def _group_record(self) -> GroupRecord | None:
        if self.grouping is None:
            return None
        sizes = Counter(group for groups in self.groups.values() for group in groups)
        return replace(self.grouping, number=len(sizes), largest=max(sizes.values(), default=0))

    def _split_record(self, split: str) -> SplitRecord:
        draw = self.draws.get(split)
        return SplitRecord(
            images=len(self.splits[split]),
            classes=tuple(self.class_counts(split)),
            digest=split_digest(self.digests[split]) if self.digests else None,
            source="dataset" if draw is None else "drawn",
            origin=self.origins.get(split) if draw is None else self._drawn(),
            seed=None if draw is None else draw.seed,
            share=None if draw is None else draw.share,
            conversions=self.conversions[split].images if split in self.conversions else {},
        )


AnyDataset: TypeAlias = str | os.PathLike[str] | Dataset | DatasetDict | ImageData
"""Dataset as all functions of hf_tl take it: a name, a folder or a table, or loaded."""


def targets_of(rows: Dataset) -> np.ndarray:
    """Return the label of each image: class indices (images,), -1 for none, or zeros and ones (images, classes)."""
    if holds_lists(rows.features[LABEL]):
        return flags_of(rows)
    return column_of(rows, LABEL).fill_null(-1).to_numpy()


def class_counts_of(rows: Dataset, classes: int) -> list[int]:
    """Count the images of each class, in the order of the labels."""
    if holds_lists(rows.features[LABEL]):
        return flags_of(rows).sum(axis=0, dtype=int).tolist()
    labels = column_of(rows, LABEL).to_numpy() if isinstance(rows, Dataset) else np.asarray(rows[LABEL][:])
    return np.bincount(labels[labels >= 0], minlength=classes)[:classes].tolist()
