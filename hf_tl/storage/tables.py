"""Tables that are kept between runs: verified when they are read, replaced as a whole, shared by processes.

A table is a file in the cache folder: a hash of its content, then the Arrow IPC format. It only saves work, so whatever
is damaged, of another version or cannot be written counts as absent.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout

from hf_tl.storage.cache import cache_folder
from hf_tl.storage.folders import PARTIAL, replaced_file

SUBFOLDER = "index"
TITLE = b"title"
MARK = b"hf_tl table 1\n"
HEADER = 64
"""Bytes before the Arrow format, which aligns its buffers."""
LIMIT = 2 * 10**9
"""Largest size of all tables together in bytes. The least recently used ones are removed first."""
WAIT = 60
"""Seconds to wait for another process that writes the table."""
_KEY = re.compile("[0-9a-f]{40}")
_NAME = re.compile(rf"({re.escape(PARTIAL)}(\d+-)?)?{_KEY.pattern}\.(arrow|lock)")
"""Name of a table, of an unfinished table (that of earlier versions has the number of a process), or of a lock."""


@dataclass(frozen=True)
class KeptTable:
    """Table in the cache folder.

    Args:
        title: Description in `hf-tl cache`.
        key: Text that identifies the table among all tables.
        schema: Columns. A table of another schema or with other metadata counts as absent.
    """

    title: str
    key: str
    schema: pa.Schema

    @property
    def file(self) -> Path:
        """Path of the table, whether or not it exists."""
        return cache_folder() / SUBFOLDER / f"{hashlib.sha256(self.key.encode()).hexdigest()[:40]}.arrow"

    def read(self) -> tuple[pa.Table, str | None]:
        """Read the table.

        Returns:
            The table, empty if there is none, and the damage of one that cannot be used.
        """
        empty, file = self._schema.empty_table(), self.file
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return empty, None
        except OSError as error:
            return empty, f"it cannot be read ({error.strerror or error})"
        body = memoryview(content)[HEADER:]
        if content[:HEADER] != _header(hashlib.sha256(body)):
            return empty, "its content does not match its hash"
        try:
            table = pa.ipc.open_stream(pa.py_buffer(body)).read_all()
        except pa.ArrowException as error:
            return empty, f"it is no Arrow file ({error})"
        with contextlib.suppress(OSError):  # a read-only cache can still be read
            os.utime(file)
        return (table if table.schema.equals(self._schema, check_metadata=True) else empty), None

    def update(self, change: Callable[[pa.Table], pa.Table]) -> None:
        """Replace the table by a function of what it holds at that moment; other processes wait.

        Raises:
            OSError: The disk is full or read-only, or another process holds the table.
        """
        file = self.file
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(file.with_suffix(".lock"), timeout=WAIT):
                table = change(self.read()[0]).cast(self._schema).combine_chunks()
                with replaced_file(file) as partial:
                    self._write(table, partial)
        except (Timeout, NotImplementedError) as error:
            raise OSError(f"{file} cannot be locked ({error})") from error
        _make_room(file)

    @property
    def _schema(self) -> pa.Schema:
        return self.schema.with_metadata({**(self.schema.metadata or {}), TITLE: self.title.encode()})

    def _write(self, table: pa.Table, file: Path) -> None:
        with open(file, "wb+") as stream:
            stream.write(bytes(HEADER))
            with pa.ipc.new_stream(pa.PythonFile(stream, "w"), self._schema) as writer:
                writer.write_table(table)
            stream.seek(HEADER)
            digest = hashlib.file_digest(stream, "sha256")
            stream.seek(0)
            stream.write(_header(digest))


def _header(digest: "hashlib._Hash") -> bytes:
    return (MARK + digest.digest()).ljust(HEADER, b"\0")


@dataclass(frozen=True)
class KeptFile:
    """Table of the cache, as `hf-tl cache` lists it."""

    title: str
    bytes: int
    used: float
    """Time of last use, in seconds since 1970."""


def list_tables(folder: Path) -> list[KeptFile]:
    """List the tables in a cache folder, including damaged ones."""
    listed = _states(file for file in _files(folder) if file.suffix == ".arrow")
    return [KeptFile(_title(file), state.st_size, state.st_mtime) for file, state in listed]


def clear_tables(folder: Path) -> int:
    """Remove all tables of a cache folder but what another process is writing; return the number of bytes freed."""
    freed = 0
    for file, state in sorted(_states(_files(folder)), key=lambda pair: pair[0].suffix):  # locks last
        with contextlib.suppress(Timeout), FileLock(file.with_name(f"{_KEY.findall(file.name)[-1]}.lock"), timeout=0):
            freed += state.st_size
            file.unlink(missing_ok=True)
    return freed


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files that this module created."""
    place = folder / SUBFOLDER
    return (file for file in (list(place.iterdir()) if place.is_dir() else []) if _NAME.fullmatch(file.name))


def _title(file: Path) -> str:
    try:
        with open(file, "rb") as stream:
            stream.seek(HEADER)
            schema = pa.ipc.open_stream(stream).schema
    except (OSError, pa.ArrowException):
        return "damaged"
    title = (schema.metadata or {}).get(TITLE, b"damaged").decode(errors="replace")
    return "".join(filter(str.isprintable, title))


def _make_room(latest: Path) -> None:
    """Remove the least recently used tables beyond the limit, but not the latest one."""
    tables = sorted(_states(latest.parent.glob("*.arrow")), key=lambda pair: pair[1].st_mtime)
    excess = sum(state.st_size for _, state in tables) - LIMIT
    for file, state in tables:
        if excess > 0 and file != latest:
            excess -= state.st_size
            with contextlib.suppress(OSError):  # another process removed it, or Windows keeps it
                file.unlink()


def _states(files: Iterable[Path]) -> list[tuple[Path, os.stat_result]]:
    """Return the files that exist, with their sizes and times; another process may remove them."""
    states = []
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            states.append((file, file.stat()))
    return states
