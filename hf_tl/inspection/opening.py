"""Opening of a dataset for inspection: all labeled images of its own splits, nothing drawn and nothing refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Image, concatenate_datasets

from hf_tl.data.columns import IMAGE, LABEL, find_image_column, find_label_column, holds_lists, split_names
from hf_tl.data.datasets import ImageData
from hf_tl.data.exclusions import leave_out_listed
from hf_tl.data.fingerprint import row_name
from hf_tl.data.labels import is_unlabeled
from hf_tl.data.multi_label import encode_lists, flags_of, join_columns
from hf_tl.data.sources import open_source
from hf_tl.data.splits import name_splits
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
    """How the dataset was read, in sentences."""
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
    dataset: "Dataset | DatasetDict | ImageData | str",
    *,
    config_name: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    exclude_list: str | None = None,
) -> LabeledImages:
    """Open a dataset and read its labels.

    Args:
        dataset: A value of `--dataset`, or a loaded dataset.
        config_name: As in `hf_tl.load_data`.
        revision: As in `hf_tl.load_data`.
        image_column: As in `hf_tl.load_data`.
        label_column: As in `hf_tl.load_data`.
        exclude_list: As in `hf_tl.load_data`.

    Raises:
        DataError: There is no such dataset, or no column of images or of labels.
    """
    notes: list[str] = []
    stored, name, root = _stored(dataset, config_name, revision, notes)
    splits = name_splits({split: rows.with_format(None) for split, rows in stored.items()}, notes)
    splits = {split: splits[split] for split in ORDER if split in splits}
    features = next(iter(splits.values())).features
    image_column = find_image_column(features, image_column)
    label_column = find_label_column(features, label_column)
    splits = leave_out_listed(splits, exclude_list, notes, image_column)
    if len(columns := split_names(features, label_column)) > 1:
        splits = join_columns(splits, columns)
    labeled = _labeled(splits, image_column, label_column, notes)
    classes, labels = _encode({split: rows for split, (rows, _) in labeled.items()}, label_column)
    images = [_encoded(rows, image_column) for rows, _ in labeled.values()]
    return LabeledImages(
        name=name,
        rows=concatenate_datasets(images),
        splits=tuple(labeled),
        split_of=np.repeat(np.arange(len(labeled)), [len(rows) for rows in images]),
        row_of=np.concatenate([places for _, places in labeled.values()]),
        classes=classes,
        labels=labels,
        reading=(*_describe(labeled, image_column, label_column, classes), *notes),
        root=root,
    )


def _stored(
    dataset: "Dataset | DatasetDict | ImageData | str", config_name: str | None, revision: str | None, notes: list[str]
) -> tuple[Mapping[str, Dataset], str, Path | None]:
    """Return the stored splits, the name of the dataset, and its folder, if it is one."""
    if isinstance(dataset, str):
        source = open_source(dataset, config_name=config_name, revision=revision)
        notes += source.notes
        path = Path(dataset).expanduser()
        return source.splits, source.name, path.resolve() if path.is_dir() else None
    if isinstance(dataset, ImageData):
        notes += dataset.notes
        return dataset.splits, dataset.name, None
    stored = dataset if isinstance(dataset, DatasetDict) else DatasetDict(train=dataset)
    return stored, next(iter(stored.values())).info.dataset_name or "a dataset in memory", None


def _labeled(
    splits: Mapping[str, Dataset], image_column: str, label_column: str, notes: list[str]
) -> dict[str, tuple[Dataset, np.ndarray]]:
    """Return the labeled rows of each split that has some, with their numbers; note the others."""
    labeled = {}
    for split, rows in splits.items():
        if not {image_column, label_column} <= rows.features.keys():
            notes.append(f"split {split} was left out: it has no column {image_column!r} or {label_column!r}")
            continue
        is_labeled = np.array([not is_unlabeled(value) for value in rows[label_column][:]], dtype=bool)
        places = np.flatnonzero(is_labeled)
        if len(places) < len(rows):
            notes.append(f"{len(rows) - len(places):,} of {len(rows):,} images of {split} have no label: left out")
        if len(places):
            rows = rows.select_columns([image_column, label_column])
            labeled[split] = rows if len(places) == len(rows) else rows.select(places, keep_in_memory=True), places
    if not labeled:
        raise DataError("no image has a label: expected labels of classes; name their column with --label_column")
    return labeled


def _encode(splits: Mapping[str, Dataset], column: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the class names of all splits, and the labels of all images."""
    features = [rows.features[column] for rows in splits.values()]
    if holds_lists(features[0]):
        encoded, classes = encode_lists(splits, column)
        columns = {column: LABEL} if column != LABEL else {}
        return classes, np.concatenate([flags_of(rows.rename_columns(columns)) for rows in encoded.values()])
    values: list[Any] = []
    for rows, feature in zip(splits.values(), features, strict=True):
        stored = rows[column][:]
        values += [feature.names[value] for value in stored] if isinstance(feature, ClassLabel) else stored
    if isinstance(features[0], ClassLabel):
        listed: Sequence[Any] = list(dict.fromkeys(name for feature in features for name in feature.names))
    else:
        listed = sorted(set(values), key=lambda value: (str(type(value)), value))
    index = {value: number for number, value in enumerate(listed)}
    return tuple(map(str, listed)), np.array([index[value] for value in values], dtype=np.int64)


def _encoded(rows: Dataset, image_column: str) -> Dataset:
    images = rows.select_columns([image_column]).cast_column(image_column, Image(decode=False))
    return images if image_column == IMAGE else images.rename_column(image_column, IMAGE)


def _describe(
    labeled: Mapping[str, tuple[Dataset, np.ndarray]], image_column: str, label_column: str, classes: Sequence[str]
) -> list[str]:
    """Describe how the dataset was read. The lines of a plan of the layout belong here."""
    counts = ", ".join(f"{split} ({len(rows):,} images)" for split, (rows, _) in labeled.items())
    return [
        f"splits: {counts}",
        f"{len(classes):,} classes: {name_some(classes, 20)}",
        f"images from the column {image_column!r}, labels from {label_column!r}",
    ]
