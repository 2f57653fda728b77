"""Content hashes of images and datasets, and iteration over stored images."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Image
from pyarrow.compute import struct_field
from tqdm import tqdm

from hf_tl.data.columns import IMAGE
from hf_tl.data.index.workers import PATHS, SHARE, in_shares

BATCH = 256
"""Number of stored images that are read at a time."""
CHUNK = 10_000
"""Number of values of a column that are Python objects at a time."""


def row_name(stored: Mapping[str, Any] | None, row: int, split: str) -> str:
    """Name an image for messages: its path, or its row in the split."""
    return (stored or {}).get("path") or f"row {row} of {split}"


def map_images(
    rows: Dataset,
    split: str,
    function: Any,
    progress: tqdm | None = None,
    *,
    only: np.ndarray | None = None,
    apart: bool = False,
) -> Iterator[Any]:
    """Apply a function to each stored image and its name, in threads or processes (`hf_tl.data.index.workers`).

    Args:
        rows: Images.
        split: Name of the split, for images without a path.
        function: Function of a stored image and its name.
        progress: Progress bar over the images.
        only: Rows to apply it to; all by default.
        apart: Whether processes may call the function; see `process_share` of `in_shares`.
    """
    numbers = list(range(len(rows)) if only is None else only.tolist())
    if not numbers:
        return
    share = (PATHS if _is_in_files(rows) else SHARE) if apart else 0
    images = _stored_images(rows, only)
    named = ((image, row_name(image, row, split)) for image, row in zip(images, numbers, strict=True))
    for results in in_shares(function, named, len(numbers), process_share=share):
        yield from results
        if progress is not None:
            progress.update(len(results))


def _stored_images(rows: Dataset, only: np.ndarray | None) -> Iterator[Any]:
    """Yield the stored images of some rows."""
    if _is_in_files(rows):
        paths = paths_of(rows) if only is None else paths_of(rows).take(pa.array(only))
        yield from ({"bytes": None, "path": path} for path in texts_of(paths))
        return
    stored = rows.cast_column(IMAGE, Image(decode=False)).select_columns([IMAGE])
    stored = stored if only is None or len(only) == len(rows) else stored.select(only, keep_in_memory=True)
    for batch in stored.iter(BATCH):
        yield from batch[IMAGE]


def _is_in_files(rows: Dataset) -> bool:
    return struct_field(rows.data.table[IMAGE], "bytes").null_count == len(rows.data.table)


def holds_bytes(rows: Dataset) -> bool:
    """Return whether a dataset holds the encoded images, rather than the paths of files, which may change."""
    return not struct_field(rows.data.table[IMAGE], "bytes").null_count


def paths_of(rows: Dataset) -> pa.ChunkedArray:
    """Return the stored path of each image, without its bytes."""
    paths = struct_field(rows.data.table[IMAGE], "path").cast(pa.large_string())
    return paths if rows._indices is None else paths.take(rows._indices.column(0))


def texts_of(column: pa.ChunkedArray) -> Iterator[Any]:
    """Yield the values of a column, of which a few are Python objects at a time: a million paths take 100 MB."""
    for start in range(0, len(column), CHUNK):
        yield from column[start : start + CHUNK].to_pylist()


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
