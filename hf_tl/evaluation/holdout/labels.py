"""Labels of a hold-out set as classes of a model, matched by name; images that cannot be measured are left out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Image, List, Value

from hf_tl.data.columns import (
    IMAGE,
    LABEL,
    find_image_column,
    find_label_column,
    holds_lists,
    rename_columns,
    split_names,
)
from hf_tl.data.decoding.conversions import examine
from hf_tl.data.fingerprint import map_images
from hf_tl.data.image_data import class_counts_of
from hf_tl.data.labels import class_names, encode_labels, missing_labels, split_labels, tidy_labels
from hf_tl.data.layout.exclusions import leave_out_listed
from hf_tl.data.layout.plan import Reading
from hf_tl.data.multi_label import encode_lists, flags_of, join_columns, match_classes
from hf_tl.errors import DataError, name_some
from hf_tl.evaluation.metrics import MULTI_LABEL, SINGLE_LABEL, ProblemType


def match_labels(
    rows: Dataset,
    split: str,
    labels: tuple[str, ...],
    problem: ProblemType,
    reading: Reading,
    notes: list[str],
    *,
    skip_bad_images: bool = False,
) -> Dataset:
    """Return the images of a split with labels that the model knows, encoded as its classes.

    Images without a label, and of classes that the model does not know, are left out. Each omission is noted.

    Args:
        rows: Stored rows.
        split: Name of the split in messages.
        labels: Classes of the model.
        problem: Problem type of the model.
        reading: Choices of how to read the columns.
        notes: List that notes are added to.
        skip_bad_images: Whether to leave out unreadable images, instead of raising an error.

    Raises:
        DataError: No image remains, or the labels are for another problem type.
    """
    rows = _labeled(rows.with_format(None), split, reading, notes)
    rows = leave_out_listed({split: rows}, reading.exclude_list, notes)[split]
    kind = MULTI_LABEL if holds_lists(rows.features[LABEL]) else SINGLE_LABEL
    if kind is not problem:
        raise DataError(
            f"the model is for {problem.name}, and the labels of the dataset are for {kind.name}; "
            "name others with --label_column"
        )
    encode = _encode_lists if kind is MULTI_LABEL else _encode_classes
    rows = encode(rows, split, labels, notes)
    rows = _readable(rows, split, notes, skip_bad_images=skip_bad_images)
    if empty := [label for label, count in zip(labels, class_counts_of(rows, len(labels)), strict=True) if not count]:
        notes.append(f"{len(empty):,} of {len(labels):,} classes have no image in {split}: {name_some(empty)}")
    return rows


def without_labels(
    rows: Dataset,
    split: str,
    labels: tuple[str, ...],
    problem: ProblemType,
    reading: Reading,
    notes: list[str],
    *,
    skip_bad_images: bool = False,
) -> Dataset:
    """Return all readable images of a split without their labels; the arguments are those of `match_labels`."""
    rows = images_of(rows, reading)
    rows = leave_out_listed({split: rows}, reading.exclude_list, notes)[split]
    rows = _readable(rows, split, notes, skip_bad_images=skip_bad_images)
    if problem is MULTI_LABEL:
        flags = np.zeros((len(rows), len(labels)), np.int8).tolist()
        return rows.add_column(LABEL, flags, feature=List(Value("int8"), length=len(labels)))
    return rows.add_column(LABEL, [-1] * len(rows), feature=ClassLabel(names=list(labels)))


def images_of(rows: Dataset, reading: Reading) -> Dataset:
    """Return the images of stored rows in the column `image`, without labels."""
    column = find_image_column(rows.features, reading.image_column)
    images = rows.with_format(None).select_columns([column]).cast_column(column, Image())
    return images if column == IMAGE else images.rename_column(column, IMAGE)


def _labeled(rows: Dataset, split: str, reading: Reading, notes: list[str]) -> Dataset:
    """Keep the labeled images, in the columns `image` and `label`."""
    image_column = find_image_column(rows.features, reading.image_column)
    label_column = find_label_column(rows.features, reading.label_column, reading.group_column)
    if len(names := split_names(rows.features, label_column)) > 1:
        rows = join_columns({split: rows}, names, reading.uncertain_labels, notes)[split]
    else:
        rows = tidy_labels({split: rows}, label_column, notes)[split]
        if reading.label_separator:
            rows = split_labels({split: rows}, label_column, reading.label_separator)[split]
    unlabeled = missing_labels(rows[label_column][:])
    if len(unlabeled) == len(rows):
        raise DataError(f"no image of {split} has a label in the column {label_column!r}; name it with --label_column")
    if unlabeled:
        notes.append(f"{len(unlabeled):,} of {len(rows):,} images of {split} have no label: left out")
        rows = rows.select(sorted({*range(len(rows))} - {*unlabeled}), keep_in_memory=True)
    rows = rows.select_columns([image_column, label_column]).cast_column(image_column, Image())
    return rename_columns({split: rows}, image_column, label_column)[split]


def _encode_classes(rows: Dataset, split: str, labels: tuple[str, ...], notes: list[str]) -> Dataset:
    """Encode the class of each image as an index of the model's classes."""
    names = class_names(rows, LABEL)
    numbers = encode_labels({split: rows}, names)[split][LABEL][:]
    is_known = [names[number] in labels for number in numbers]
    if not all(is_known):
        unknown = sorted({names[number] for number in numbers} - set(labels))
        _check_any_known(any(is_known), unknown, labels)
        notes.append(
            f"{is_known.count(False):,} of {len(rows):,} images of {split} are of classes that the model does not "
            f"know: left out ({name_some(unknown)})"
        )
        rows = rows.select(np.flatnonzero(is_known), keep_in_memory=True)
    place = {label: number for number, label in enumerate(labels)}
    known = [place[names[number]] for number, is_kept in zip(numbers, is_known, strict=True) if is_kept]
    return rows.remove_columns(LABEL).add_column(LABEL, known, feature=ClassLabel(names=list(labels)))


def _encode_lists(rows: Dataset, split: str, labels: tuple[str, ...], notes: list[str]) -> Dataset:
    """Encode the labels of each image as zeros and ones for the model's classes."""
    encoded, names = encode_lists({"train": rows}, LABEL)
    rows = encoded["train"]
    known = [number for number, name in enumerate(names) if name in labels]
    if unknown := [name for name in names if name not in labels]:
        _check_any_known(bool(known), unknown, labels)
        notes.append(f"labels of {split} that the model does not know are not evaluated: {name_some(unknown)}")
        flags = flags_of(rows)[:, known].astype(np.int8).tolist()
        rows = rows.remove_columns(LABEL).add_column(LABEL, flags, feature=List(Value("int8")))
    return match_classes(rows, [names[number] for number in known], labels)


def _check_any_known(has_known: bool, unknown: list[str], labels: tuple[str, ...]) -> None:
    if not has_known:
        raise DataError(f"the model knows none of the classes {name_some(unknown)}; it knows {name_some(labels)}")


def _readable(rows: Dataset, split: str, notes: list[str], *, skip_bad_images: bool) -> Dataset:
    """Decode each image once, so that an unreadable one does not end the evaluation."""
    errors = list(map_images(rows, split, _error_of))
    bad = [error for error in errors if error is not None]
    if bad and not skip_bad_images:
        lines = "".join(f"\n  {error}" for error in [*bad[:5], *([f"and {len(bad) - 5} more"] if bad[5:] else [])])
        advice = "replace or remove them, or leave them out with --skip_bad_images"
        raise DataError(f"{len(bad):,} images cannot be used; {advice}:{lines}")
    if not bad:
        return rows
    if len(bad) == len(rows):
        raise DataError(f"no image of {split} can be read; the first: {bad[0]}")
    paths = [Path(error.partition(": ")[0]).name for error in bad]
    notes.append(f"{len(bad):,} images of {split} that cannot be read were left out: {name_some(paths)}")
    return rows.select([row for row, error in enumerate(errors) if error is None], keep_in_memory=True)


def _error_of(stored: Mapping[str, Any] | None, name: str) -> str | None:
    try:
        examine(stored, name)
    except DataError as error:
        return str(error)
    return None
