"""Plan: the images of each split with their labels, made from names alone and carried out afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

ClassFolder = Literal["auto", "outer", "inner"]
AUTO = "auto"
"""Value of `group_pattern` that recognizes series by names."""

FORMAT = "expected one folder of images per class (cat/1.jpg, dog/2.jpg), perhaps inside train/, validation/ and test/"


@dataclass(frozen=True)
class Reading:
    """Choices of the user about how to read a dataset; see `hf_tl.config.DataConfig`."""

    split_folders: Mapping[str, Sequence[str]] | None = None
    """Folders, files or column values of each split; empty: none of them is a split. None: by their names."""
    exclude_folders: tuple[str, ...] = ()
    class_folder: ClassFolder = "auto"
    image_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    label_separator: str | None = None
    uncertain_labels: Literal["ignore", "zero", "one"] | None = None
    keep_empty_classes: bool = False
    exclude_list: str | None = None
    group_column: str | None = None
    group_pattern: str = AUTO
    group_near_duplicates: bool = False


@dataclass(frozen=True)
class PlannedSplit:
    """Images of a split, as paths relative to the root."""

    images: tuple[str, ...]
    columns: Mapping[str, tuple[object, ...]]
    """Columns of labels: the class folder of each image (`label`), or the columns of a table."""
    origin: str
    """Origin of the split: a folder, a table, or a value of a column."""


@dataclass(frozen=True)
class Plan:
    """Reading of a folder or table: images, labels and splits."""

    layout: Literal["class folders", "table"]
    splits: Mapping[str, PlannedSplit]
    notes: tuple[str, ...] = ()
    label_column: str | None = None
    """Column of labels, where the layout decides it."""
    classes: tuple[str, ...] = field(default=())
    """Names of the class folders in order; empty for tables, whose labels are read later."""

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of images of each class folder by split."""
        return {
            name: {label: split.columns["label"].count(label) for label in self.classes}
            for name, split in self.splits.items()
        }
