"""Digests of the files of a folder; files that have not changed since an earlier run are not read again.

A file is unchanged if path, size, time of change (in nanoseconds) and inode are. One that changed less than `SETTLED`
before it was read is read again by the next run, because another change might leave its time the same.
"""

import os
import time
from array import array
from collections.abc import Mapping
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hf_tl.data.fingerprint import paths_of, texts_of
from hf_tl.data.index.contents import digest_file
from hf_tl.data.index.tables import keep, read
from hf_tl.data.index.workers import PATHS, in_shares
from hf_tl.storage.tables import KeptTable

SCHEMA = pa.schema(
    {"path": pa.large_string(), "size": pa.int64(), "time": pa.int64(), "inode": pa.uint64(), "digest": pa.binary(32)}
)
SETTLED = 2 * 10**9
"""Nanoseconds after which the time of a further change differs on every file system (2 seconds on FAT)."""
STATE = ("size", "time", "inode")


def files_of(splits: Mapping[str, Dataset]) -> pa.Array:
    """Return the absolute path of each image of all splits, which are files."""
    return pa.concat_arrays([paths_of(rows).combine_chunks() for rows in splits.values()])


def digest_files(paths: pa.Array, root: Path) -> list[bytes]:
    """Return the digest of each file; an unreadable one counts as empty, and `check_images` reports it.

    Args:
        paths: Absolute paths.
        root: Folder of the dataset, whose index is used and updated.
    """
    table, now = _table(root), time.time_ns()
    states = _states(paths)
    known = _unchanged(paths, states, read(table, f"the images of {root.name}"))
    digests: list[bytes] = known.to_pylist()
    changed = np.flatnonzero(known.is_null())
    if not len(changed):
        return digests
    files = ((path,) for path in texts_of(paths.take(pa.array(changed))))
    new = in_shares(digest_file, files, len(changed), process_share=PATHS)
    is_sound = np.ones(len(paths), bool)
    for row, (digest, is_readable) in zip(changed.tolist(), chain.from_iterable(new), strict=True):
        digests[row], is_sound[row] = digest, is_readable
    is_sound &= (states["size"] >= 0) & (np.abs(now - states["time"]) > SETTLED)
    columns = {"path": paths, **{name: pa.array(states[name]) for name in STATE}}
    entries = pa.table({**columns, "digest": pa.array(digests, pa.binary(32))}).filter(pa.array(is_sound))
    keep(table, partial(_merged, entries, paths))
    return digests


def known_digests(paths: pa.Array, root: Path) -> pa.Array:
    """Return the digest that the index holds of each file; null for one that has changed since, or is not in it."""
    return _unchanged(paths, _states(paths), _table(root).read()[0])


def _merged(entries: pa.Table, paths: pa.Array, known: pa.Table) -> pa.Table:
    """Add files to the index, in place of what it holds of the files at some paths, and drop those that are gone."""
    others = known.filter(pc.invert(pc.is_in(known["path"], paths)))
    others = others.filter(pa.array([os.path.lexists(path) for path in others["path"].to_pylist()], pa.bool_()))
    return pa.concat_tables([entries.cast(SCHEMA), others.replace_schema_metadata()])


def _unchanged(paths: pa.Array, states: Mapping[str, np.ndarray], known: pa.Table) -> pa.Array:
    """Return the known digest of each file; null for one that is unknown or has changed."""
    if not len(known):
        return pa.nulls(len(paths), pa.binary(32))
    places = pc.index_in(paths, known["path"])
    rows = places.fill_null(0).to_numpy()
    is_same = places.is_valid().to_numpy(zero_copy_only=False)
    for name in STATE:
        is_same &= known[name].to_numpy()[rows] == states[name]
    return known["digest"].combine_chunks().take(pa.array(rows, mask=~is_same))


def _table(root: Path) -> KeptTable:
    return KeptTable(f"digests of the files of {root.name}", f"files {root}", SCHEMA)


def _states(paths: pa.Array) -> dict[str, np.ndarray]:
    """Return size, time of change and inode of each file; a size of -1 for one that is not there."""
    sizes, times, inodes = array("q"), array("q"), array("Q")
    for path in texts_of(paths):
        state = _state(path)
        sizes.append(-1 if state is None else state.st_size)
        times.append(0 if state is None else state.st_mtime_ns)
        inodes.append(0 if state is None else state.st_ino)
    return {"size": np.asarray(sizes), "time": np.asarray(times), "inode": np.asarray(inodes)}


def _state(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
