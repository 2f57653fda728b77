"""Which columns hold the images and the labels, and one list of class names for all splits."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, Features, Image, Value
from datasets.features.features import FeatureType

from hf_tl.data.multi_label import holds_lists
from hf_tl.errors import DataError, name_some

LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "class_name", "category", "target", "y")


def find_image_column(features: Features, image_column: str | None = None) -> str:
    """Tell the column of images: the one that is named, else the only one that holds images or encoded images.

    Raises:
        DataError: there is none, or more than one.
    """
    if image_column is not None:
        return _require(features, image_column, "--image_column")
    candidates = [name for name, feature in features.items() if isinstance(feature, Image)]
    candidates = candidates or [name for name, feature in features.items() if _holds_bytes(feature)]
    return _only(candidates, features, "images", "--image_column")


def find_label_column(features: Features, label_column: str | None = None) -> str:
    """Tell the column of labels: the one that is named, else the only `ClassLabel`, else one with a usual name.

    A list of a `ClassLabel` counts as one. Several columns are named with commas; see `split_names`.

    Raises:
        DataError: there is none, or more than one.
    """
    if label_column is not None:
        names = split_names(features, label_column)
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"--label_column names a column twice: {name_some(repeated)}; name each class once")
        return ",".join(_require(features, name, "--label_column") for name in names)
    candidates = [name for name, feature in features.items() if _holds_classes(feature)]
    candidates = candidates or [name for name in features if name.lower() in LABEL_COLUMNS]
    return _only(candidates, features, "labels", "--label_column (several columns of 0 and 1 with commas)")


def split_names(features: Features, label_column: str) -> list[str]:
    """Split names with commas; a column may be called like that too."""
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
    found = f"{len(candidates)}: {name_some(candidates)}" if candidates else f"none among {name_some(features, 20)}"
    raise DataError(f"expected one column of {what}, found {found}; name it with {flag}")


def is_unlabeled(value: Any) -> bool:
    """Whether a label is missing: None, the -1 of hidden test labels, or an empty text; in a list, one of them.

    >>> is_unlabeled(-1), is_unlabeled(["cat", None]), is_unlabeled([])
    (True, True, False)
    """
    if isinstance(value, list):
        return any(is_unlabeled(label) for label in value)
    return value is None or value == -1 or value == ""


def class_names(train: Dataset, label_column: str) -> tuple[str, ...]:
    """Tell the class names: those of the `ClassLabel`, else the values in train, sorted (numbers by size).

    Raises:
        DataError: the labels are not classes.
    """
    feature = train.features[label_column]
    if isinstance(feature, ClassLabel):
        return tuple(feature.names)
    if isinstance(feature, Value) and feature.dtype.startswith(("int", "uint", "bool", "string", "large_string")):
        return tuple(str(value) for value in sorted(set(train[label_column][:])))
    raise DataError(
        f"expected one class per image in the column {label_column!r} (a ClassLabel, texts or whole numbers), "
        f"found {feature}; name another column with --label_column"
    )


def encode_labels(splits: Mapping[str, Dataset], label_column: str, names: Sequence[str]) -> dict[str, Dataset]:
    """Number the labels of every split by the same names, in the same order.

    Raises:
        DataError: a split has labels that are not in `names`.
    """
    index = {name: number for number, name in enumerate(names)}
    encoded = {}
    for split, rows in splits.items():
        feature = rows.features[label_column]
        if isinstance(feature, ClassLabel) and feature.names == list(names):
            encoded[split] = rows
            continue
        labels = [str(value) for value in rows[label_column][:]]
        if isinstance(feature, ClassLabel):
            labels = [feature.int2str(int(value)) for value in labels]
        if unknown := sorted(set(labels) - set(names)):
            raise DataError(
                f"{split} has classes missing from training: {name_some(unknown)}; "
                "add images of them to train, or remove them"
            )
        # Only the label column is rewritten; `map` and `cast` would copy the images too.
        rows = rows.remove_columns(label_column)
        numbers = [index[label] for label in labels]
        encoded[split] = rows.add_column(label_column, numbers, feature=ClassLabel(names=list(names)))
    return encoded
