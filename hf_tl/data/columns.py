"""Detection of the image and label columns, which are then renamed to `image` and `label`."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image, LargeList, List, Value
from datasets.features.features import FeatureType

from hf_tl.errors import DataError, name_some

IMAGE, LABEL = "image", "label"
"""Names of the two columns in every split that hf_tl has prepared."""
GROUP = "group of the image"
"""Name of the column of groups until the groups are read."""
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "class_name", "category", "target", "y", "cls")


def rename_columns(splits: Mapping[str, Dataset], image_column: str, label_column: str) -> dict[str, Dataset]:
    """Rename the image and label columns to `image` and `label`."""
    names = {image_column: IMAGE, label_column: LABEL}
    changed = {old: new for old, new in names.items() if old != new}
    return {split: rows.rename_columns(changed) if changed else rows for split, rows in splits.items()}


def column_of(rows: Dataset, name: str) -> pa.ChunkedArray:
    """Return a column as it is stored, in the order of the rows; `rows[name]` makes a Python object of each value."""
    stored = rows.data.table[name]
    return stored if rows._indices is None else stored.take(rows._indices.column(0))


def holds_lists(feature: FeatureType) -> bool:
    """Return whether a column holds lists, and so any number of labels per image."""
    return isinstance(feature, List | LargeList)


def find_image_column(features: Features, image_column: str | None = None) -> str:
    """Return the image column: the given name, else the only column of images or encoded images.

    Raises:
        DataError: There is none, or more than one.
    """
    if image_column is not None:
        return _require(features, image_column, "--image_column")
    candidates = [name for name, feature in features.items() if isinstance(feature, Image)]
    candidates = candidates or [name for name, feature in features.items() if _holds_bytes(feature)]
    return _only(candidates, features, "images", "--image_column")


def find_label_column(features: Features, label_column: str | None = None, group_column: str | None = None) -> str:
    """Return the label column: the given name, else the only `ClassLabel`, else one with a common name.

    A list of a `ClassLabel` counts as one. Several column names are separated by commas; see `split_names`. The column
    of groups is not detected as labels.

    Raises:
        DataError: There is none, or more than one.
    """
    if label_column is not None:
        names = split_names(features, label_column)
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"--label_column names a column twice: {name_some(repeated)}; name each class once")
        return ",".join(_require(features, name, "--label_column") for name in names)
    others = {name: feature for name, feature in features.items() if name != group_column}
    candidates = [name for name, feature in others.items() if _holds_classes(feature)]
    candidates = candidates or [name for name in others if name.lower() in LABEL_COLUMNS]
    return _only(candidates, features, "labels", "--label_column (several columns of 0 and 1 with commas)")


def find_group_column(features: Features, group_column: str | None, label_column: str) -> str | None:
    """Return the column of groups, if the user names one.

    Raises:
        DataError: There is no such column, it is the label column, or it holds lists or images.
    """
    if group_column is None:
        return None
    feature = features[_require(features, group_column, "--group_column")]
    if group_column in split_names(features, label_column):
        raise DataError(
            f"--group_column {group_column} names the labels, so each class would be a group; name another column"
        )
    if not isinstance(feature, Value | ClassLabel):
        raise DataError(
            f"expected a column of texts or numbers, found {group_column!r} of type {type(feature).__name__}; change "
            "--group_column"
        )
    return group_column


def split_names(features: Features, label_column: str) -> list[str]:
    """Split comma-separated names, unless a column has that very name."""
    return [label_column] if label_column in features else [name.strip() for name in label_column.split(",")]


def _holds_classes(feature: FeatureType) -> bool:
    return isinstance(feature.feature if holds_lists(feature) else feature, ClassLabel)


def _holds_bytes(feature: FeatureType) -> bool:
    stored = feature.get("bytes") if isinstance(feature, dict) else feature
    return isinstance(stored, Value) and stored.dtype in ("binary", "large_binary")


def _require(features: Features, column: str, flag: str) -> str:
    if column not in features:
        raise DataError(f"no column {column!r}: the dataset has {name_some(features, 20)}; change {flag}")
    return column


def _only(candidates: Sequence[str], features: Features, what: str, flag: str) -> str:
    if len(candidates) == 1:
        return candidates[0]
    description = (
        f"{len(candidates)}: {name_some(candidates)}" if candidates else f"none among {name_some(features, 20)}"
    )
    raise DataError(f"expected one column of {what}, found {description}; name it with {flag}")
