"""Feature cache on disk: written once, found by a hash of the inputs, read row by row.

An entry is a folder named by the hash of everything that its features depend on, so other weights, images or versions
are other entries. It is written into a temporary folder and committed by a rename, with a manifest of hashes. A damaged
entry is removed and computed again.
"""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from hf_tl.checkpoints.checkpoint import find_damage, write_manifest
from hf_tl.features.description import Description, Layout, identity_of, size_of, time_of, title_of
from hf_tl.storage.blocks import BlockFile, allocate
from hf_tl.storage.cache import cache_folder
from hf_tl.storage.folders import PARTIAL, partial_of, put, remove

LOCK_SUFFIX = ".lock"
FORMAT_VERSION = 1
REMOVED = ".removed-"
"""Prefix of the name of an entry that is being removed, before a number of its own."""
ATTEMPTS = 20
"""Number of readings of an entry that other processes keep replacing."""


class FeatureRows:
    """Features of `images` images, in one file per tensor.

    They are read from the files directly, so memory use depends neither on the number of images nor on the file size.
    Any number of processes may read or write different rows at once.
    """

    def __init__(self, folder: Path, layouts: Sequence[Layout], images: int, *, writable: bool = False) -> None:
        self.folder, self.layouts, self.images, self.is_writable = folder, tuple(layouts), images, writable
        self._files = [BlockFile(folder / f"{number}.bin", writable=writable) for number in range(len(layouts))]

    def read(self, rows: Sequence[int]) -> list[Tensor]:
        """Read the features of some images.

        Returns:
            For each tensor, the features (images, *shape).
        """
        return [self._read(file, layout, rows) for file, layout in zip(self._files, self.layouts, strict=True)]

    def empty(self, images: int) -> list[Tensor]:
        """Return memory for the features of some images."""
        return [torch.empty((images, *layout.shape), dtype=layout.dtype) for layout in self.layouts]

    def _read(self, file: BlockFile, layout: Layout, rows: Sequence[int]) -> Tensor:
        tensor = torch.empty((len(rows), *layout.shape), dtype=layout.dtype)
        memory = _memory(tensor)
        for place, count in _runs(rows):
            try:
                file.read_into(
                    memory[place * layout.bytes : (place + count) * layout.bytes], rows[place] * layout.bytes
                )
            except EOFError as error:
                last = rows[place] + count - 1
                raise OSError(f"the features in {self.folder} end before image {last}") from error
        return tensor

    def write_at(self, rows: Sequence[int], tensors: Sequence[Tensor]) -> None:
        """Write the features of some images.

        Raises:
            OSError: The disk is full or read-only.
        """
        for place, count in _runs(rows):
            self.write(rows[place], [tensor[place : place + count] for tensor in tensors])

    def write(self, first: int, tensors: Sequence[Tensor]) -> None:
        """Write the features of consecutive images, starting with `first`.

        Raises:
            OSError: The disk is full or read-only.
        """
        for file, layout, tensor in zip(self._files, self.layouts, tensors, strict=True):
            file.write(_memory(tensor.to("cpu", layout.dtype).contiguous()), first * layout.bytes)

    def close(self) -> None:
        """Close the files; Windows cannot rename a folder with open files."""
        for file in self._files:
            file.close()


class ChosenRows:
    """Selection of rows, for a split that shares a stream with other splits.

    Args:
        rows: Features of all images.
        chosen: Indices of the selected rows, (images,).
    """

    def __init__(self, rows: FeatureRows, chosen: np.ndarray) -> None:
        self.rows, self.chosen = rows, chosen

    def read(self, rows: Sequence[int]) -> list[Tensor]:
        """Read the features of some images; see `FeatureRows.read`."""
        return self.rows.read(self.chosen[list(rows)].tolist())


def _memory(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor of any type, without a copy; numpy has no bfloat16."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Find runs of consecutive rows: the index where each begins, and its length.

    >>> list(_runs([3, 4, 5, 1, 9, 10]))
    [(0, 3), (3, 1), (4, 2)]
    """
    start = 0
    for place in range(1, len(rows) + 1):
        if place == len(rows) or rows[place] != rows[place - 1] + 1:
            yield start, place - start
            start = place


@dataclass(frozen=True)
class Entry:
    """Entry of the cache, as `hf-tl cache` lists it."""

    key: str
    title: str
    bytes: int
    used: float
    """Time of last use, in seconds since 1970."""


class FeatureStore:
    """Folder of cache entries.

    Args:
        folder: Folder; it is created with the first entry.
        limit: Size limit of all entries together, in bytes. The least recently used ones are removed first.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def find(self, key: str) -> tuple[FeatureRows | None, str | None]:
        """Find a complete entry.

        Returns:
            The entry (None if there is none), and the damage of an entry that was removed.
        """
        folder = self.folder / key
        for _ in range(ATTEMPTS):
            if (before := identity_of(folder)) is None:
                return None, None
            try:
                problem = find_damage(folder)
                rows = None if problem else self.open(key)
            except (FileNotFoundError, ValueError) as error:
                rows, problem = None, str(error)
            if rows is not None:
                with contextlib.suppress(OSError):  # a read-only cache can still be read
                    os.utime(folder)
                return rows, None
            if identity_of(folder) == before:  # else another process removed or replaced the entry meanwhile
                self._remove(key)
                return (
                    None,
                    f"Computing features again: the cache entry {key[:12]} is incomplete or damaged ({problem})",
                )
        return None, None

    def _remove(self, key: str) -> None:
        """Remove an entry at once: other processes see all of its files or none. It may be gone already."""
        folder = self.folder / key
        aside = folder.with_name(f"{REMOVED}{os.getpid()}{time.monotonic_ns()}-{key}")
        try:
            os.rename(folder, aside)
        except FileNotFoundError:
            return
        except OSError:  # Windows does not rename a folder with open files
            aside = folder
        remove(aside)

    def open(self, key: str) -> FeatureRows:
        """Open an entry that `find` has verified, here or in another process, without hashing its files again.

        Raises:
            OSError: The entry no longer exists.
            ValueError: Its description is damaged.
        """
        description = Description.read(self.folder / key)
        return FeatureRows(self.folder / key, description.layouts, description.images)

    def descriptions(self) -> list[Mapping[str, Any]]:
        """Return what each entry was made of (see `commit`), without damaged entries."""
        described = (Description.of(folder) for folder in self._folders())
        return [description.made_of for description in described if description is not None]

    def lock(self, key: str) -> FileLock:
        """Return the lock for writing an entry; it is released when its process ends, even by a crash.

        Raises:
            OSError: The folder is not writable.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / f"{key}{LOCK_SUFFIX}")

    def begin(self, key: str, layouts: Sequence[Layout], images: int) -> Path:
        """Create the temporary folder of an entry, and free space for it.

        Raises:
            OSError: The disk is full or read-only, or the entry is larger than the limit.
        """
        size = images * sum(layout.bytes for layout in layouts)
        self._make_room(size)
        partial = partial_of(self.folder / key)
        remove(partial)
        try:
            partial.mkdir(parents=True)
            for number, layout in enumerate(layouts):
                allocate(partial / f"{number}.bin", images * layout.bytes)
        except BaseException:  # also a signal
            self.discard(key)
            raise
        return partial

    def commit(self, key: str, title: str, rows: FeatureRows, made_of: Mapping[str, Any]) -> None:
        """Commit a written entry. All processes must have closed its rows.

        Raises:
            OSError: The disk is full or read-only.
        """
        Description(title, rows.images, rows.layouts, made_of).write(rows.folder)
        write_manifest(rows.folder)
        rows.close()
        self._remove(key)
        put(rows.folder, self.folder / key)

    def discard(self, key: str) -> None:
        """Remove an uncommitted entry."""
        remove(partial_of(self.folder / key))

    def entries(self) -> list[Entry]:
        """List the entries, the most recently used first, including damaged ones so that they can be removed."""
        entries = [
            Entry(path.name, title_of(path), size_of(path), used)
            for path in self._folders()
            if (used := time_of(path)) is not None
        ]
        return sorted(entries, key=lambda entry: -entry.used)

    def clear(self) -> int:
        """Remove all entries and the remains of killed processes, and return the number of bytes freed.

        Entries that a process is computing and unrelated files in the folder are kept.
        """
        freed = 0
        for path in self._folders():
            freed += size_of(path)
            self._remove(path.name)
        for path in set(self._paths()).difference(self._folders()):
            with self._idle(path) as is_idle:
                if is_idle and path.is_dir():
                    freed += size_of(path)
                    remove(path)
                elif is_idle:
                    path.unlink(missing_ok=True)
        return freed

    def _folders(self) -> list[Path]:
        """List the folders of the entries."""
        return [path for path in self._paths() if path.is_dir() and _KEY.fullmatch(path.name)]

    def _paths(self) -> list[Path]:
        """List the paths that this class created; a user's folder may hold other files."""
        everything = list(self.folder.iterdir()) if self.folder.is_dir() else []
        return [path for path in everything if _CACHE_NAME.fullmatch(path.name)]

    @contextlib.contextmanager
    def _idle(self, path: Path) -> Iterator[bool]:
        """Hold the lock of an entry and yield True; yield False if another process is computing it."""
        lock = self.lock(_KEY.findall(path.name)[-1])
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _make_room(self, size: int) -> None:
        if size > self.limit:
            raise OSError(f"features of {size / 1e9:,.1f} GB exceed --feature_cache_gb {self.limit / 1e9:g}")
        self._remove_stale()
        entries = self.entries()
        while entries and sum(entry.bytes for entry in entries) + size > self.limit:
            self._remove(entries.pop().key)

    def _remove_stale(self) -> None:
        """Remove the remains of killed processes: older than a day, and not locked."""
        for path in self._paths():
            used = time_of(path)
            if path.name.startswith((PARTIAL, REMOVED)) and used is not None and time.time() - used > 24 * 3600:
                with self._idle(path) as is_idle:
                    if is_idle:
                        remove(path)


def open_store(folder: str | Path | None, gigabytes: float) -> FeatureStore:
    """Open the store in a folder (default: the cache of Hugging Face) with a size limit in GB."""
    return FeatureStore(Path(folder) if folder else cache_folder(), int(gigabytes * 1e9))


def key_of(made_of: Mapping[str, Any]) -> str:
    """Return the hash of everything that features depend on."""
    return hashlib.sha256(json.dumps({"format": FORMAT_VERSION, **made_of}, sort_keys=True).encode()).hexdigest()[:40]


_KEY = re.compile("[0-9a-f]{40}")
"""Name of an entry: see `key_of`."""
_CACHE_NAME = re.compile(
    f"({re.escape(PARTIAL)}|{re.escape(REMOVED)}[0-9]+-)?{_KEY.pattern}({re.escape(LOCK_SUFFIX)})?"
)
"""Name of an entry, of one that is being written or removed, or of a lock."""
