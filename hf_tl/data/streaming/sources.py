"""Opening of a dataset as streams: all labels are read, the images are not."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import (
    Dataset,
    DatasetBuilder,
    DatasetInfo,
    Image,
    IterableDataset,
    IterableDatasetDict,
    load_dataset_builder,
)
from datasets.packaged_modules.parquet.parquet import ParquetConfig

from hf_tl.data.columns import IMAGE, find_image_column, find_label_column, split_names
from hf_tl.data.decoding.stored import digest_image
from hf_tl.data.layout.listing import Listing
from hf_tl.data.sources.files import escaped, expand, files_of, name_files
from hf_tl.data.sources.hub import call, card_license, check_no_version, commit_of, require_repo_id
from hf_tl.data.sources.opening import DIGITS, PARQUET
from hf_tl.data.streaming.streams import PLACE, Stream, StreamedImages
from hf_tl.errors import DataError
from hf_tl.record.parts import DataSource

BLOCK = 64 * 1024
"""Bytes per read of a remote file of which only the labels are needed (datasets' default: 5 MiB)."""
READERS = 8
"""Number of shards whose labels are read in parallel; the network is the bottleneck."""
LABELS = 10_000
"""Number of labels per batch."""


@dataclass(frozen=True)
class StreamSource:
    """Streams of a dataset, and for each a table of labels with an empty image column."""

    streams: Mapping[str, Stream]
    tables: Mapping[str, Dataset]
    image_column: str
    label_column: str
    name: str
    revision: str | None
    license: str | None
    kind: DataSource

    def images_of(self, rows: Dataset) -> StreamedImages:
        """Return the streamed images of rows from one of `tables`."""
        first = rows[0][PLACE]
        [stream] = [
            candidate
            for candidate in self.streams.values()
            if candidate.start <= first < candidate.start + len(candidate)
        ]
        return StreamedImages(stream, rows.remove_columns(IMAGE))


def open_streams(
    name: str,
    *,
    config_name: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> StreamSource:
    """Open parquet files or a Hub dataset as streams, and read the labels.

    Parquet files store columns separately, so no image data are read here.

    Raises:
        ConfigError: A configuration or revision is named for local files.
        DataError: There is no such dataset, it does not consist of parquet files, its columns are ambiguous, or the Hub
            cannot be reached.
    """
    title, make, builder = open_builder(name, config_name, revision)
    what, commit = f"the dataset {title!r}", commit_of(builder)
    streams: IterableDatasetDict = call(what, builder.as_streaming_dataset)
    features = call(what, lambda: next(iter(streams.values()))._resolve_features().features)
    image_column = find_image_column(features, image_column)
    label_column = find_label_column(features, label_column)
    columns = split_names(features, label_column)
    pinned: dict[str, Any] = {} if commit is None else {"revision": commit}
    narrow = call(what, lambda: make(columns=columns, storage_options={"hf": {"block_size": BLOCK}}, **pinned))
    labels: IterableDatasetDict = call(what, narrow.as_streaming_dataset)
    opened: dict[str, Stream] = {}
    tables: dict[str, Dataset] = {}
    for split, rows in streams.items():
        table, sizes = call(f"the labels of {title}", partial(_read, labels[split].select_columns(columns)))
        start = sum(map(len, opened.values()))
        table = table.add_column(PLACE, list(range(start, start + len(table))))
        tables[split] = table.add_column(image_column, [None] * len(table), feature=Image())
        images = rows.select_columns([image_column]).cast_column(image_column, Image(decode=False))
        images = images if image_column == IMAGE else images.rename_column(image_column, IMAGE)
        opened[split] = Stream(images, split, sizes, identity_of(builder, split), start)
    license_name = builder.info.license or (None if commit is None else call(what, partial(card_license, name, commit)))
    kind: DataSource = "hub" if commit is not None else "folder" if Path(name).expanduser().is_dir() else "files"
    return StreamSource(opened, tables, image_column, label_column, title, commit, license_name or None, kind)


def open_builder(
    name: str, config_name: str | None, revision: str | None
) -> tuple[str, Callable[..., DatasetBuilder], DatasetBuilder]:
    """Open parquet files, or a Hub dataset of such files.

    Returns:
        Publishable name, a function that creates the builder and accepts further arguments, and the builder.

    Raises:
        ConfigError: A configuration or revision is named for local files.
        DataError: There is no such dataset, or it does not consist of parquet files.
    """
    title, make = _builder_of(name, config_name, revision)
    builder: DatasetBuilder = call(f"the dataset {title!r}", make)
    if not isinstance(builder.config, ParquetConfig):
        raise DataError(
            f"--streaming reads parquet files, in which columns lie apart, and {title} is of "
            f"{type(builder).__name__} files: of most public "
            "datasets the Hub keeps a parquet copy (--dataset_revision refs/convert/parquet); or leave out --streaming"
        )
    return title, make, builder


def _builder_of(name: str, config_name: str | None, revision: str | None) -> tuple[str, Callable[..., DatasetBuilder]]:
    """Return a publishable name, and a function that creates the builder and accepts further arguments."""
    path = Path(name).expanduser()
    if path.is_dir():
        files = files_of(Listing.read(path), path, PARQUET)
    else:
        files = expand(name) if name.lower().endswith(PARQUET) else []
    if files:
        check_no_version(f"{name!r}, which is here and not read from the Hub", config_name, revision)
        title, by_split = name_files(files)
        return path.resolve().name if path.is_dir() else title, partial(
            load_dataset_builder, "parquet", data_files=escaped(by_split)
        )
    if path.is_dir() or name == DIGITS:
        raise DataError(
            f"--streaming reads datasets of the Hub and parquet files, found {path.name}, which is here already and "
            "read where it lies: leave out --streaming"
        )
    require_repo_id(name)
    return name, partial(load_dataset_builder, name, config_name, **({"revision": revision} if revision else {}))


def _read(labels: IterableDataset) -> tuple[Dataset, tuple[int, ...]]:
    """Read the labels of a stream, and count those of each shard."""
    labels = labels._resolve_features()

    def read_shard(index: int) -> list[pa.Table]:
        return list(labels.shard(labels.num_shards, index).with_format("arrow").iter(LABELS))

    with ThreadPoolExecutor(READERS) as pool:
        shards = list(pool.map(read_shard, range(labels.num_shards)))
    schema = labels.features.arrow_schema
    table = pa.concat_tables([schema.empty_table(), *(part.cast(schema) for shard in shards for part in shard)])
    return Dataset(table, info=DatasetInfo(features=labels.features)), tuple(sum(map(len, shard)) for shard in shards)


def identity_of(builder: DatasetBuilder, split: str) -> str:
    """Return a fingerprint of the files of a split: local files by content, Hub files by name and commit."""
    files = builder.config.data_files[split]
    parts = [
        digest_image({"path": file}, file).hex() if Path(file).is_file() else f"{file} {origin}"
        for file, origin in zip(files, files.origin_metadata, strict=True)
    ]
    return sha256("\n".join(parts).encode()).hexdigest()
