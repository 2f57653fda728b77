"""From a dataset's name to checked splits of images with one list of labels."""

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Image

from hf_tl.data.fingerprint import digest_image, digest_in_order, fingerprint_of, map_images, row_name
from hf_tl.data.images import decode
from hf_tl.data.labels import (
    class_names,
    encode_labels,
    find_image_column,
    find_label_column,
    is_unlabeled,
    split_names,
)
from hf_tl.data.multi_label import encode_lists, flags_of, holds_lists, join_columns
from hf_tl.data.sources import open_source
from hf_tl.data.splits import complete_splits, name_splits
from hf_tl.data.stream_sources import StreamSource, open_streams
from hf_tl.data.streams import PLACE, fingerprint_of_streams, leave_out, streams_of
from hf_tl.errors import DataError, name_some
from hf_tl.processes.console import progress_bar


@dataclass(frozen=True)
class ImageData:
    """Splits that are ready to be trained on: labelled, disjoint, with the same classes in the same order."""

    splits: DatasetDict
    """train, validation and test, each with the image column and the label column: a `ClassLabel`, or for multi-label
    data a list of as many zeros and ones as there are classes. Those of a stream are `StreamedImages`."""
    labels: tuple[str, ...]
    image_column: str
    label_column: str
    name: str
    """Publishable: a Hub id, "digits", or the folder's own name, never a path."""
    revision: str | None
    """The commit of the Hub repository, if it is one."""
    fingerprint: str
    """Identifies the labelled images by all their bytes, in whatever order and split: the same on every machine and in
    every run. Of streams: their files, labels and splits."""
    license: str | None
    notes: tuple[str, ...]
    """What was done to the data: splits made or renamed, rows left out."""
    set_apart: frozenset[str] = frozenset()
    """The splits that were taken from train, because the dataset had none of the kind."""
    problem_type: str = "single_label_classification"
    """Or `multi_label_classification`: an image shows any number of classes, or none. As in a model's config."""
    orders: Mapping[str, str] = field(default_factory=dict)
    """What identifies the images of a split in their order, whatever their labels, by the `_fingerprint` that datasets
    gives the split, which no other choice of its rows has."""

    def class_counts(self, split: str) -> list[int]:
        """Count the images of each class in a split, in the order of `labels`."""
        return _class_counts(self.splits[split], self.label_column, len(self.labels))


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
) -> ImageData:
    """Load and check a dataset. No code of the dataset is run.

    Args:
        name: `digits` (scikit-learn's), an image folder (with one folder per class, perhaps inside `train`,
            `validation` and `test`), parquet files (one, a pattern, several with commas), or a dataset of the Hub.
        config_name: which configuration of a dataset of the Hub.
        revision: which branch, tag or commit of a dataset of the Hub.
        image_column: where the images are; by default the only column of images.
        label_column: where the labels are; by default the only `ClassLabel`, else a column with a usual name. A column
            of lists makes the data multi-label, as do several columns of 0 and 1, which are named with commas.
        validation_fraction: how much of train is set apart where there is no validation split.
        test_fraction: how much of train is set apart where there is no split to test on.
        seed: decides which images are set apart.
        streaming: read the labels alone, and leave the images of a dataset of the Hub, or of parquet files, where they
            are: the splits are `hf_tl.data.streams.StreamedImages`, whose images come in their order.

    Raises:
        DataError: the dataset cannot be found, streamed or trained on; the message says why.

    >>> data = load_data("digits")
    >>> {split: len(rows) for split, rows in data.splits.items()}
    {'train': 1293, 'validation': 144, 'test': 360}
    """
    fractions: dict[str, Any] = {"validation_fraction": validation_fraction, "test_fraction": test_fraction}
    if streaming:
        streams = open_streams(
            name, config_name=config_name, revision=revision, image_column=image_column, label_column=label_column
        )
        return _stream(streams, **fractions, seed=seed)
    source = open_source(name, config_name=config_name, revision=revision)
    data = prepare_data(
        source.splits, name=source.name, image_column=image_column, label_column=label_column, **fractions, seed=seed
    )
    return replace(
        data, revision=source.revision, license=source.license or data.license, notes=(*source.notes, *data.notes)
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
) -> ImageData:
    """Check a dataset that is loaded already, and make the splits that it lacks; see `load_data`.

    Raises:
        DataError: the dataset cannot be trained on; the message says why.
    """
    data = _prepare(
        dataset,
        name=name,
        image_column=image_column,
        label_column=label_column,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        seed=seed,
    )
    return _with_fingerprint(data)


def _stream(source: StreamSource, **settings: Any) -> ImageData:
    """Make the splits of streams from their labels, and identify them by their files."""
    settings |= {"image_column": source.image_column, "label_column": source.label_column}
    data = _prepare(DatasetDict(source.tables), name=source.name, **settings)
    splits = {split: source.images_of(rows) for split, rows in data.splits.items()}
    notes = (*data.notes, "images were streamed, not downloaded")
    data = replace(data, splits=splits, revision=source.revision, license=source.license or data.license, notes=notes)
    return _with_fingerprint(data)


def _prepare(
    dataset: Dataset | DatasetDict,
    *,
    name: str | None,
    image_column: str | None,
    label_column: str | None,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> ImageData:
    notes: list[str] = []
    splits = name_splits(_as_splits(dataset), notes)
    image_column = find_image_column(splits["train"].features, image_column)
    features = splits["train"].features
    label_column = find_label_column(features, label_column)
    if len(columns := split_names(features, label_column)) > 1:
        splits = join_columns(splits, columns)
    splits = _labeled_splits(splits, image_column, label_column, notes)
    is_multi_label = holds_lists(splits["train"].features[label_column])
    if is_multi_label:
        splits, labels = encode_lists(splits, label_column)
        splits = _with_positives(splits, label_column, notes)
    else:
        labels = class_names(splits["train"], label_column)
        splits = encode_labels(splits, label_column, labels)
    _require_classes(splits["train"], label_column, labels)
    complete, set_apart = complete_splits(
        splits, label_column, notes, validation_fraction=validation_fraction, test_fraction=test_fraction, seed=seed
    )
    info = complete["train"].info
    return ImageData(
        splits=complete,
        labels=labels,
        image_column=image_column,
        label_column=label_column,
        name=name or info.dataset_name or "a dataset in memory",
        revision=None,
        fingerprint="",
        license=info.license or None,
        notes=tuple(notes),
        set_apart=set_apart,
        problem_type="multi_label_classification" if is_multi_label else "single_label_classification",
    )


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
    """Keep the two columns, and the splits that have labels; hidden test labels are usual, gaps are not."""
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


def _with_positives(splits: Mapping[str, Dataset], label_column: str, notes: list[str]) -> dict[str, Dataset]:
    """Keep the splits in which some image has a label: nothing can be measured on the others."""
    kept = {}
    for split, rows in splits.items():
        without = len(rows) - int(flags_of(rows, label_column).any(axis=1).sum())
        if without == len(rows) and split != "train":
            notes.append(f"split {split} was left out: it has no labels")
            continue
        if without:
            notes.append(f"{without} of {len(rows)} images of {split} show none of the classes")
        kept[split] = rows
    return kept


def _require_classes(train: Dataset, label_column: str, labels: tuple[str, ...]) -> None:
    if len(labels) < 2:
        raise DataError(f"expected at least two classes, found {len(labels)}: {name_some(labels)}; add another class")
    counts = _class_counts(train, label_column, len(labels))
    if missing := [label for label, count in zip(labels, counts, strict=True) if not count]:
        raise DataError(
            f"classes missing from training: {name_some(missing)}; add images of them to train, "
            "or remove them from the dataset's list of classes"
        )


def _class_counts(rows: Dataset, label_column: str, classes: int) -> list[int]:
    if holds_lists(rows.features[label_column]):
        return flags_of(rows, label_column).sum(axis=0, dtype=int).tolist()
    counts = Counter(rows[label_column][:])
    return [counts[label] for label in range(classes)]


def check_images(
    data: ImageData, *, skip_bad_images: bool = False, verbose: bool = False, readable: Container[str] = ()
) -> ImageData:
    """Decode every image once, JPEGs at an eighth of their size, so that none fails in the middle of training.

    Those of a stream are only checked, in a pass of its own, where what cannot be read is to be left out: else the pass
    that computes features, which comes before training too, finds them.

    Args:
        data: what `load_data` returned.
        skip_bad_images: leave out what cannot be read, and note it.
        verbose: show a progress bar.
        readable: identifies splits as `data.orders` does; their images were decoded before, and are not decoded again.

    Returns:
        The data without the images that cannot be read: `data` itself, unless some were left out.

    Raises:
        DataError: images cannot be read (at most five are named), or too few are left.
    """
    if streams_of(data.splits):
        if not skip_bad_images:
            return data
        left, more = leave_out(data.splits, _bad_image, verbose)
        return _without_bad_images(data, left, [*data.notes, *more]) if more else data
    notes, errors, splits = list(data.notes), [], DatasetDict()
    with progress_bar(
        total=sum(map(len, data.splits.values())), desc="Checking images", disable=not verbose
    ) as progress:
        for split, rows in data.splits.items():
            if data.orders.get(rows._fingerprint) in readable:
                splits[split] = rows
                progress.update(len(rows))
                continue
            results = list(map_images(rows, data.image_column, split, _bad_image, progress))
            bad = {row: result for row, result in enumerate(results) if result is not None}
            splits[split] = rows
            errors += [error for _, error in bad.values()]
            if bad:
                good = [row for row in range(len(rows)) if row not in bad]
                splits[split] = rows.select(good, keep_in_memory=True)
                names = name_some(Path(name).name for name, _ in bad.values())
                notes.append(f"{len(bad)} images of {split} that cannot be read were left out: {names}")
    if not errors:
        return data
    if not skip_bad_images:
        lines = [*errors[:5], *([f"and {len(errors) - 5} more"] if len(errors) > 5 else [])]
        advice = "replace or remove them, or leave them out with --skip_bad_images"
        raise DataError(f"{len(errors)} images cannot be used; {advice}:\n  " + "\n  ".join(lines))
    return _without_bad_images(data, splits, notes)


def _without_bad_images(data: ImageData, splits: DatasetDict, notes: Sequence[str]) -> ImageData:
    for split, rows in splits.items():
        if not any(_class_counts(rows, data.label_column, len(data.labels))):
            raise DataError(f"no image of the split {split} can be read, or none with a label; replace them")
    _require_classes(splits["train"], data.label_column, data.labels)
    return _with_fingerprint(replace(data, splits=splits, notes=tuple(notes)))


def _bad_image(stored: Mapping[str, Any] | None, name: str) -> tuple[str, str] | None:
    try:
        decode(stored or {}, name, reduced=True)
    except DataError as error:
        return name, str(error)
    return None


def _with_fingerprint(data: ImageData) -> ImageData:
    if streams_of(data.splits):
        return replace(data, fingerprint=fingerprint_of_streams(data.splits, data.label_column, data.labels))
    digests = {
        split: list(map_images(rows, data.image_column, split, digest_image)) for split, rows in data.splits.items()
    }
    labels = [label for rows in data.splits.values() for label in rows[data.label_column][:]]
    fingerprint = fingerprint_of([digest for split in digests.values() for digest in split], labels, data.labels)
    notes = [note for note in data.notes if not note.endswith("are also in train or validation")]
    seen = {*digests["train"], *digests["validation"]}
    if repeated := sum(digest in seen for digest in digests["test"]):
        notes.append(f"{repeated} images of test are also in train or validation")
    orders = {rows._fingerprint: digest_in_order(digests[split]) for split, rows in data.splits.items()}
    return replace(data, fingerprint=fingerprint, notes=tuple(notes), orders=orders)
