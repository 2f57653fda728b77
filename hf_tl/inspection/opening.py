"""Opening of a dataset for inspection: all labeled images of its own splits, nothing drawn and nothing refused."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from hf_tl.data.columns import IMAGE, LABEL, find_label_column, holds_lists, split_names
from hf_tl.data.datasets import source_of
from hf_tl.data.decoding.images import as_stored
from hf_tl.data.encoding import encode
from hf_tl.data.fingerprint import row_name
from hf_tl.data.grouping.groups import Stored, group_images
from hf_tl.data.image_data import AnyDataset
from hf_tl.data.labels import missing_labels
from hf_tl.data.layout.exclusions import kept_rows
from hf_tl.data.layout.plan import Reading
from hf_tl.data.layout.reading import make_reading
from hf_tl.data.multi_label import flags_of
from hf_tl.data.sources.source import Source
from hf_tl.data.splits import name_splits, shared_groups
from hf_tl.errors import DataError, name_some

ORDER = ("train", "validation", "test")


@dataclass(frozen=True)
class LabeledImages:
    """Images of all splits in one list, with their labels."""

    name: str
    """Publishable name of the dataset."""
    rows: Dataset
    """Encoded images in the column `image`."""
    splits: tuple[str, ...]
    split_of: np.ndarray
    """Index into `splits` of each image (images,)."""
    row_of: np.ndarray
    """Row of each image in its own split (images,)."""
    classes: tuple[str, ...]
    labels: np.ndarray
    """Class indices (images,), or zeros and ones (images, classes)."""
    reading: tuple[str, ...]
    """Description of how the dataset was read, in sentences."""
    root: Path | None = None
    """Folder of the dataset, if it is one."""

    def __len__(self) -> int:
        return len(self.split_of)

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.labels.ndim == 2

    @property
    def single_labels(self) -> np.ndarray:
        """Label of each image as a number (images,); equal sets of labels have equal numbers."""
        if not self.is_multi_label:
            return self.labels
        return np.unique(self.labels, axis=0, return_inverse=True)[1].reshape(-1)

    def class_counts(self, split: str) -> list[int]:
        """Count the images of each class in a split."""
        labels = self.labels[self.split_of == self.splits.index(split)]
        if self.is_multi_label:
            return labels.sum(axis=0, dtype=int).tolist()
        return np.bincount(labels, minlength=len(self.classes)).tolist()

    def label(self, row: int) -> str:
        """Return the class name of an image, or its class names."""
        if not self.is_multi_label:
            return self.classes[self.labels[row]]
        names = [self.classes[number] for number in np.flatnonzero(self.labels[row])]
        return ", ".join(names) or "(no class)"

    def split(self, row: int) -> str:
        """Return the split of an image."""
        return self.splits[self.split_of[row]]

    def file(self, row: int, stored: Mapping[str, Any] | None = None) -> str:
        """Name an image: its path within the dataset, or its row in its split. No path of this machine is shown."""
        stored = self.rows[row][IMAGE] if stored is None else stored
        name = row_name(stored, int(self.row_of[row]), self.split(row))
        path = Path(name)
        if self.root is not None and path.is_relative_to(self.root):
            return path.relative_to(self.root).as_posix()
        return "/".join(path.parts[-3:]) if path.is_absolute() else name


def open_images(
    dataset: AnyDataset,
    *,
    dataset_config: str | None = None,
    dataset_revision: str | None = None,
    **reading: Any,
) -> LabeledImages:
    """Open a dataset and read its labels, as `hf_tl.load_data` does before it draws splits.

    Args:
        dataset: As in `hf_tl.load_data`.
        dataset_config: As in `hf_tl.load_data`.
        dataset_revision: As in `hf_tl.load_data`.
        reading: Arguments of `hf_tl.load_data` about folders, columns and labels, and `exclude_list`.

    Raises:
        DataError: There is no such dataset, it has two readings, or no image has a label.
    """
    choices = make_reading(**reading)
    source = source_of(dataset, choices, dataset_config=dataset_config, dataset_revision=dataset_revision)
    notes = list(source.notes)
    choices = source.complete(choices)
    stored = {split: rows.with_format(None) for split, rows in source.splits.items()}
    splits, origins = name_splits(stored, choices, notes, source.origins)
    labeled = _labeled({split: splits[split] for split in ORDER if split in splits}, choices, notes)
    encoded, classes = encode({split: rows for split, (rows, _) in labeled.items()}, choices, notes)
    kept = kept_rows(encoded, choices.exclude_list, notes)
    encoded = {split: rows.select(kept[split], keep_in_memory=True) for split, rows in encoded.items()}
    choices = replace(choices, group_near_duplicates=False)  # they are shown as copies
    notes += shared_groups(group_images(Stored(encoded, classes, source.root), choices, notes, draws=False)[0])
    return LabeledImages(
        name=source.name,
        rows=concatenate_datasets([as_stored(rows).select_columns([IMAGE]) for rows in encoded.values()]),
        splits=tuple(encoded),
        split_of=np.repeat(np.arange(len(encoded)), [len(rows) for rows in encoded.values()]),
        row_of=np.concatenate([labeled[split][1][kept[split]] for split in encoded]),
        classes=classes,
        labels=np.concatenate([_labels(rows) for rows in encoded.values()]),
        reading=(*_describe(source, encoded, origins, classes), *notes),
        root=Path(dataset).expanduser().resolve() if isinstance(dataset, str | os.PathLike) else None,
    )


def _labeled(
    splits: Mapping[str, Dataset], reading: Reading, notes: list[str]
) -> dict[str, tuple[Dataset, np.ndarray]]:
    """Return the labeled rows of each split that has some, with their numbers; note the others."""
    label_column = find_label_column(splits["train"].features, reading.label_column, reading.group_column)
    labeled = {}
    for split, rows in splits.items():
        columns = split_names(rows.features, label_column)
        unlabeled = missing_labels(rows[columns[0]][:]) if len(columns) == 1 and columns[0] in rows.features else []
        places = np.setdiff1d(np.arange(len(rows)), unlabeled)
        if unlabeled:
            notes.append(f"{len(unlabeled):,} of {len(rows):,} images of {split} have no label: left out")
        if len(places):
            labeled[split] = rows.select(places, keep_in_memory=True) if unlabeled else rows, places
    if "train" not in labeled:
        raise DataError("no image of train has a label: expected labels of classes; name them with --label_column")
    return labeled


def _labels(rows: Dataset) -> np.ndarray:
    """Return the class indices of the rows, or their zeros and ones."""
    return flags_of(rows) if holds_lists(rows.features[LABEL]) else np.array(rows[LABEL][:], np.int64)


def _describe(
    source: Source, splits: Mapping[str, Dataset], origins: Mapping[str, str], classes: Sequence[str]
) -> list[str]:
    """Describe how the dataset was read: the plan of its layout, as `hf-tl train` prints it."""
    layout = f"{source.layout}, " if source.layout else ""
    lines = [f"{layout}{len(classes):,} classes: {name_some(classes, 20)}"]
    for split, rows in splits.items():
        origin = f", {origins[split]}" if split in origins else ""
        lines.append(f"{split}: {len(rows):,} images{origin}")
    return lines
