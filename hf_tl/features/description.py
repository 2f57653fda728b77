"""Entry of the feature cache as a folder: what its files hold, what they were made of, and their state."""

import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from hf_tl.record.codec import decode
from hf_tl.storage.documents import read_json

DESCRIPTION_FILE = "features.json"


@dataclass(frozen=True)
class Layout:
    """Storage layout of one tensor of an image's features."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Bytes per image."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True)
class _Plain:
    """Description as plain values."""

    title: str
    images: int
    layouts: tuple[tuple[tuple[int, ...], str], ...]
    made_of: Mapping[str, Any]


@dataclass(frozen=True)
class Description:
    """Description of an entry."""

    title: str
    images: int
    layouts: tuple[Layout, ...]
    made_of: Mapping[str, Any]
    """Everything that the features depend on (see `key_of`)."""

    def write(self, folder: Path) -> None:
        """Write the description into the folder of its entry.

        Raises:
            OSError: The disk is full or read-only.
        """
        layouts = [[list(layout.shape), str(layout.dtype).removeprefix("torch.")] for layout in self.layouts]
        content = {"title": self.title, "images": self.images, "layouts": layouts, "made of": dict(self.made_of)}
        (folder / DESCRIPTION_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the description of an entry.

        Raises:
            OSError: There is no such entry, or it cannot be read.
            ValueError: The description is damaged, or the files of the features do not have the size that it states.
        """
        content = read_json(folder / DESCRIPTION_FILE)
        if isinstance(content, dict):
            content = {"made_of" if name == "made of" else name: value for name, value in content.items()}
        plain = decode(_Plain, content, DESCRIPTION_FILE)
        layouts = tuple(_layout(shape, dtype) for shape, dtype in plain.layouts)
        _check_sizes(folder, layouts, plain.images)
        return cls(plain.title, plain.images, layouts, plain.made_of)

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """Read the description of an entry; return None if it is damaged or gone."""
        try:
            return cls.read(folder)
        except (OSError, ValueError):
            return None


def title_of(folder: Path) -> str:
    """Return the title of an entry, without characters that control a terminal."""
    description = Description.of(folder)
    return "damaged" if description is None else "".join(filter(str.isprintable, description.title))


def _layout(shape: Sequence[int], dtype: str) -> Layout:
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or any(width < 0 for width in shape):
        raise ValueError(f"expected a shape and a type of tensors in {DESCRIPTION_FILE}, found {shape} {dtype!r:.80}")
    return Layout(tuple(shape), kind)


def _check_sizes(folder: Path, layouts: Sequence[Layout], images: int) -> None:
    for number, layout in enumerate(layouts):
        size, file = images * math.prod(layout.shape) * layout.dtype.itemsize, folder / f"{number}.bin"
        if images < 0 or file.stat().st_size != max(1, size):
            raise ValueError(f"{file.name} does not hold features of {images:,} images")


def size_of(folder: Path) -> int:
    """Return the number of bytes of a folder's files; another process may be removing them."""
    size = 0
    with contextlib.suppress(FileNotFoundError):
        for file in folder.iterdir():
            size += file.stat().st_size
    return size


def time_of(path: Path) -> float | None:
    """Return the time of the last use, in seconds since 1970; None if the path is gone."""
    state = _state(path)
    return None if state is None else state.st_mtime


def identity_of(folder: Path) -> tuple[int, int] | None:
    """Return what differs between an entry and one that replaces it; None if the entry is gone."""
    state = _state(folder)
    return None if state is None else (state.st_ino, state.st_ctime_ns)


def _state(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
