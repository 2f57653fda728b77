"""Tables of predictions as CSV, JSON lines or parquet, written while predictions are made."""

import contextlib
import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hf_tl.errors import ConfigError, DataError
from hf_tl.predicting.result import TableFormat
from hf_tl.storage.folders import replaced_file
from hf_tl.storage.writing import writing

SEPARATOR = "|"
"""Character between the labels of an image in CSV."""

Rows = Callable[[list[dict[str, Any]]], None]


@contextlib.contextmanager
def open_table(path: str | os.PathLike[str], table: TableFormat) -> Iterator[Rows]:
    """Open a table for writing, in the format of its ending: `.csv`, `.jsonl` or `.parquet`.

    The rows are written to a file beside it, which replaces `path` when the context ends without an exception.

    Args:
        path: Path of the table.
        table: Columns.

    Yields:
        Function that appends rows of `TableFormat.row`.

    Raises:
        ConfigError: The name has another ending, or the file cannot be written.
    """
    path = Path(path)
    writer = writer_of(path)
    with writing(f"--output {path}", ConfigError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as partial, writer(partial, table) as write:
            yield write


def writer_of(path: Path) -> "Writer":
    """Return the function that writes the format of a file's ending.

    Raises:
        ConfigError: There is none.
    """
    if (suffix := path.suffix.lower()) not in _WRITERS:
        raise ConfigError(f"--output is a file that ends with {', '.join(_WRITERS)}, found {str(path)!r}")
    return _WRITERS[suffix]


@contextlib.contextmanager
def _csv(path: Path, table: TableFormat) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    def text(name: str, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        if name == "labels" and (wrong := [label for label in value if SEPARATOR in label]):
            raise DataError(f"CSV cannot hold the class {wrong[0]!r} in a list: write .jsonl or .parquet")
        return SEPARATOR.join(map(str, value))

    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(table.columns))
        writer.writeheader()

        def write(rows: list[dict[str, Any]]) -> None:
            writer.writerows({name: text(name, value) for name, value in row.items()} for row in rows)
            file.flush()

        yield write


@contextlib.contextmanager
def _jsonl(path: Path, table: TableFormat) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    with path.open("w", encoding="utf-8") as file:

        def write(rows: list[dict[str, Any]]) -> None:
            file.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
            file.flush()

        yield write


@contextlib.contextmanager
def _parquet(path: Path, table: TableFormat) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {str: pa.string(), float: pa.float64(), bool: pa.bool_()}
    lists = {"labels": pa.list_(pa.string()), "probabilities": pa.list_(pa.float64())}
    lists |= {"embedding": pa.list_(pa.float32())}
    schema = pa.schema([(name, lists.get(name) or kinds[kind]) for name, kind in table.columns.items()])
    with parquet.ParquetWriter(path, schema) as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema=schema))


Writer = Callable[[Path, TableFormat], contextlib.AbstractContextManager[Callable[[list[dict[str, Any]]], None]]]
_WRITERS: dict[str, Writer] = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
