"""Class names for all splits, and label encoding."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset, List, Value
from datasets.features.features import FeatureType

from hf_tl.data.columns import LABEL, column_of, holds_lists
from hf_tl.errors import DataError, name_some

SEPARATORS = "|,;/&+"
"""Characters that often join several labels of one image."""


def is_unlabeled(value: Any) -> bool:
    """Return whether a label is missing: None, -1 (hidden test label) or an empty string, also within a list.

    >>> is_unlabeled(-1), is_unlabeled(["cat", None]), is_unlabeled([])
    (True, True, False)
    """
    if isinstance(value, list):
        return any(is_unlabeled(label) for label in value)
    return value is None or value in (-1, "", "-1")


def tidy(name: str) -> str:
    """Return a class name in Unicode's composed form (NFC) without spaces around it.

    >>> tidy(" cafe\u0301 ") == "caf\u00e9"
    True
    """
    return unicodedata.normalize("NFC", name).strip()


def tidy_notes(names: Iterable[str]) -> list[str]:
    """Describe class names that were merged, and those that differ in case only."""
    spellings: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        spellings[tidy(name)].add(name)
    merged = [name for name, ways in spellings.items() if len(ways) > 1]
    cases: defaultdict[str, list[str]] = defaultdict(list)
    for name in spellings:
        cases[name.casefold()].append(name)
    alike = [" and ".join(sorted(ways)) for ways in cases.values() if len(ways) > 1]
    notes = []
    if merged:
        notes.append(f"class names that differ in spaces or Unicode form only were merged: {name_some(sorted(merged))}")
    if alike:
        notes.append(f"class names differ in case only, and are different classes: {name_some(alike)}")
    return notes


def tidy_labels(splits: Mapping[str, Dataset], column: str, notes: list[str]) -> dict[str, Dataset]:
    """Tidy the labels of a column of texts, or the names of a `ClassLabel`; see `tidy`."""
    splits = {split: _tidy_classes(rows, column, notes) for split, rows in splits.items()}
    values = {split: _texts(rows, column) for split, rows in splits.items()}
    names = {name for texts in values.values() for text in texts for name in _listed(text)}
    notes += tidy_notes(names)
    if all(tidy(name) == name for name in names):
        return dict(splits)
    changed = {}
    for split, rows in splits.items():
        tidied = [
            [tidy(name) for name in text] if isinstance(text, list) else text and tidy(text) for text in values[split]
        ]
        changed[split] = replace_column(rows, column, tidied, rows.features[column]) if values[split] else rows
    return changed


def _tidy_classes(rows: Dataset, column: str, notes: list[str]) -> Dataset:
    """Tidy the names of a `ClassLabel`; names that become equal are one class."""
    feature = rows.features.get(column)
    if not isinstance(feature, ClassLabel) or all(tidy(name) == name for name in feature.names):
        return rows
    notes += tidy_notes(feature.names)
    names = list(dict.fromkeys(map(tidy, feature.names)))
    index = [names.index(tidy(name)) for name in feature.names]
    values = [value if is_unlabeled(value) else index[value] for value in rows[column][:]]
    return replace_column(rows, column, values, ClassLabel(names=names))


def _texts(rows: Dataset, column: str) -> list[Any]:
    """Return the values of a column of texts or lists of texts; an empty list for other columns."""
    feature = rows.features.get(column)
    element = feature.feature if feature is not None and holds_lists(feature) else feature
    is_text = isinstance(element, Value) and element.dtype in ("string", "large_string")
    return column_of(rows, column).to_pylist() if is_text else []


def _listed(value: Any) -> list[str]:
    return [name for name in value if name] if isinstance(value, list) else [value] if value else []


def split_labels(splits: Mapping[str, Dataset], column: str, separator: str) -> dict[str, Dataset]:
    """Split texts such as "scab|rust" into lists of class names.

    Raises:
        DataError: The column holds no texts.
    """
    lists = {}
    for split, rows in splits.items():
        if column not in rows.features:
            lists[split] = rows
            continue
        values = _texts(rows, column)
        if len(values) != len(rows) or holds_lists(rows.features[column]):
            raise DataError(
                f"--label_separator splits texts, and the column {column!r} of {split} holds {rows.features[column]}"
            )
        names = [
            None if not text else [tidy(name) for name in text.split(separator) if name.strip()] for text in values
        ]
        lists[split] = replace_column(rows, column, names, List(Value("string")))
    return lists


def replace_column(rows: Dataset, column: str, values: Sequence[Any], feature: FeatureType) -> Dataset:
    """Replace one column; `map` and `cast` would copy the images too."""
    return rows.remove_columns(column).add_column(column, list(values), feature=feature)


def joined_note(names: Sequence[str]) -> list[str]:
    """Return a note if class names look like several labels joined by a separator.

    >>> joined_note(["scab", "rust", "scab|rust"])
    ["class names such as 'scab|rust' look like several labels: --label_separator '|' reads them as multi-label"]
    """
    for separator in SEPARATORS:
        joined = [name for name in names if separator in name.strip(separator)]
        parts = Counter(part.strip() for name in joined for part in name.split(separator))
        if joined and any(count > 1 or part in names for part, count in parts.items()):
            return [
                f"class names such as {joined[0]!r} look like several labels: --label_separator {separator!r} reads "
                "them as multi-label"
            ]
    return []


def missing_labels(values: Iterable[Any]) -> list[int]:
    """Return the rows without a label; see `is_unlabeled`. The values -1 and 1 alone are two classes.

    >>> missing_labels([3, -1, None]), missing_labels([1, -1])
    ([1, 2], [])
    """
    listed = list(values)
    if {str(value) for value in listed if not isinstance(value, list) and value not in (None, "")} == {"-1", "1"}:
        return [row for row, value in enumerate(listed) if value is None or value == ""]
    return [row for row, value in enumerate(listed) if is_unlabeled(value)]


def unlabeled_rows(rows: Dataset, column: str) -> list[int]:
    """Return the rows without a label in a column; all rows, if there is no such column."""
    if column not in rows.features:
        return list(range(len(rows)))
    values = column_of(rows, column)
    is_scalar = not pa.types.is_nested(values.type)
    return [] if is_scalar and not missing_labels(values.unique().to_pylist()) else missing_labels(values.to_pylist())


def drop_empty_classes(
    splits: Mapping[str, Dataset], names: Sequence[str], notes: list[str]
) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    """Leave out the classes of which no split has an image."""
    present = {int(label) for rows in splits.values() for label in column_of(rows, LABEL).unique().to_pylist()}
    if len(present) == len(names):
        return dict(splits), tuple(names)
    empty = [name for number, name in enumerate(names) if number not in present]
    notes.append(
        f"{len(empty)} of {len(names)} classes have no image and were left out: {name_some(empty)} "
        "(--keep_empty_classes keeps them)"
    )
    kept = [name for number, name in enumerate(names) if number in present]
    index = {number: kept.index(names[number]) for number in present}
    feature = ClassLabel(names=kept)
    return {
        split: replace_column(rows, LABEL, [index[label] for label in column_of(rows, LABEL).to_pylist()], feature)
        for split, rows in splits.items()
    }, tuple(kept)


def class_names(train: Dataset, label_column: str) -> tuple[str, ...]:
    """Return the class names: those of the `ClassLabel`, else the sorted values in train (numbers by size).

    Raises:
        DataError: The labels are not classes.
    """
    feature = train.features[label_column]
    if isinstance(feature, ClassLabel):
        return tuple(feature.names)
    if isinstance(feature, Value) and feature.dtype.startswith(("int", "uint", "bool", "string", "large_string")):
        names = {str(value) for value in column_of(train, label_column).unique().to_pylist()}
        is_numbered = all(name.removeprefix("-").isdecimal() for name in names)
        return tuple(sorted(names, key=lambda name: (int(name), name) if is_numbered else (0, name)))
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
        values = column_of(rows, label_column)
        texts = {value: str(value) for value in values.unique().to_pylist()}
        if isinstance(feature, ClassLabel):
            texts = {value: feature.int2str(int(text)) for value, text in texts.items()}
        labels = [texts[value] for value in values.to_pylist()]
        if unknown := sorted(set(labels) - set(names)):
            raise DataError(
                f"{split} has classes missing from training: {name_some(unknown)}; "
                "add images of them to train, or remove them"
            )
        numbers = [index[label] for label in labels]
        encoded[split] = replace_column(rows, label_column, numbers, ClassLabel(names=list(names)))
    return encoded
