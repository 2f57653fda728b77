"""Loading of a dataset by name, as checked splits with one list of labels."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Image

from hf_tl.data.colors import Conversion
from hf_tl.data.columns import (
    LABEL,
    find_image_column,
    find_label_column,
    holds_lists,
    rename_columns,
    split_names,
)
from hf_tl.data.conversions import examine, gather
from hf_tl.data.drawing import Pool
from hf_tl.data.exclusions import leave_out_listed
from hf_tl.data.fingerprint import digest_image, map_images, row_name
from hf_tl.data.image_data import ImageData, class_counts_of
from hf_tl.data.labels import (
    class_names,
    encode_labels,
    is_unlabeled,
)
from hf_tl.data.learned import resolve_in
from hf_tl.data.multi_label import encode_lists, flags_of, join_columns
from hf_tl.data.sources import open_source
from hf_tl.data.splits import choose_test, draw_missing, missing_fractions, name_splits
from hf_tl.data.stream_sources import StreamSource, open_streams
from hf_tl.data.streams import PLACE, leave_out, streams_of
from hf_tl.errors import DataError, name_some
from hf_tl.record import LearnedFrom
from hf_tl.record.learned import DIGEST_BYTES
from hf_tl.reporting.console import progress_bar

__all__ = ["ImageData", "check_images", "load_data", "prepare_data"]

COPIES = "are also in train or validation"


def load_data(
    name: str,
    *,
    config_name: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
    streaming: bool = False,
    learned: LearnedFrom | None = None,
    include_training_images: bool = False,
    exclude_list: str | None = None,
) -> ImageData:
    """Load and check a dataset. No code of the dataset is run.

    Missing splits are drawn from the training images by image content: renaming files does not change them, and copies
    of an image stay in one split.

    Args:
        name: `digits` (scikit-learn's), an image folder (one folder per class, optionally inside `train`, `validation`
            and `test`), parquet files (a file, a glob pattern, or several separated by commas), or a Hub dataset.
        config_name: Configuration of a Hub dataset.
        revision: Branch, tag or commit of a Hub dataset.
        image_column: Image column (default: the only column of images). It is renamed to `image`.
        label_column: Label column (default: the only `ClassLabel`, else a column with a common name). A column of lists
            makes the data multi-label, as do several comma-separated columns of 0 and 1. It is renamed to `label`.
        validation_fraction: Share of the training images to hold out if there is no validation split.
        test_fraction: Share of the training images to hold out if there is no test split.
        seed: Random seed of these splits.
        streaming: Whether to read only the labels, and to stream the images of a Hub dataset or of parquet files. The
            splits are then `hf_tl.data.streams.StreamedImages`, whose images come in stream order.
        learned: Training images of the starting weights. These are never drawn into validation or test. For the
            dataset's own splits, see `hf_tl.data.learned.leave_out_learned`.
        include_training_images: Whether to draw such images nevertheless if there are not enough others.
        exclude_list: CSV file of images to leave out; see `hf_tl.data.exclusions`.

    Raises:
        DataError: The dataset cannot be found, streamed or trained on. The message says why.

    >>> data = load_data("digits")
    >>> {split: len(rows) for split, rows in data.splits.items()}
    {'train': 1293, 'validation': 144, 'test': 360}
    """
    settings: dict[str, Any] = {
        "validation_fraction": validation_fraction,
        "test_fraction": test_fraction,
        "seed": seed,
        "learned": learned or LearnedFrom(),
        "include_learned": include_training_images,
        "exclude_list": exclude_list,
    }
    if streaming:
        streams = open_streams(
            name, config_name=config_name, revision=revision, image_column=image_column, label_column=label_column
        )
        return _stream(streams, **settings)
    source = open_source(name, config_name=config_name, revision=revision)
    data = _prepare(source.splits, name=source.name, image_column=image_column, label_column=label_column, **settings)
    return replace(
        data,
        revision=source.revision,
        license=source.license or data.license,
        notes=(*source.notes, *data.notes),
        source=source.kind,
        defaults=source.defaults,
    )


def prepare_data(
    dataset: Dataset | DatasetDict,
    *,
    name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
    learned: LearnedFrom | None = None,
    include_training_images: bool = False,
    exclude_list: str | None = None,
) -> ImageData:
    """Check a dataset in memory and draw its missing splits; see `load_data`.

    Raises:
        DataError: The dataset cannot be trained on. The message says why.
    """
    return _prepare(
        dataset,
        name=name,
        image_column=image_column,
        label_column=label_column,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        seed=seed,
        learned=learned or LearnedFrom(),
        include_learned=include_training_images,
        exclude_list=exclude_list,
    )


def _stream(source: StreamSource, **settings: Any) -> ImageData:
    """Draw the splits of a streamed dataset by stream position; fingerprints are those of its files."""
    settings |= {"image_column": source.image_column, "label_column": source.label_column}
    data = _prepare(DatasetDict(source.tables), name=source.name, **settings)
    return replace(
        data,
        splits={split: source.images_of(rows) for split, rows in data.splits.items()},
        digests={},
        revision=source.revision,
        license=source.license or data.license,
        notes=(*data.notes, "images were streamed, not downloaded"),
        source=source.kind,
    )


def _prepare(
    dataset: Dataset | DatasetDict,
    *,
    name: str | None,
    image_column: str | None,
    label_column: str | None,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    learned: LearnedFrom,
    include_learned: bool,
    exclude_list: str | None,
) -> ImageData:
    notes: list[str] = []
    splits = name_splits(_as_splits(dataset), notes)
    splits, labels = _encode(splits, image_column, label_column, notes)
    splits = leave_out_listed(splits, exclude_list, notes)
    _require_classes(splits["train"], labels)
    splits = choose_test(splits, notes)
    missing = missing_fractions(splits, validation_fraction=validation_fraction, test_fraction=test_fraction)
    digests = {split: _digests(rows, split) for split, rows in splits.items()}
    pool = Pool(digests["train"], np.asarray(splits["train"][LABEL][:]), labels)
    known = resolve_in(learned, digests, pool).digests
    rows, draws = draw_missing(pool, missing, seed, notes, known, include_learned=include_learned)
    if stay := int(sum(digest[:DIGEST_BYTES] in known for digest in pool.digests)) if draws else 0:
        notes.append(f"{stay:,} of {len(pool.digests):,} training images are training images of the starting model too")
    train = splits["train"]
    for split, chosen in rows.items():
        splits[split] = train.select(chosen, keep_in_memory=True) if draws else train
        digests[split] = tuple(pool.digests[row] for row in chosen)
    info, order = train.info, ("train", "validation", "test")
    data = ImageData(
        splits=DatasetDict({split: splits[split] for split in order}),
        labels=labels,
        name=name or info.dataset_name or "a dataset in memory",
        revision=None,
        license=info.license or None,
        notes=tuple(notes),
        draws=draws,
        digests={split: digests[split] for split in order},
        problem_type="multi_label_classification" if pool.is_multi_label else "single_label_classification",
    )
    return _note_copies(data)


def _encode(
    splits: Mapping[str, Dataset], image_column: str | None, label_column: str | None, notes: list[str]
) -> tuple[dict[str, Dataset], tuple[str, ...]]:
    """Find, check and rename the two columns of every split, and encode the labels consistently."""
    features = splits["train"].features
    image_column = find_image_column(features, image_column)
    label_column = find_label_column(features, label_column)
    if len(columns := split_names(features, label_column)) > 1:
        splits = join_columns(splits, columns)
    splits = _labeled_splits(splits, image_column, label_column, notes)
    if holds_lists(splits["train"].features[label_column]):
        splits, labels = encode_lists(splits, label_column)
        return _with_positives(rename_columns(splits, image_column, label_column), notes), labels
    labels = class_names(splits["train"], label_column)
    return rename_columns(encode_labels(splits, labels, label_column), image_column, label_column), labels


def _digests(rows: Dataset, split: str) -> tuple[bytes, ...]:
    """Hash the images of a split; for a stream, whose images are not read, hash their positions."""
    if PLACE in rows.features:
        return tuple(sha256(b"place %d" % place).digest() for place in rows[PLACE][:])
    return tuple(map_images(rows, split, digest_image))


def _as_splits(dataset: Any) -> dict[str, Dataset]:
    splits = {"train": dataset} if isinstance(dataset, Dataset) else dataset
    if not isinstance(splits, Mapping) or not all(isinstance(rows, Dataset) for rows in splits.values()):
        found = type(dataset).__name__
        raise DataError(
            f"expected a datasets.Dataset or DatasetDict, found {found}; a stream is opened by the dataset's name: "
            "hf_tl.load_data(name, streaming=True)"
        )
    return {split: rows.with_format(None) for split, rows in splits.items()}


def _labeled_splits(
    splits: Mapping[str, Dataset], image_column: str, label_column: str, notes: list[str]
) -> dict[str, Dataset]:
    """Keep the two columns, and the splits with labels; hidden test labels are common, partial labels are an error."""
    labeled = {}
    for split, rows in splits.items():
        if not len(rows):
            raise DataError(f"the split {split} is empty; add images to it, or remove it")
        if image_column not in rows.features:
            raise DataError(f"the split {split} has no column {image_column!r}, unlike train; name it alike everywhere")
        values = rows[label_column][:] if label_column in rows.features else [None] * len(rows)
        unlabeled = [row for row, value in enumerate(values) if is_unlabeled(value)]
        if len(unlabeled) == len(rows) and split != "train":
            notes.append(f"split {split} was left out: it has no labels")
            continue
        columns = [image_column, label_column, *([PLACE] if PLACE in rows.features else [])]
        rows = rows.select_columns(columns).cast_column(image_column, Image())
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


def _require_classes(train: Dataset, labels: tuple[str, ...]) -> None:
    if len(labels) < 2:
        raise DataError(f"expected at least two classes, found {len(labels)}: {name_some(labels)}; add another class")
    counts = class_counts_of(train, len(labels))
    if missing := [label for label, count in zip(labels, counts, strict=True) if not count]:
        raise DataError(
            f"classes missing from training: {name_some(missing)}; add images of them to train, "
            "or remove them from the dataset's list of classes"
        )


def check_images(data: ImageData, *, skip_bad_images: bool = False, verbose: bool = False) -> ImageData:
    """Decode every image once (JPEGs at an eighth of their size), so that none fails in the middle of training.

    Images that a plain `pipeline()` would convert differently are counted and noted.

    Streamed images are checked in a separate pass, and only if unreadable images are to be skipped. Otherwise the pass
    that caches features, which also precedes training, reports them.

    Args:
        data: Result of `load_data`.
        skip_bad_images: Whether to leave out unreadable images, with a note, instead of raising an error.
        verbose: Whether to show a progress bar.

    Returns:
        Data without the unreadable images.

    Raises:
        DataError: Images are unreadable (at most five are named), or not enough remain.
    """
    if streams_of(data.splits):
        if not skip_bad_images:
            return data
        left, more = leave_out(data.splits, _bad_image, verbose)
        return _without_bad_images(replace(data, splits=left, notes=(*data.notes, *more))) if more else data
    notes, errors, kept, conversions = [], [], {}, {}
    with progress_bar(
        total=sum(map(len, data.splits.values())), desc="Checking images", disable=not verbose
    ) as progress:
        for split, rows in data.splits.items():
            results = list(map_images(rows, split, _examine, progress))
            if bad := [result for result in results if isinstance(result, _Unreadable)]:
                errors += [one.error for one in bad]
                kept[split] = [row for row, result in enumerate(results) if not isinstance(result, _Unreadable)]
                names = name_some(Path(one.name).name for one in bad)
                notes.append(f"{len(bad)} images of {split} that cannot be read were left out: {names}")
            found = gather((None, True) if isinstance(result, _Unreadable) else result for result in results)
            conversions[split] = found
            notes += found.notes(split, len(rows))
    data = replace(data, conversions=conversions)
    if not errors:
        return replace(data, notes=(*data.notes, *notes))
    if not skip_bad_images:
        lines = [*errors[:5], *([f"and {len(errors) - 5} more"] if len(errors) > 5 else [])]
        advice = "replace or remove them, or leave them out with --skip_bad_images"
        raise DataError(f"{len(errors)} images cannot be used; {advice}:\n  " + "\n  ".join(lines))
    for split, good in kept.items():
        data = data.select(split, good)
    return _without_bad_images(replace(data, notes=(*data.notes, *notes)))


def _without_bad_images(data: ImageData) -> ImageData:
    for split, rows in data.splits.items():
        if not any(class_counts_of(rows, len(data.labels))):
            raise DataError(f"no image of the split {split} can be read, or none with a label; replace them")
    _require_classes(data.splits["train"], data.labels)
    return _note_copies(data)


@dataclass(frozen=True)
class _Unreadable:
    name: str
    error: str


def _examine(stored: Mapping[str, Any] | None, name: str) -> tuple[Conversion | None, bool] | _Unreadable:
    try:
        return examine(stored, name)
    except DataError as error:
        return _Unreadable(name, str(error))


def _bad_image(stored: Mapping[str, Any] | None, name: str) -> tuple[str, str] | None:
    result = _examine(stored, name)
    return (result.name, result.error) if isinstance(result, _Unreadable) else None


def _note_copies(data: ImageData) -> ImageData:
    """Note how many test images are copies of images in the other splits; drawn splits share none."""
    notes = [note for note in data.notes if not note.endswith(COPIES)]
    if data.digests:
        seen = {*data.digests["train"], *data.digests["validation"]}
        if repeated := sum(digest in seen for digest in data.digests["test"]):
            notes.append(f"{repeated} images of test {COPIES}")
    return replace(data, notes=tuple(notes))
