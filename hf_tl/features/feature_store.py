"""Features of images on the disk: written once, found again by what they were computed from, read row by row.

An entry is a folder whose name is a hash of all that its numbers depend on, so that other weights, images or versions
are other entries. It is written beside and committed by a rename, with a manifest of hashes; one that is damaged is
removed and computed again.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
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
from hf_tl.storage.blocks import BlockFile, allocate
from hf_tl.storage.folders import PARTIAL, partial_of, put, remove

DESCRIPTION = "features.json"
LOCK = ".lock"
FORMAT = 1


def default_folder() -> Path:
    """Tell where features are kept: `$HF_TL_CACHE`, else `hf_tl/features` in the cache of Hugging Face."""
    from huggingface_hub.constants import HF_HOME

    return Path(os.environ.get("HF_TL_CACHE") or Path(HF_HOME, "hf_tl", "features")).expanduser()


@dataclass(frozen=True)
class Layout:
    """One tensor of the features of an image, as it is kept."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Of one image."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class FeatureRows:
    """The features of `images` images in files, one for each tensor.

    They are read where they lie: neither the number of images nor the size of the files costs memory of the process,
    and any number of processes may read or write different rows at once.
    """

    def __init__(self, folder: Path, layouts: Sequence[Layout], images: int, *, writable: bool = False) -> None:
        self.folder, self.layouts, self.images = folder, tuple(layouts), images
        self._files = [BlockFile(folder / f"{number}.bin", writable=writable) for number in range(len(layouts))]

    def read(self, rows: Sequence[int]) -> list[Tensor]:
        """Read the features of some images.

        Returns:
            For each tensor of the features (images, *shape).
        """
        return [self._read(file, layout, rows) for file, layout in zip(self._files, self.layouts, strict=True)]

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
            OSError: the disk is full or read-only.
        """
        for place, count in _runs(rows):
            self.write(rows[place], [tensor[place : place + count] for tensor in tensors])

    def write(self, first: int, tensors: Sequence[Tensor]) -> None:
        """Write the features of the images from `first` on.

        Raises:
            OSError: the disk is full or read-only.
        """
        for file, layout, tensor in zip(self._files, self.layouts, tensors, strict=True):
            file.write(_memory(tensor.to("cpu", layout.dtype).contiguous()), first * layout.bytes)

    def close(self) -> None:
        """Close the files; Windows renames no folder with open files."""
        for file in self._files:
            file.close()


class ChosenRows:
    """Some rows of features, as rows of their own: those of a split that shares a stream with another.

    Args:
        rows: of all images.
        chosen: which of them, (images,).
    """

    def __init__(self, rows: FeatureRows, chosen: np.ndarray) -> None:
        self.rows, self.chosen = rows, chosen

    def read(self, rows: Sequence[int]) -> list[Tensor]:
        """Read the features of some images, as `FeatureRows.read` does."""
        return self.rows.read(self.chosen[list(rows)].tolist())


def _memory(tensor: Tensor) -> memoryview:
    """See the bytes of a contiguous tensor of any type; numpy has no bfloat16."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def _runs(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Find runs of consecutive rows: the place where one begins, and its length.

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
    """What `hf-tl cache` tells of an entry."""

    key: str
    title: str
    bytes: int
    used: float
    """Seconds since 1970."""


class FeatureStore:
    """The folder that holds the entries.

    Args:
        folder: made when the first entry is written.
        limit: bytes that all entries together may take; the ones that were not used for longest go first.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def find(self, key: str) -> tuple[FeatureRows | None, str | None]:
        """Find a whole entry.

        Returns:
            The entry, if there is one, and what was wrong with one that was damaged and removed.
        """
        folder = self.folder / key
        if not folder.is_dir():
            return None, None
        if problem := find_damage(folder):
            remove(folder)
            return None, f"the cached features {key[:12]} are not whole ({problem}): they are computed again"
        with contextlib.suppress(OSError):  # a cache that cannot be written to can be read
            os.utime(folder)
        return self.open(key), None

    def open(self, key: str) -> FeatureRows:
        """Open an entry that `find` has found whole, here or in another process: its files are not hashed again.

        Raises:
            OSError: it is not there any more.
        """
        folder = self.folder / key
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        layouts = [Layout(tuple(shape), getattr(torch, dtype)) for shape, dtype in content["layouts"]]
        return FeatureRows(folder, layouts, content["images"])

    def descriptions(self) -> list[dict[str, Any]]:
        """Tell what each entry was made of, as it was given to `commit`; damaged ones are left out."""
        described = (_description(folder) for folder in self._folders())
        return [content["made of"] for content in described if content is not None]

    def lock(self, key: str) -> FileLock:
        """Give the lock under which an entry is written; it is released when its process ends, however it ends.

        Raises:
            OSError: the folder cannot be written to.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / f"{key}{LOCK}")

    def begin(self, key: str, layouts: Sequence[Layout], images: int) -> Path:
        """Make the folder that is written to, and room for it.

        Raises:
            OSError: the disk is full or read-only, or the entry is larger than the limit.
        """
        size = images * sum(layout.bytes for layout in layouts)
        self._make_room(size)
        partial = partial_of(self.folder / key)
        remove(partial)
        try:
            partial.mkdir(parents=True)
            for number, layout in enumerate(layouts):
                allocate(partial / f"{number}.bin", images * layout.bytes)
        except OSError:
            self.discard(key)
            raise
        return partial

    def commit(self, key: str, title: str, rows: FeatureRows, made_of: Mapping[str, Any]) -> None:
        """Turn what was written into an entry; every process that has its rows open must close them before.

        Raises:
            OSError: the disk is full or read-only.
        """
        layouts = [[list(layout.shape), str(layout.dtype).removeprefix("torch.")] for layout in rows.layouts]
        content = {"title": title, "images": rows.images, "layouts": layouts, "made of": dict(made_of)}
        (rows.folder / DESCRIPTION).write_text(json.dumps(content, indent=1), encoding="utf-8")
        write_manifest(rows.folder)
        rows.close()
        remove(self.folder / key)
        put(rows.folder, self.folder / key)

    def discard(self, key: str) -> None:
        """Remove what was written and not committed."""
        remove(partial_of(self.folder / key))

    def entries(self) -> list[Entry]:
        """List the entries, the last used first; also damaged ones, so that they can be removed."""
        found = [Entry(path.name, _title(path), _size(path), path.stat().st_mtime) for path in self._folders()]
        return sorted(found, key=lambda entry: -entry.used)

    def clear(self) -> int:
        """Remove all entries, and what killed processes left; give the number of bytes that were freed.

        What a process is computing now stays, and so does whatever else lies in the folder.
        """
        freed = 0
        for path in self._folders():
            freed += _size(path)
            shutil.rmtree(path)
        for path in self._paths():
            with self._idle(path) as is_idle:
                if is_idle and path.is_dir():
                    freed += _size(path)
                    shutil.rmtree(path)
                elif is_idle:
                    path.unlink(missing_ok=True)
        return freed

    def _folders(self) -> list[Path]:
        """List those of the entries."""
        return [path for path in self._paths() if path.is_dir() and not path.name.startswith(PARTIAL)]

    def _paths(self) -> list[Path]:
        """List what this class made: the folder may be one of a user, with other things in it."""
        everything = list(self.folder.iterdir()) if self.folder.is_dir() else []
        return [path for path in everything if _NAME.fullmatch(path.name)]

    @contextlib.contextmanager
    def _idle(self, path: Path) -> Iterator[bool]:
        """Hold the lock of an entry that nobody computes, or give False."""
        lock = self.lock(path.name.removeprefix(PARTIAL).removesuffix(LOCK))
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
            raise OSError(f"they take {size / 1e9:.1f} GB and --feature_cache_gb is {self.limit / 1e9:g}")
        self._remove_stale()
        entries = self.entries()
        while entries and sum(entry.bytes for entry in entries) + size > self.limit:
            remove(self.folder / entries.pop().key)

    def _remove_stale(self) -> None:
        """Remove what killed processes left: older than a day, and nobody holds its lock any more."""
        for path in self._paths():
            if path.name.startswith(PARTIAL) and time.time() - path.stat().st_mtime > 24 * 3600:
                with self._idle(path) as is_idle:
                    if is_idle:
                        remove(path)


def open_store(folder: str | Path | None, gigabytes: float) -> FeatureStore:
    """Open the store in a folder, by default in the cache of Hugging Face, that takes so many GB at most."""
    return FeatureStore(Path(folder) if folder else default_folder(), int(gigabytes * 1e9))


def key_of(made_of: Mapping[str, Any]) -> str:
    """Hash what features depend on."""
    return hashlib.sha256(json.dumps({"format": FORMAT, **made_of}, sort_keys=True).encode()).hexdigest()[:40]


_NAME = re.compile(f"({re.escape(PARTIAL)})?[0-9a-f]{{40}}({re.escape(LOCK)})?")
"""Of an entry, of one that is being written, or of its lock: see `key_of`."""


def _description(folder: Path) -> dict[str, Any] | None:
    """Read what an entry is; None where it is damaged."""
    try:
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_whole = isinstance(content, dict) and content.keys() >= {"title", "images", "layouts", "made of"}
    return content if is_whole else None


def _title(folder: Path) -> str:
    content = _description(folder)
    return "damaged" if content is None else str(content["title"])


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
