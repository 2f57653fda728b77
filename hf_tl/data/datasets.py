"""Loading of a dataset, by name or from memory, as checked splits with one list of labels."""

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal

import numpy as np
from datasets import Dataset, DatasetDict, DatasetInfo

from hf_tl.data.checks import check_images
from hf_tl.data.columns import GROUP, IMAGE, LABEL
from hf_tl.data.drawing import Pool
from hf_tl.data.encoding import encode, require_classes
from hf_tl.data.grouping.groups import Stored, group_images
from hf_tl.data.image_data import AnyDataset, ImageData, targets_of
from hf_tl.data.index.digests import identify
from hf_tl.data.layout.exclusions import leave_out_listed
from hf_tl.data.layout.plan import AUTO, ClassFolder, Reading
from hf_tl.data.layout.reading import make_reading
from hf_tl.data.learned import resolve_in
from hf_tl.data.multi_label import name_classes
from hf_tl.data.sources.hub import check_no_version
from hf_tl.data.sources.opening import open_source
from hf_tl.data.sources.source import Source
from hf_tl.data.splits import choose_test, draw_missing, missing_fractions, name_splits, note_overlaps
from hf_tl.data.streaming.sources import StreamSource, open_streams
from hf_tl.data.streaming.streams import streams_of
from hf_tl.errors import ConfigError, DataError, name_some
from hf_tl.record import LearnedFrom
from hf_tl.record.learned import DIGEST_BYTES
from hf_tl.renamed import OLD_SOURCE, renamed

__all__ = ["ImageData", "check_images", "load_data", "source_of"]


@renamed(name="dataset", **OLD_SOURCE)
def load_data(
    dataset: AnyDataset,
    *,
    dataset_name: str | None = None,
    dataset_config: str | None = None,
    dataset_revision: str | None = None,
    split_folders: str | Mapping[str, Sequence[str]] | None = None,
    exclude_folders: str | Sequence[str] | None = None,
    class_folder: ClassFolder = "auto",
    image_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    label_separator: str | None = None,
    uncertain_labels: Literal["ignore", "zero", "one"] | None = None,
    keep_empty_classes: bool = False,
    exclude_list: str | None = None,
    group_column: str | None = None,
    group_pattern: str = AUTO,
    group_near_duplicates: bool = False,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
    streaming: bool = False,
    learned: LearnedFrom | None = None,
    include_training_images: bool = False,
) -> ImageData:
    """Load and check a dataset. No code of the dataset is run.

    The layout is read into a plan before any image is opened. Where two readings are possible, an error shows both and
    names the argument that decides. Missing splits are drawn from the training images by image content: renaming files
    does not change them, and copies of an image stay in one split.

    Args:
        dataset: `digits` (scikit-learn's), a folder of class folders (with splits above or below them), a folder with a
            table of labels, a table (.csv, .tsv, .jsonl, .parquet), parquet files or tar shards (a file, a glob
            pattern, or several separated by commas), a zip archive, or a Hub dataset; or a `datasets.Dataset` or
            `DatasetDict`. An `ImageData` is returned as it is.
        dataset_name: Name of a loaded dataset (default: that of its builder).
        dataset_config: Configuration of a Hub dataset.
        dataset_revision: Branch, tag or commit of a Hub dataset.
        split_folders: Folders, files or values of the split column of each split: `train=A,test=B` or a mapping;
            `none` where names like "train" are classes (default: by their names).
        exclude_folders: Folders to leave out, separated by commas.
        class_folder: Whether the outermost folders or those that images lie in are the classes (default: the outermost,
            an error where both are possible).
        image_column: Image column, or column of file names of a table (default: detected by type or by content). It is
            renamed to `image`.
        label_column: Label column (default: the only `ClassLabel`, else a column with a common name). A column of lists
            makes the data multi-label, as do several comma-separated columns of 0 and 1. It is renamed to `label`.
        split_column: Column that names the split of each row (default: a column such as `split` whose values are all
            names of splits).
        label_separator: Text between several labels of one image in the label column, which makes the data multi-label.
        uncertain_labels: Meaning of -1 and of blank values beside 0 and 1 in columns of 0 and 1: no (`zero`), -1 as yes
            (`one`), or leave the image out (`ignore`).
        keep_empty_classes: Whether to keep classes without images, which the model then has an output for.
        exclude_list: CSV file of images to leave out; see `hf_tl.data.layout.exclusions`.
        group_column: Column of groups. Images of a group (a patient, a video, an object) stay in one split.
        group_pattern: Regular expression whose first group, or whole match, in the path of a file is its group; `auto`
            recognizes series in names, unless there is a column of groups; `none` does not look at names.
        group_near_duplicates: Whether near-duplicates stay in one split.
        validation_fraction: Share of the training images to hold out if there is no validation split.
        test_fraction: Share of the training images to hold out if there is no test split.
        seed: Random seed of these splits.
        streaming: Whether to read only the labels, and to stream the images of a Hub dataset or of parquet files. The
            splits are then `hf_tl.data.streaming.streams.StreamedImages`, whose images come in stream order.
        learned: Training images of the starting weights. These are never drawn into validation or test. For the
            dataset's own splits, see `hf_tl.data.learned.leave_out_learned`.
        include_training_images: Whether to draw such images nevertheless if there are not enough others.

    Raises:
        ConfigError: A setting cannot be used for this dataset, which has been read already.
        DataError: The dataset cannot be found, read in one way, streamed or trained on. The message says why.

    >>> data = load_data("digits")
    >>> {split: len(rows) for split, rows in data.splits.items()}
    {'train': 1293, 'validation': 144, 'test': 360}
    """
    reading = make_reading(
        split_folders=split_folders,
        exclude_folders=exclude_folders,
        class_folder=class_folder,
        image_column=image_column,
        label_column=label_column,
        split_column=split_column,
        label_separator=label_separator,
        uncertain_labels=uncertain_labels,
        keep_empty_classes=keep_empty_classes,
        exclude_list=exclude_list,
        group_column=group_column,
        group_pattern=group_pattern,
        group_near_duplicates=group_near_duplicates,
    )
    fractions = {"validation_fraction": validation_fraction, "test_fraction": test_fraction}
    version = {"dataset_config": dataset_config, "dataset_revision": dataset_revision}
    if isinstance(dataset, ImageData):
        _check_unread(reading, fractions, {**version, "dataset_name": dataset_name, "streaming": streaming or None})
        return dataset
    settings: dict[str, Any] = {
        **fractions,
        "seed": seed,
        "learned": learned or LearnedFrom(),
        "include_learned": include_training_images,
    }
    if streaming:
        return _stream(_open_streams(dataset, reading, **version), reading, **settings)
    return _prepare(source_of(dataset, reading, dataset_name=dataset_name, **version), reading, **settings)


def source_of(
    dataset: AnyDataset,
    reading: Reading | None = None,
    *,
    dataset_name: str | None = None,
    dataset_config: str | None = None,
    dataset_revision: str | None = None,
) -> Source:
    """Return the stored splits of a dataset, before any check or draw. All functions that take a dataset use this.

    Args:
        dataset: Name, folder, table, `Dataset`, `DatasetDict`, or result of `load_data`, whose splits it has.
        reading: Choices of the user about how to read it.
        dataset_name: Name of a dataset in memory (default: that of its builder).
        dataset_config: As in `load_data`.
        dataset_revision: As in `load_data`.

    Raises:
        ConfigError: `dataset_name` is given for a dataset that has a name, or a version for one that has none.
        DataError: There is no such dataset, it has two readings, or it can be read once only (a stream).
    """
    if isinstance(dataset, str | os.PathLike | ImageData) and dataset_name is not None:
        raise ConfigError("dataset_name names a loaded dataset, and this one has a name: leave out dataset_name=")
    if isinstance(dataset, str | os.PathLike):
        return open_source(os.fspath(dataset), reading, config_name=dataset_config, revision=dataset_revision)
    check_no_version("a dataset in memory", dataset_config, dataset_revision)
    if isinstance(dataset, ImageData):
        return _loaded(dataset)
    splits = _as_splits(dataset)
    info = next((rows.info for rows in splits.values()), DatasetInfo())
    name = dataset_name or info.dataset_name or "in-memory dataset"
    return Source(DatasetDict(splits), name, license=info.license or None, kind="memory", layout="dataset in memory")


def _loaded(data: ImageData) -> Source:
    """Return the splits of loaded data; labels of several classes get their names back."""
    if streams_of(data.splits):
        raise DataError(
            "expected images that can be read twice, found a stream; load them with hf_tl.load_data(name), without "
            "streaming"
        )
    splits = data.splits
    if data.problem_type == "multi_label_classification":
        splits = DatasetDict({split: name_classes(rows, data.labels) for split, rows in splits.items()})
    return Source(
        splits,
        data.name,
        revision=data.revision,
        license=data.license,
        notes=data.notes,
        kind=data.source,
        defaults=data.defaults,
        origins=dict.fromkeys(data.draws, "drawn from train") | dict(data.origins),
        layout=data.layout or "loaded data",
        image_column=IMAGE,
        label_column=LABEL,
    )


def load_arguments(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return flags about a dataset as arguments of `load_data`; those that are None are left out.

    >>> load_arguments({"dataset_config": "small", "label_column": "breed", "split_column": None})
    {'dataset_config': 'small', 'label_column': 'breed'}
    """
    return {flag: value for flag, value in flags.items() if value is not None}


def _check_unread(reading: Reading, fractions: Mapping[str, float], others: Mapping[str, Any]) -> None:
    """Reject settings of columns and splits for data that have been read and split.

    Raises:
        ConfigError: There are some.
    """
    default = inspect.signature(load_data).parameters
    changed = [choice.name for choice in fields(Reading) if getattr(reading, choice.name) != choice.default]
    changed += [name for name, share in fractions.items() if share != default[name].default]
    changed += [name for name, value in others.items() if value is not None]
    if changed:
        raise ConfigError(f"the dataset is already split by hf_tl.load_data: pass {name_some(changed)} to load_data")


def _open_streams(
    dataset: Any, reading: Reading, *, dataset_config: str | None, dataset_revision: str | None
) -> StreamSource:
    """Open a dataset by its name as streams.

    Raises:
        ConfigError: The dataset is loaded already, or is to be split by groups, which need names or pixels of images.
    """
    if reading.group_column or reading.group_pattern not in (AUTO, "none") or reading.group_near_duplicates:
        raise ConfigError(
            "--streaming draws splits image by image: leave out --streaming, or --group_column, --group_pattern and "
            "--group_near_duplicates"
        )
    if not isinstance(dataset, str | os.PathLike):
        raise ConfigError(f"streaming opens a dataset by its name, found a {type(dataset).__name__}: leave it out")
    return open_streams(
        os.fspath(dataset),
        config_name=dataset_config,
        revision=dataset_revision,
        image_column=reading.image_column,
        label_column=reading.label_column,
    )


def _stream(source: StreamSource, reading: Reading, **settings: Any) -> ImageData:
    """Draw the splits of a streamed dataset by stream position; fingerprints are those of its files."""
    reading = replace(reading, image_column=source.image_column, label_column=source.label_column)
    tables = Source(
        DatasetDict(source.tables),
        source.name,
        revision=source.revision,
        license=source.license,
        kind=source.kind,
        layout="parquet files, streamed",
    )
    data = _prepare(tables, reading, **settings)
    return replace(
        data,
        splits={split: source.images_of(rows) for split, rows in data.splits.items()},
        digests={},
        notes=(*data.notes, "images were streamed, not downloaded"),
    )


def _prepare(
    source: Source,
    reading: Reading,
    *,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    learned: LearnedFrom,
    include_learned: bool,
) -> ImageData:
    """Name, encode and draw the splits of a source."""
    notes = list(source.notes)
    reading = source.complete(reading)
    splits, origins = name_splits(_as_splits(source.splits), reading, notes, source.origins)
    splits, labels = encode(splits, reading, notes)
    splits = leave_out_listed(splits, reading.exclude_list, notes)
    require_classes(splits["train"], labels, keep_empty=reading.keep_empty_classes)
    splits, origins = choose_test(splits, origins, notes)
    missing = missing_fractions(splits, validation_fraction=validation_fraction, test_fraction=test_fraction)
    digests = identify(splits, source.root)
    stored = Stored(splits, labels, source.root, digests)
    groups, grouping = group_images(stored, reading, notes, draws=bool(missing))
    splits = {split: rows.remove_columns(GROUP) if GROUP in rows.features else rows for split, rows in splits.items()}
    pool = Pool(digests["train"], targets_of(splits["train"]), labels, groups.get("train", ()))
    known = resolve_in(learned, digests, pool).digests
    criterion = None if grouping is None else grouping.origin
    rows, draws = draw_missing(pool, missing, seed, notes, known, include_learned=include_learned, criterion=criterion)
    if stay := int(sum(digest[:DIGEST_BYTES] in known for digest in pool.digests)) if draws and known else 0:
        notes.append(f"{stay:,} of {len(pool.digests):,} images of train were learned from in an earlier training")
    train = splits["train"]
    for split, chosen in rows.items():
        splits[split] = train.select(np.asarray(chosen), keep_in_memory=True) if draws else train
        digests[split] = tuple(pool.digests[row] for row in chosen)
        if groups:
            groups[split] = tuple(pool.groups[row] for row in chosen)
    order = ("train", "validation", "test")
    data = ImageData(
        splits=DatasetDict({split: splits[split] for split in order}),
        labels=labels,
        name=source.name,
        revision=source.revision,
        license=source.license or train.info.license or None,
        notes=tuple(notes),
        source=source.kind,
        layout=source.layout,
        origins={split: origins[split] for split in order if split in origins},
        draws=draws,
        digests={split: digests[split] for split in order},
        groups={split: groups[split] for split in order} if groups else {},
        grouping=grouping,
        problem_type="multi_label_classification" if pool.is_multi_label else "single_label_classification",
        defaults=source.defaults,
        root=source.root,
    )
    return note_overlaps(data)


def _as_splits(dataset: Any) -> dict[str, Dataset]:
    splits = {"train": dataset} if isinstance(dataset, Dataset) else dataset
    if isinstance(splits, Mapping) and all(isinstance(rows, Dataset) for rows in splits.values()):
        return {split: rows.with_format(None) for split, rows in splits.items()}
    is_stream = "Iterable" in type(dataset).__name__
    advice = "; a stream is opened by the dataset's name: hf_tl.load_data(name, streaming=True)" if is_stream else ""
    raise DataError(
        "expected a dataset (a name, a folder, a table, a datasets.Dataset or DatasetDict, or the result of "
        f"hf_tl.load_data), found {type(dataset).__name__}{advice}"
    )
