"""Content hashes of images and datasets, and iteration over stored images."""

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Image
from pyarrow.compute import struct_field
from tqdm import tqdm

from hf_tl.data.columns import IMAGE
from hf_tl.data.decoding.stored import stored_bytes

BATCH, SHARE = 256, 16
"""Number of images that are read at a time, and of those that a thread takes at a time."""


def row_name(stored: Mapping[str, Any] | None, row: int, split: str) -> str:
    """Name an image for messages: its path, or its row in the split."""
    return (stored or {}).get("path") or f"row {row} of {split}"


def digest_image(stored: Mapping[str, Any] | None, name: str) -> bytes:
    """Return the digest of an encoded image, which detects every change.

    An unreadable file counts as empty; `check_images` reports it.
    """
    try:
        data = stored_bytes(stored or {})
    except OSError:
        data = None
    return digest_of(data or b"")


def digest_of(data: bytes) -> bytes:
    """Hash the content of a file: its length and all of its bytes."""
    digest = sha256(b"%d:" % len(data))
    digest.update(data)
    return digest.digest()


def map_images(
    rows: Dataset, split: str, function: Any, progress: tqdm | None = None, *, only: np.ndarray | None = None
) -> Iterator[Any]:
    """Apply a function to each stored image and its name, in threads (file access and codecs release the GIL).

    Args:
        rows: Images.
        split: Name of the split, for images without a path.
        function: Function of a stored image and its name.
        progress: Progress bar over the images.
        only: Rows to apply it to; all by default.
    """
    numbers = list(range(len(rows)) if only is None else only.tolist())

    def map_share(named: Sequence[tuple[Any, str]]) -> list[Any]:
        return [function(image, name) for image, name in named]

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        row = 0
        for images in _batches(rows, only):
            batch_rows = numbers[row : row + len(images)]
            named = [(image, row_name(image, number, split)) for image, number in zip(images, batch_rows, strict=True)]
            shares = pool.map(map_share, [named[start : start + SHARE] for start in range(0, len(named), SHARE)])
            yield from itertools.chain.from_iterable(shares)
            row += len(images)
            if progress is not None:
                progress.update(len(images))


def _batches(rows: Dataset, only: np.ndarray | None) -> Iterator[list[Any]]:
    """Yield the stored images of some rows."""
    is_in_files = struct_field(rows.data.table[IMAGE], "bytes").null_count == len(rows.data.table)
    if is_in_files:
        paths = paths_of(rows)
        chosen = paths if only is None else [paths[row] for row in only.tolist()]
        for start in range(0, len(chosen), BATCH):
            yield [{"bytes": None, "path": path} for path in chosen[start : start + BATCH]]
        return
    stored = rows.cast_column(IMAGE, Image(decode=False)).select_columns([IMAGE])
    stored = stored if only is None or len(only) == len(rows) else stored.select(only, keep_in_memory=True)
    yield from (batch[IMAGE] for batch in stored.iter(BATCH))


def holds_bytes(rows: Dataset) -> bool:
    """Return whether a dataset holds the encoded images, rather than the paths of files, which may change."""
    return not struct_field(rows.data.table[IMAGE], "bytes").null_count


def paths_of(rows: Dataset) -> list[str | None]:
    """Return the stored path of each image, without its bytes."""
    paths = struct_field(rows.data.table[IMAGE], "path").cast(pa.large_string())
    return (paths if rows._indices is None else paths.take(rows._indices.column(0))).to_pylist()


def digest_in_order(digests: Iterable[bytes]) -> str:
    """Return a fingerprint of the images of a split in their order, independent of their labels."""
    return sha256(b"".join(digests)).hexdigest()


def fingerprint_of(digests: Sequence[bytes], labels: Sequence[Any], names: Sequence[str]) -> str:
    """Return a fingerprint of labeled images, independent of their order.

    Args:
        digests: Digests of the images.
        labels: Labels of the images: class indices (-1: none), or lists of zeros and ones.
        names: Class names.
    """
    entries = (digest + _label_text(label, names).encode() for digest, label in zip(digests, labels, strict=True))
    return sha256(b"".join(sha256(entry).digest() for entry in sorted(entries))).hexdigest()


def _label_text(label: int | list[int], names: Sequence[str]) -> str:
    """Return the class name of an image, or its class names in an order that does not depend on the dataset's."""
    if isinstance(label, list):
        return "\0".join(sorted(name for name, flag in zip(names, label, strict=True) if flag))
    return "" if label < 0 else names[label]
