"""Tables read as they are: every CSV value stays text, so that 007, None and NA remain what they are."""

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hf_tl.errors import DataError, name_some, unreadable

SEPARATORS = ",;\t|"


@dataclass(frozen=True)
class Table:
    """Columns of a table, in order. Values of CSV are text, others have the types of their file."""

    path: str
    """Path relative to the dataset's root."""
    columns: Mapping[str, tuple[object, ...]]

    @property
    def name(self) -> str:
        """File name."""
        return PurePosixPath(self.path).name

    @property
    def folder(self) -> str:
        """Folder of the file, relative to the root; empty for the root itself."""
        parent = str(PurePosixPath(self.path).parent)
        return "" if parent == "." else parent

    def __len__(self) -> int:
        """Count the rows."""
        return len(next(iter(self.columns.values()), ()))


def read_table(root: Path, path: str) -> Table:
    """Read a CSV, TSV, JSON Lines or Parquet file.

    Raises:
        DataError: The file is empty, damaged, not UTF-8, or its rows differ in length.
    """
    file = root / path
    try:
        if file.suffix.lower() == ".parquet":
            columns = _read_parquet(file)
        elif file.suffix.lower() == ".jsonl":
            columns = _parse_jsonl(file.read_text(encoding="utf-8-sig"), path)
        else:
            columns = parse_csv(_decode(file.read_bytes(), path), path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8 (Excel: CSV UTF-8)") from error
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise DataError(f"the table {path} cannot be read: {unreadable(error)}") from error
    return Table(path, columns)


def _read_parquet(file: Path) -> dict[str, tuple[object, ...]]:
    """Read a Parquet file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged, or has contents that Arrow does not know.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return {name: tuple(values) for name, values in pq.read_table(file).to_pydict().items()}
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


def _decode(data: bytes, path: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    if data.startswith(b"PK\x03\x04"):
        raise DataError(f"{path} is an Excel workbook; save it as CSV UTF-8")
    return data.decode("utf-8-sig")


def parse_csv(text: str, path: str) -> dict[str, tuple[object, ...]]:
    r"""Parse CSV with any of the usual separators; the header decides which.

    Raises:
        DataError: There is no row, the header repeats a name, or a row has another number of values.

    >>> parse_csv("file; label\n1.jpg;007\n", "a.csv")
    {'file': ('1.jpg',), 'label': ('007',)}
    """
    lines = text.splitlines()
    header = next((line for line in lines if line.strip()), "")
    separator = max(SEPARATORS, key=lambda candidate: len(next(csv.reader([header], delimiter=candidate), [])))
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if any(value.strip() for value in row)]
    if len(rows) < 2:
        raise DataError(f"the table {path} has no rows; expected a header line and one line for each image")
    names = [name.strip() for name in rows[0]]
    if repeated := [name for name, count in Counter(names).items() if count > 1 and name]:
        raise DataError(f"the header of {path} repeats {name_some(repeated)}; name each column once")
    while names and not names[-1]:
        names.pop()
    wrong = [number for number, row in enumerate(rows, 1) if len(row) < len(names) or any(row[len(names) :])]
    if wrong:
        raise DataError(
            f"{len(wrong)} rows of {path} have another number of values than its header ({len(names)}, separated by "
            f"{separator!r}): rows {name_some(wrong)}; mend them, or quote values that contain {separator!r}"
        )
    # pandas writes its index as a first column without a name
    return {name: tuple(row[place].strip() for row in rows[1:]) for place, name in enumerate(names) if name}


def _parse_jsonl(text: str, path: str) -> dict[str, tuple[object, ...]]:
    rows = [json.loads(line) for line in text.split("\n") if line.strip()]  # strings may contain other line breaks
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"expected one JSON object a line in {path}, each with the same names")
    return {name: tuple(row.get(name) for row in rows) for name in dict.fromkeys(name for row in rows for name in row)}
