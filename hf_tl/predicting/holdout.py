"""Images to evaluate a model on: a split of a dataset, or all images of a dataset without splits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Image, List, Value

from hf_tl.data.columns import LABEL, find_image_column, find_label_column, holds_lists, rename_columns, split_names
from hf_tl.data.datasets import load_arguments, make_reading
from hf_tl.data.decoding.conversions import examine
from hf_tl.data.fingerprint import digest_image, map_images
from hf_tl.data.image_data import ImageData, class_counts_of
from hf_tl.data.labels import class_names, encode_labels, missing_labels, split_labels, tidy_labels
from hf_tl.data.layout.exclusions import leave_out_listed
from hf_tl.data.layout.plan import Reading
from hf_tl.data.learned import resolve
from hf_tl.data.multi_label import encode_lists, flags_of, join_columns, match_classes
from hf_tl.data.sources import Source, open_source
from hf_tl.data.splits import name_splits, splits_by_meaning
from hf_tl.errors import ConfigError, DataError, name_some
from hf_tl.evaluation.leakage import open_again
from hf_tl.evaluation.metrics import MULTI_LABEL, SINGLE_LABEL, ProblemType
from hf_tl.record import LearnedFrom, RunRecord, split_digest
from hf_tl.record.learned import DIGEST_BYTES

ALL = "all"
"""Name of the only split of a dataset without splits."""


@dataclass(frozen=True)
class Holdout:
    """Labeled images of one split, with the classes of the model."""

    data: ImageData
    """Data with this split alone."""
    split: str
    learned: LearnedFrom
    """Training images of the model, as far as the dataset tells."""


def open_holdout(
    dataset: str,
    split: str | None,
    labels: tuple[str, ...],
    problem: ProblemType,
    learned: LearnedFrom,
    record: RunRecord | None,
    reading: Mapping[str, Any],
    *,
    skip_bad_images: bool = False,
) -> Holdout:
    """Open the images to evaluate a model on.

    A dataset without splits is evaluated as a whole, unless it is the one of the training, whose splits are drawn
    again. Images without a label, and of classes that the model does not know, are left out, with a note.

    Args:
        dataset: Value of `--dataset`.
        split: Split to evaluate on (default: test, or validation where there is no test split).
        labels: Classes of the model.
        problem: Problem type of the model.
        learned: Training images of the model.
        record: Record of its training; None for a model that hf_tl did not train.
        reading: Arguments of `load_data` about how to read the dataset.
        skip_bad_images: Whether to leave out unreadable images, with a note, instead of raising an error.

    Raises:
        ConfigError: `split` is given for a dataset without splits.
        DataError: The images cannot be opened, or none remains.
    """
    arguments = load_arguments(reading)
    version = {name: arguments.pop(name, None) for name in ("config_name", "revision")}
    choices = make_reading(**arguments)
    source = open_source(dataset, choices, **version)
    splits = _own_splits(source, choices)
    wanted = split or "test"
    has_split = wanted in splits
    training = None
    if record is not None and not (has_split and learned.is_complete):
        training = _as_in_training(dataset, learned, record, reading)
        learned = learned if training is None else resolve(learned, training)
    if not has_split and training is not None and _is_of_training(training, learned, record):
        rows, choices, source = (
            training.splits[wanted],
            Reading(),
            replace(source, image_column=None, label_column=None),
        )
    elif not splits:
        if split is not None:
            raise ConfigError(
                f"--split {split}: {source.name} has no splits; leave --split out to evaluate on all of its images"
            )
        [rows], wanted = source.splits.values(), ALL
    elif split is None and not has_split and "validation" in splits:
        rows, wanted = splits["validation"], "validation"
    elif not has_split:
        raise DataError(f"--split {wanted}: the dataset has the splits {name_some(splits)}")
    else:
        rows = splits[wanted]
    data = _prepare(rows, source, wanted, labels, problem, choices, skip_bad_images=skip_bad_images)
    return Holdout(data, wanted, learned)


def _own_splits(source: Source, reading: Reading) -> dict[str, Dataset]:
    """Return the splits train, validation and test of a dataset; none if it is not split."""
    if len(source.splits) == 1:
        splits, _ = name_splits(source.splits, reading, [])
        return splits if len(splits) > 1 else {}
    return {split: source.splits[name] for split, name in splits_by_meaning(source.splits, reading).items()}


def _as_in_training(
    dataset: str, learned: LearnedFrom, record: RunRecord, reading: Mapping[str, Any]
) -> ImageData | None:
    """Open a dataset with the splits that the training drew; None if it could not be trained on."""
    try:
        return open_again(record, learned, dataset, **reading)
    except DataError:
        return None


def _is_of_training(data: ImageData, learned: LearnedFrom, record: RunRecord | None) -> bool:
    """Return whether a dataset is that of the training, perhaps with more images."""
    digests = {digest[:DIGEST_BYTES] for rows in data.digests.values() for digest in rows}
    if learned.digests and learned.digests <= digests:
        return True
    test = None if record is None else record.data.splits.get("test")
    return test is not None and "test" in data.digests and test.digest == split_digest(data.digests["test"])


def _prepare(
    rows: Dataset,
    source: Source,
    split: str,
    labels: tuple[str, ...],
    problem: ProblemType,
    reading: Reading,
    *,
    skip_bad_images: bool,
) -> ImageData:
    notes = list(source.notes)
    reading = source.complete(reading)
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
    digests = tuple(map_images(rows, split, digest_image))
    return ImageData(
        splits=DatasetDict({split: rows}),
        labels=labels,
        name=source.name,
        revision=source.revision,
        license=source.license,
        notes=tuple(notes),
        source=source.kind,
        digests={split: digests},
        problem_type=problem.name,
    )


def _labeled(rows: Dataset, split: str, reading: Reading, notes: list[str]) -> Dataset:
    """Keep the labeled images, in the columns `image` and `label`."""
    image_column = find_image_column(rows.features, reading.image_column)
    label_column = find_label_column(rows.features, reading.label_column)
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
