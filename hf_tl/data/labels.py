"""Class names for all splits, and label encoding."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, Value

from hf_tl.data.columns import LABEL
from hf_tl.errors import DataError, name_some


def is_unlabeled(value: Any) -> bool:
    """Return whether a label is missing: None, -1 (hidden test label) or an empty string, also within a list.

    >>> is_unlabeled(-1), is_unlabeled(["cat", None]), is_unlabeled([])
    (True, True, False)
    """
    if isinstance(value, list):
        return any(is_unlabeled(label) for label in value)
    return value is None or value == -1 or value == ""


def class_names(train: Dataset, label_column: str) -> tuple[str, ...]:
    """Return the class names: those of the `ClassLabel`, else the sorted values in train (numbers by size).

    Raises:
        DataError: The labels are not classes.
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


def encode_labels(splits: Mapping[str, Dataset], names: Sequence[str], label_column: str = LABEL) -> dict[str, Dataset]:
    """Encode the labels of every split by the same class names, in the same order.

    Raises:
        DataError: A split has labels that are not in `names`.
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
        # Rewrite only the label column; `map` and `cast` would copy the images too.
        rows = rows.remove_columns(label_column)
        numbers = [index[label] for label in labels]
        encoded[split] = rows.add_column(label_column, numbers, feature=ClassLabel(names=list(names)))
    return encoded
