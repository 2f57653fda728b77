"""Encoding of multi-label data as zeros and ones.

Supported formats are one column of lists (of `ClassLabel` indices, of names, or of a 0 or 1 for each class), and
several columns of 0 and 1, one for each class.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, List, Value
from datasets.features.features import FeatureType

from hf_tl.data.columns import LABEL, holds_lists
from hf_tl.errors import DataError, name_some


def join_columns(
    splits: Mapping[str, Dataset], columns: Sequence[str], uncertain: str | None = None, notes: list[str] | None = None
) -> dict[str, Dataset]:
    """Merge columns of 0 and 1 into one column of lists, named by all their names joined with commas.

    Where no value is 0, -1 means no. Else -1 and blank values are uncertain: `uncertain` reads them as no (`zero`),
    -1 as yes (`one`), or leaves the image out (`ignore`). All rows of a split that lacks one of the columns, or in
    which all values are missing, get None.

    Raises:
        DataError: A column holds other values, or uncertain ones without a setting.
    """
    notes = [] if notes is None else notes
    name, feature = ",".join(columns), List(ClassLabel(names=list(columns)))
    flags = {
        split: [[_flag(value, column, split) for value in rows[column][:]] for column in columns]
        for split, rows in splits.items()
        if all(column in rows.features for column in columns)
    }
    values = Counter(value for of_split in flags.values() for column in of_split for value in column)
    joined = {}
    if values[-1] and not values[0]:
        notes.append("-1 was read as no, and 1 as yes")
        flags = {
            split: [[0 if value == -1 else value for value in column] for column in of] for split, of in flags.items()
        }
    for split, rows in splits.items():
        lists: list[list[int] | None] = [None] * len(rows)
        table = list(zip(*flags[split], strict=True)) if split in flags else []
        uncertain_rows = [row for row, values in enumerate(table) if None in values or -1 in values]
        is_hidden = bool(table) and all(set(values) <= {None, -1} for values in table)
        if uncertain_rows and not is_hidden and uncertain is None:
            raise DataError(
                f"{len(uncertain_rows)} of {len(rows)} rows of {split} have values that are blank or -1 in the columns "
                f"{name_some(columns)}, beside 0 and 1; say what they mean: --uncertain_labels zero, one or ignore"
            )
        for row, row_values in enumerate(table):
            if not is_hidden and (uncertain != "ignore" or not {None, -1} & set(row_values)):
                yes = {1, -1} if uncertain == "one" else {1}
                lists[row] = [number for number, value in enumerate(row_values) if value in yes]
        # a column of this very name cannot exist: it would have been used as the label column
        rows = rows.add_column(name, lists, feature=feature)
        if uncertain == "ignore" and uncertain_rows and not is_hidden:
            notes.append(f"{len(uncertain_rows)} of {len(rows)} images of {split} with uncertain labels were left out")
            rows = rows.select([row for row, value in enumerate(lists) if value is not None])
        joined[split] = rows
    return joined


def _flag(value: Any, column: str, split: str) -> int | None:
    """Read a value of a column of zeros and ones; None where it is blank.

    Raises:
        DataError: It is something else.
    """
    if value is None or value == "" or value != value:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if number not in (0, 1, -1):
        raise DataError(
            f"expected 0 or 1 in the column {column!r} of {split}, found {value!r}; with several names, --label_column "
            "takes one column of 0 and 1 for each class"
        )
    return int(number)


def encode_lists(splits: Mapping[str, Dataset], column: str) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    """Convert the lists of every split to zeros and ones, one for each class.

    Returns:
        Splits with a column `List(Value("int8"))` of fixed length, and the class names: those of the `ClassLabel`, the
        sorted names in train (numbers by size), or for zeros and ones their positions from 0.

    Raises:
        DataError: The lists hold no classes, a split holds no lists, or a split has classes that train lacks.
    """
    if scalar := [split for split, rows in splits.items() if not holds_lists(rows.features[column])]:
        raise DataError(f"the column {column!r} holds lists in train but not in {name_some(scalar)}; make it alike")
    feature = splits["train"].features[column]
    train = splits["train"][column][:]
    if not isinstance(feature.feature, ClassLabel) and _are_flags(feature, train, column):
        length = len(train[0])
        matrices = {split: _read_flags(rows, column, split, length) for split, rows in splits.items()}
        names = [str(place) for place in range(length)]
    else:
        named = {split: _named(rows, column, split) for split, rows in splits.items()}
        is_named = isinstance(feature.feature, ClassLabel)
        values = feature.feature.names if is_named else sorted({value for row in named["train"] for value in row})
        names = [str(value) for value in values]
        index = {value: number for number, value in enumerate(values)}
        matrices = {split: _indicate(rows, index, split) for split, rows in named.items()}
    return {split: _with_flags(rows, column, matrices[split]) for split, rows in splits.items()}, tuple(names)


def flags_of(rows: Dataset) -> np.ndarray:
    """Return the encoded labels: zeros and ones of shape (images, classes), int8."""
    return np.asarray(rows.with_format("numpy")[LABEL][:])


def match_classes(rows: Dataset, labels: Sequence[str], names: Sequence[str]) -> Dataset:
    """Encode labels again for a model with other classes or another order; classes without labels count as absent.

    Args:
        rows: Rows with a column of zeros and ones.
        labels: Classes of the rows, in order.
        names: Classes of the model, in order; they include all of `labels`.
    """
    flags = np.zeros((len(rows), len(names)), dtype=np.int8)
    flags[:, [list(names).index(label) for label in labels]] = flags_of(rows)
    return _with_flags(rows, LABEL, flags)


def name_classes(rows: Dataset, labels: Sequence[str]) -> Dataset:
    """Return rows with the names of their classes, in place of zeros and ones."""
    lists = [np.flatnonzero(flags).tolist() for flags in flags_of(rows)]
    return rows.remove_columns(LABEL).add_column(LABEL, lists, feature=List(ClassLabel(names=list(labels))))


def _are_flags(feature: FeatureType, lists: Sequence[Sequence[Any]], column: str) -> bool:
    """Return whether lists hold a 0 or 1 for each class, rather than names or numbers of classes.

    Raises:
        DataError: The lists hold neither.
    """
    element = feature.feature
    dtype = element.dtype if isinstance(element, Value) else ""
    if dtype in ("string", "large_string"):
        return False
    if dtype == "bool" or dtype.startswith(("int", "uint", "float")):
        lengths = {len(labels) for labels in lists}
        if len(lengths) == 1 and lengths.pop() > 1 and all(flag in (0, 1) for labels in lists for flag in labels):
            return True
        # distinct class numbers; repeated numbers mean flags of which some are missing or wrong
        if dtype.startswith(("int", "uint")) and all(len(set(labels)) == len(labels) for labels in lists):
            return False
    raise DataError(
        f"expected lists of labels in the column {column!r} (of a ClassLabel, names, different whole numbers, or "
        f"equally many 0 and 1, one for each class), found {feature}, for example {name_some(lists, 2)}; "
        "mend them, or name another column with --label_column"
    )


def _read_flags(rows: Dataset, column: str, split: str, length: int) -> np.ndarray:
    lists = rows[column][:]
    wrong = [labels for labels in lists if len(labels) != length or not all(flag in (0, 1) for flag in labels)]
    if wrong:
        raise DataError(
            f"expected {length} zeros and ones for each image of {split} in the column {column!r}, as in train; "
            f"found {name_some(wrong, 2)}; mend them"
        )
    return np.asarray(lists, dtype=np.int8)


def _named(rows: Dataset, column: str, split: str) -> list[list[Any]]:
    """Return the classes of each image, by name if there are names."""
    lists, element = rows[column][:], rows.features[column].feature
    if not isinstance(element, ClassLabel):
        return lists
    classes = len(element.names)
    if outside := sorted({number for labels in lists for number in labels if not 0 <= number < classes}):
        raise DataError(
            f"{split} has labels that are no index of its {classes} classes: {name_some(outside)}; mend them"
        )
    return [[element.names[number] for number in labels] for labels in lists]


def _indicate(named: Sequence[Sequence[Any]], index: Mapping[Any, int], split: str) -> np.ndarray:
    if unknown := sorted({value for labels in named for value in labels} - set(index), key=str):
        raise DataError(
            f"{split} has classes missing from training: {name_some(unknown)}; "
            "add images of them to train, or remove them"
        )
    flags = np.zeros((len(named), len(index)), dtype=np.int8)
    for row, labels in enumerate(named):
        flags[row, [index[label] for label in labels]] = 1
    return flags


def _with_flags(rows: Dataset, column: str, flags: np.ndarray) -> Dataset:
    # Rewrite only the label column; `map` and `cast` would copy the images too.
    feature = List(Value("int8"), length=flags.shape[1])
    return rows.remove_columns(column).add_column(column, list(flags), feature=feature)
