"""Digests of the images of a dataset, read from its index where the images have not changed."""

import itertools
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
from datasets import Dataset

from hf_tl.data.decoding.stored import digest_image
from hf_tl.data.fingerprint import holds_bytes, map_images
from hf_tl.data.index.files import digest_files, files_of
from hf_tl.data.index.tables import keep, read
from hf_tl.data.streaming.streams import PLACE
from hf_tl.storage.tables import KeptTable

SCHEMA = pa.schema({"digest": pa.binary(32)})
Digests = dict[str, tuple[bytes, ...]]


def identify(splits: Mapping[str, Dataset], root: Path | None) -> Digests:
    """Return the digests of the images of each split; for a stream, whose images are not read, hash positions.

    Args:
        splits: Stored splits.
        root: Folder that holds the images, if they are one by one in a folder.
    """
    if any(PLACE in rows.features for rows in splits.values()):
        places = {split: rows[PLACE][:] for split, rows in splits.items()}
        return {split: tuple(sha256(b"place %d" % place).digest() for place in places[split]) for split in splits}
    if root is None:
        return {split: _digest_rows(rows, split) for split, rows in splits.items()}
    digests = iter(digest_files(files_of(splits), root))
    return {split: tuple(itertools.islice(digests, len(rows))) for split, rows in splits.items()}


def _digest_rows(rows: Dataset, split: str) -> tuple[bytes, ...]:
    """Return the digests of stored images.

    For the same files, datasets gives the same selection of rows the same `_fingerprint`.
    """
    if not rows.cache_files or not holds_bytes(rows):
        return tuple(map_images(rows, split, digest_image, apart=not holds_bytes(rows)))
    states = [os.stat(file["filename"]) for file in rows.cache_files]
    files = [(state.st_size, state.st_mtime_ns, state.st_ino) for state in states]
    table = KeptTable(f"digests of {len(rows):,} images", f"rows {rows._fingerprint} of {files}", SCHEMA)
    known = read(table, f"the images of {split}")
    if len(known) != len(rows):
        digests = map_images(rows, split, digest_image)
        known = pa.table({"digest": pa.array(digests, pa.binary(32))})
        keep(table, lambda _: known)
    return tuple(known["digest"].to_pylist())
