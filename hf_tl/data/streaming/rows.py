"""Rows of parquet files that are read when they are needed, also over the network, and not stored."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image
from huggingface_hub import HfFileSystem

from hf_tl.data.columns import find_image_column
from hf_tl.data.sources.hub import call
from hf_tl.data.streaming.sources import BLOCK, READERS, identity_of, open_builder
from hf_tl.errors import DataError, name_some

ROWS = 64
"""Largest number of rows that are decompressed at a time."""


@dataclass(frozen=True)
class RowGroup:
    """Consecutive rows of a file that can be read without the others."""

    file: str
    number: int
    rows: range
    """Rows of the split."""


@dataclass(frozen=True)
class StreamedRows:
    """Image column of a split in parquet files: any consecutive rows can be read, by the row groups that hold them."""

    groups: tuple[RowGroup, ...]
    column: str
    name: str
    """Name of the dataset, for messages."""
    fingerprint: str
    """Fingerprint of the files, the column and the rows."""
    rows: range

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        place = range(len(self))[index]
        [row] = self.select(range(place, place + 1))
        return row

    def select(self, rows: range) -> "StreamedRows":
        """Return consecutive rows."""
        kept = self.rows[rows.start : rows.stop]
        identity = sha256(f"{self.fingerprint} {kept}".encode()).hexdigest()
        return replace(self, rows=kept, fingerprint=identity)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the stored image of each row under the name of its column.

        Raises:
            DataError: The network fails, or a file was changed.
        """
        wanted = [group for group in self.groups if self._share(group)]
        for file, groups in groupby(wanted, key=attrgetter("file")):
            with self._call(partial(_open, file)) as stream:
                parquet = self._call(partial(pq.ParquetFile, stream, pre_buffer=True))
                for group in groups:
                    yield from self._read(parquet, group)

    def _read(self, parquet: pq.ParquetFile, group: RowGroup) -> Iterator[dict[str, Any]]:
        share, start = self._share(group), 0
        batches = parquet.iter_batches(ROWS, row_groups=[group.number], columns=[self.column])
        while start < share.stop and (column := self._call(partial(_next_column, batches))) is not None:
            first = max(share.start - start, 0)
            kept = column.slice(first, share.stop - start - first).to_pylist()
            yield from ({self.column: image} for image in kept)
            start += len(column)
        if start < share.stop:
            raise DataError(f"{Path(group.file).name} of {self.name} was changed while it was read: run again")

    def _share(self, group: RowGroup) -> range:
        """Return the places in a row group of the rows that are wanted."""
        first, last = max(group.rows.start, self.rows.start), min(group.rows.stop, self.rows.stop)
        return range(first - group.rows.start, last - group.rows.start)

    def _call(self, read: Callable[[], Any]) -> Any:
        return call(f"the dataset {self.name!r}", read)


def open_rows(
    name: str, *, config_name: str | None = None, revision: str | None = None, image_column: str | None = None
) -> dict[str, StreamedRows]:
    """Open each split of parquet files or of a Hub dataset. Of those on the Hub, only the numbers of rows are read.

    Args:
        name: Value of `--dataset`.
        config_name: Configuration of a Hub dataset.
        revision: Branch, tag or commit of a Hub dataset.
        image_column: Image column (default: detected by type).

    Raises:
        ConfigError: A configuration or revision is named for local files.
        DataError: There is no such dataset, it does not consist of parquet files, its columns are ambiguous, or the Hub
            cannot be reached.
    """
    title, _, builder = open_builder(name, config_name, revision)
    splits = {}
    with ThreadPoolExecutor(READERS) as pool:
        for split, files in builder.config.data_files.items():
            opened = call(f"the dataset {title!r}", partial(_read_metadata, pool, files))
            column = _column_of(dict(zip(files, opened, strict=True)), image_column)
            groups = _groups(files, opened)
            identity = f"{identity_of(builder, str(split))} {column}"
            rows = range(sum(content.num_rows for content in opened))
            splits[str(split)] = StreamedRows(groups, column, title, identity, rows)
    return splits


def _column_of(files: Mapping[str, pq.FileMetaData], image_column: str | None) -> str:
    """Return the image column of files.

    Raises:
        DataError: It is ambiguous, a file lacks it, or it holds paths.
    """
    columns = set()
    for file, content in files.items():
        schema = content.schema.to_arrow_schema()
        columns.add(column := find_image_column(Features.from_arrow_schema(schema), image_column))
        kind = schema.field(column).type
        kind = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
        if not pa.types.is_binary(kind) and not pa.types.is_large_binary(kind):
            raise DataError(
                f"--streaming reads encoded images, found {kind} in the column {column!r} of {Path(file).name}: name "
                "the column of images with --image_column, or leave out --streaming"
            )
    if len(columns) > 1:
        raise DataError(f"expected one image column in all files, found {name_some(sorted(columns))}: --image_column")
    return columns.pop()


def _read_metadata(pool: ThreadPoolExecutor, files: Sequence[str]) -> list[pq.FileMetaData]:
    """Read the ends of files, which say where their rows are."""

    def read(file: str) -> pq.FileMetaData:
        with _open(file, BLOCK) as stream:
            return pq.read_metadata(stream)

    return list(pool.map(read, files))


def _open(file: str, block_size: int | None = None) -> Any:
    """Open a local file or one of the Hub, in binary.

    Args:
        file: Path, or address on the Hub.
        block_size: Bytes per read over the network (default: that of huggingface_hub).
    """
    return Path(file).open("rb") if Path(file).is_file() else HfFileSystem().open(file, block_size=block_size)


def _groups(files: Sequence[str], contents: Sequence[pq.FileMetaData]) -> tuple[RowGroup, ...]:
    """Return the row groups of files one after the other."""
    groups: list[RowGroup] = []
    start = 0
    for file, content in zip(files, contents, strict=True):
        for number in range(content.num_row_groups):
            stop = start + content.row_group(number).num_rows
            groups.append(RowGroup(file, number, range(start, stop)))
            start = stop
    return tuple(groups)


def _next_column(batches: Iterator[pa.RecordBatch]) -> pa.Array | None:
    """Read the stored images of the next batch; None at the end."""
    batch = next(batches, None)
    return None if batch is None else Image(decode=False).cast_storage(batch.column(0))
