"""Detection of the two columns, and encoding of the labels of all splits by one list of classes."""

from collections.abc import Mapping

from datasets import Dataset, Image

from hf_tl.data.columns import (
    GROUP,
    find_group_column,
    find_image_column,
    find_label_column,
    holds_lists,
    rename_columns,
    split_names,
)
from hf_tl.data.fingerprint import row_name
from hf_tl.data.image_data import class_counts_of
from hf_tl.data.labels import (
    class_names,
    drop_empty_classes,
    encode_labels,
    joined_note,
    split_labels,
    tidy_labels,
    unlabeled_rows,
)
from hf_tl.data.layout.plan import Reading
from hf_tl.data.multi_label import encode_lists, flags_of, join_columns
from hf_tl.data.streaming.streams import PLACE
from hf_tl.errors import DataError, name_some


def encode(
    splits: Mapping[str, Dataset], reading: Reading, notes: list[str]
) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    """Find, check and rename the two columns of every split, and encode the labels consistently.

    Returns:
        Splits with the columns `image` and `label` (and `GROUP`, where a column of groups is named), and the class
        names.

    Raises:
        DataError: The columns are ambiguous, or labels are missing or of no use.
    """
    features = splits["train"].features
    image_column = find_image_column(features, reading.image_column)
    label_column = find_label_column(features, reading.label_column, reading.group_column)
    group_column = find_group_column(features, reading.group_column, label_column)
    if len(columns := split_names(features, label_column)) > 1:
        splits = join_columns(splits, columns, reading.uncertain_labels, notes)
    else:
        splits = tidy_labels(splits, label_column, notes)
        if reading.label_separator:
            splits = split_labels(splits, label_column, reading.label_separator)
    splits = _labeled_splits(splits, image_column, label_column, group_column, notes)
    if holds_lists(splits["train"].features[label_column]):
        splits, labels = encode_lists(splits, label_column)
        return _with_positives(rename_columns(splits, image_column, label_column), notes), labels
    labels = class_names(splits["train"], label_column)
    splits = rename_columns(encode_labels(splits, labels, label_column), image_column, label_column)
    notes += joined_note(labels)
    return (dict(splits), labels) if reading.keep_empty_classes else drop_empty_classes(splits, labels, notes)


def _labeled_splits(
    splits: Mapping[str, Dataset], image_column: str, label_column: str, group_column: str | None, notes: list[str]
) -> dict[str, Dataset]:
    """Keep the columns that are used, and the splits with labels.

    Hidden test labels are common; partial labels are an error.
    """
    labeled, groups = {}, [] if group_column is None else [group_column]
    for split, rows in splits.items():
        if not len(rows):
            raise DataError(f"the split {split} is empty; add images to it, or remove it")
        if image_column not in rows.features:
            raise DataError(f"the split {split} has no column {image_column!r}, unlike train; name it alike everywhere")
        unlabeled = unlabeled_rows(rows, label_column)
        if len(unlabeled) == len(rows) and split != "train":
            notes.append(f"split {split} was left out: it has no labels")
            continue
        if group_column is not None and group_column not in rows.features:
            raise DataError(f"the split {split} has no column {group_column!r}, unlike train; name it alike everywhere")
        columns = [image_column, label_column, *groups, *([PLACE] if PLACE in rows.features else [])]
        rows = rows.select_columns(columns).cast_column(image_column, Image())
        rows = rows if group_column is None else rows.rename_column(group_column, GROUP)
        if unlabeled:
            stored = rows.cast_column(image_column, Image(decode=False))
            named = (row_name(stored[row][image_column], row, split) for row in unlabeled[:6])
            raise DataError(
                f"{len(unlabeled)} of {len(rows)} images of {split} have no label (None or -1): "
                f"{name_some([*named, *unlabeled[6:]])}; label or remove them"
            )
        labeled[split] = rows
    return labeled


def _with_positives(splits: Mapping[str, Dataset], notes: list[str]) -> dict[str, Dataset]:
    """Keep the splits in which at least one image has a label, because the others cannot be evaluated."""
    kept = {}
    for split, rows in splits.items():
        without = len(rows) - int(flags_of(rows).any(axis=1).sum())
        if without == len(rows) and split != "train":
            notes.append(f"split {split} was left out: it has no labels")
            continue
        if without:
            notes.append(f"{without} of {len(rows)} images of {split} show none of the classes")
        kept[split] = rows
    return kept


def require_classes(train: Dataset, labels: tuple[str, ...], *, keep_empty: bool = False) -> None:
    """Check that there are two classes or more, each with images to train on.

    Raises:
        DataError: There are not.
    """
    if len(labels) < 2:
        raise DataError(f"expected at least two classes, found {len(labels)}: {name_some(labels)}; add another class")
    counts = class_counts_of(train, len(labels))
    missing = [label for label, count in zip(labels, counts, strict=True) if not count]
    if missing and not keep_empty:
        raise DataError(
            f"classes missing from training: {name_some(missing)}; add images of them to train, "
            "or remove them from the dataset's list of classes"
        )
