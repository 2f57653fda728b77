"""Opening of a folder, table or archive: read its names, make a plan, and build the splits that the plan describes.

Files stay where they are: nothing is copied or cached, so changed images are detected.
"""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features, Image, Value
from datasets.features.features import FeatureType

from hf_tl.data.columns import IMAGE
from hf_tl.data.layout.folders import plan_folders
from hf_tl.data.layout.listing import Listing, is_table
from hf_tl.data.layout.plan import FORMAT, Plan, PlannedSplit, Reading
from hf_tl.data.layout.table_files import Table, read_table
from hf_tl.data.layout.tables import find_file_column, has_labels, plan_tables
from hf_tl.errors import DataError, name_some

METADATA = "metadata"
LOOK_ALIKE = "submission"
"""Word of tables that look like labels and are not: the form of a competition's answers."""
DEPTH = 3
"""Deepest folder in which tables are looked for, counted from the root."""


def plan_folder(listing: Listing, root: Path, reading: Reading) -> Plan:
    """Read the names of the files below a folder, and its tables, into a plan.

    A table named metadata comes first, then class folders, then other tables.

    Raises:
        DataError: No reading or several are possible.
    """
    tables = [path for path in listing.tables() if path.count("/") < DEPTH and LOOK_ALIKE not in path.lower()]
    metadata = [path for path in tables if PurePosixPath(path).stem.lower() == METADATA]
    if metadata:
        read = [read_table(root, path) for path in metadata]
        labeled = [table for table in read if has_labels(table, reading, only_usual=True)]
        if labeled:
            return _with_unlabeled(plan_tables(listing, labeled, reading), read, labeled)
    problem: DataError | None = None
    try:
        plan = plan_folders(listing, reading, root.name)
    except DataError as error:
        plan, problem = None, error
    if plan is not None and (len(plan.classes) > 1 or not tables):
        unused = (f"tables beside class folders were not used: {name_some(tables)}",) if tables else ()
        return replace(plan, notes=(*plan.notes, *unused))
    read = [table for path in tables if (table := _readable(root, path, listing, reading))]
    labeled = [table for table in read if has_labels(table, reading)]
    if labeled:
        return _with_unlabeled(plan_tables(listing, labeled, reading), read, labeled)
    if plan is not None:
        return plan
    assert problem is not None
    raise problem


def _readable(root: Path, path: str, listing: Listing, reading: Reading) -> Table | None:
    """Return a table if one of its columns names images of the listing."""
    table = read_table(root, path)
    try:
        find_file_column(table, listing, reading.image_column)
    except DataError:
        return None
    return table


def _with_unlabeled(plan: Plan, tables: Iterable[Table], labeled: list[Table]) -> Plan:
    """Note the tables without labels, such as those of a hidden test split."""
    without = [table.path for table in tables if table not in labeled]
    note = (f"tables without a label column were left out: {name_some(without)}",) if without else ()
    return replace(plan, notes=(*plan.notes, *note))


def plan_table(path: Path, reading: Reading) -> tuple[Plan, Path]:
    """Read one table into a plan.

    Returns:
        The plan, and the folder that its paths are relative to.

    Raises:
        DataError: The table cannot be read, or names no images.
    """
    root = path.parent
    table = read_table(root, path.name)
    existing = [
        value
        for values in (tuple(table.columns), *table.columns.values())  # a header that is a row is found by its file too
        for value in values
        if isinstance(value, str) and value and "\0" not in value and (root / value.replace("\\", "/")).is_file()
    ]
    if existing:
        paths = {value: _relative(root, value.replace("\\", "/")) for value in existing}
        columns = {
            name: tuple(paths.get(v, v) if isinstance(v, str) else v for v in vs) for name, vs in table.columns.items()
        }
        return plan_tables(Listing.of(set(paths.values())), [Table(table.path, columns)], reading), root
    return plan_tables(Listing.read(root), [table], reading), root


def _relative(root: Path, value: str) -> str:
    path = Path(value)
    return path.relative_to(root).as_posix() if path.is_absolute() and path.is_relative_to(root) else value


def carry_out(plan: Plan, root: Path) -> DatasetDict:
    """Build the splits of a plan, which refer to the files in place."""
    _check_names([*plan.classes, *(image for split in plan.splits.values() for image in split.images)])
    return DatasetDict({name: _build(split, plan, root) for name, split in plan.splits.items()})


def _build(split: PlannedSplit, plan: Plan, root: Path) -> Dataset:
    paths = _below(root.resolve(), split.images)
    if plan.classes:
        index = {name: number for number, name in enumerate(plan.classes)}
        numbers = np.fromiter((index[str(name)] for name in split.columns["label"]), np.int64, len(paths))
        return _with_images(paths, {"label": pa.array(numbers)}, {"label": ClassLabel(names=list(plan.classes))})
    columns: dict[str, Any] = {}
    features: dict[str, Any] = {}
    for name, values in split.columns.items():
        if name == IMAGE:
            continue
        try:
            array = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            continue  # a column of mixed types is no column of labels
        columns[name] = list(values)
        features[name] = Value("string") if pa.types.is_null(array.type) else None
    known = {name: feature for name, feature in features.items() if feature is not None}
    rows = Dataset.from_dict(columns)
    rows = rows.cast(Features({name: known.get(name, feature) for name, feature in rows.features.items()}))
    return _with_images(paths, {name: rows.data.table[name] for name in columns}, rows.features)


def _with_images(
    paths: Sequence[str], columns: Mapping[str, pa.Array | pa.ChunkedArray], features: Mapping[str, FeatureType]
) -> Dataset:
    """Return a dataset of the images at some paths and of other columns, without a Python object for each image."""
    without_bytes = pa.nulls(len(paths), pa.binary())
    images = pa.StructArray.from_arrays([without_bytes, pa.array(paths, pa.string())], ["bytes", "path"])
    table = pa.table({IMAGE: images, **columns})
    info = DatasetInfo(features=Features({IMAGE: Image(), **features}))
    return Dataset(table, info=info, fingerprint=_fingerprint(table, info.features))


def _fingerprint(table: pa.Table, features: Features) -> str:
    """Return a hash of a table and its features, for which datasets would copy all of it twice."""
    digest = sha256(repr(features).encode())
    for column in table.columns:
        for buffer in column.combine_chunks().buffers():
            digest.update(buffer or b"")
    return digest.hexdigest()[:16]


def _below(base: Path, images: Iterable[str]) -> list[str]:
    """Return the paths of images below a folder."""
    folders: dict[str, str] = {}
    paths = []
    for image in images:
        parent, _, name = image.rpartition("/")
        if parent not in folders:
            folders[parent] = os.path.join(base / parent, "")
        paths.append(folders[parent] + name)
    return paths


def _check_names(names: Iterable[str]) -> None:
    """Reject file names that are not valid text, which neither a dataset nor a card can hold."""
    others = (name for name in names if not name.isascii())
    if escaped := [ascii(name) for name in others if any("\ud800" <= character <= "\udfff" for character in name)]:
        raise DataError(
            f"names of files that are not {sys.getfilesystemencoding().upper()} text: {name_some(escaped, 2)}; rename "
            "them, or, where the system's language setting is the reason, set PYTHONUTF8=1"
        )


def require_table(path: Path) -> None:
    """Check that a file is a table.

    Raises:
        DataError: It is another file.
    """
    if not is_table(path.name):
        raise DataError(
            f"{path.name} is no dataset: expected a folder, a table (.csv, .tsv, .jsonl, .parquet) or an archive; "
            f"{FORMAT}"
        )
