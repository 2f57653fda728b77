"""Plan of tables that name images: which column holds files, labels and splits, and which file each row means."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from hf_tl.data.columns import LABEL_COLUMNS
from hf_tl.data.layout.index import split_above
from hf_tl.data.layout.listing import Listing
from hf_tl.data.layout.names import SPLITS, split_meanings
from hf_tl.data.layout.plan import Plan, PlannedSplit, Reading
from hf_tl.data.layout.table_files import Table
from hf_tl.errors import DataError, name_some

FILE_COLUMNS = (
    *("file_name", "filename", "file", "path", "file_path", "filepath", "image_path", "image", "image_name", "img"),
    *("image_id", "id", "name", "img_path", "image_file"),
)
SPLIT_COLUMNS = ("split", "subset", "partition", "set", "phase", "usage", "fold", "data_split", "dataset_split")
METADATA = "metadata"


def plan_tables(listing: Listing, tables: Sequence[Table], reading: Reading | None = None) -> Plan:
    """Read tables of files and labels, below the folder that holds the images.

    The split of a row is that of the split column, else of the table's name or folder, else of the image's folder.

    Raises:
        DataError: No column names the files, a split is ambiguous, or no image remains.

    >>> table = Table("labels.csv", {"id": ("1", "2"), "kind": ("cat", "dog")})
    >>> plan = plan_tables(Listing.of(["images/1.jpg", "images/2.jpg"]), [table])
    >>> plan.splits["train"].columns["kind"]
    ('cat', 'dog')
    """
    reading = reading or Reading()
    notes: list[str] = []
    folders = split_folders_of(listing, reading)
    table_splits = _splits_of_tables(tables, reading, folders)
    rows: list[_Row] = []
    for table in tables:
        rows += _read_rows(listing, table, table_splits.get(table.path), folders, reading, notes)
    names = list(dict.fromkeys(name for table in tables for name in table.columns))
    label_column = find_label(names, rows, reading)
    rows = _one_row_each(rows, label_column.split(",") if label_column else names, notes)
    named = {row.image for row in rows}
    if unnamed := [image for image in listing.images() if image not in named]:
        notes.append(f"{len(unnamed):,} images that no table names were left out: {name_some(unnamed)}")
    splits: defaultdict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        splits[row.split].append(row)
    planned = {}
    for split in sorted(splits, key=lambda split: SPLITS.index(split) if split in SPLITS else len(SPLITS)):
        of_split = splits[split]
        columns = {name: tuple(row.values.get(name) for row in of_split) for name in names}
        origin = " + ".join(dict.fromkeys(row.origin for row in of_split))
        planned[split] = PlannedSplit(tuple(row.image for row in of_split), columns, origin)
    if not planned:
        raise DataError(f"no image of {name_some(table.path for table in tables)} was found; check its file names")
    return Plan("table", planned, tuple(notes), label_column=label_column)


class _Row:
    def __init__(self, image: str, values: Mapping[str, object], split: str, origin: str) -> None:
        self.image, self.values, self.split, self.origin = image, values, split, origin


def find_file_column(
    table: Table, listing: Listing, image_column: str | None = None
) -> tuple[str, Sequence[str | None]]:
    """Return the column that names the images, and the image of each row (None: there is no such file).

    Raises:
        DataError: No column names images, or a name fits several files.
    """
    if image_column is not None:
        if image_column not in table.columns:
            raise DataError(
                f"no column {image_column!r} in {table.path}: {name_some(table.columns, 20)}; check --image_column"
            )
        candidates = [image_column]
    else:
        texts = [name for name, values in table.columns.items() if any(isinstance(v, str | int) for v in values)]
        candidates = sorted(
            texts,
            key=lambda name: FILE_COLUMNS.index(name.lower()) if name.lower() in FILE_COLUMNS else len(FILE_COLUMNS),
        )
    index = listing.index
    if rows := [name for name in table.columns if index.has(name)]:
        raise DataError(
            f"{table.path} has no header line: its first line names an image ({rows[0]}); add a line with the names of "
            "the columns, such as file_name and label"
        )
    for name in candidates:
        if any(images := index.find(table, name)):
            return name, images
    values = [value for name in candidates[:1] for value in table.columns[name][:2]]
    raise DataError(
        f"no column of {table.path} ({name_some(table.columns, 20)}) names images below its folder"
        f"{f' (for example {name_some(values)})' if values else ''}; put the table into the folder of the images, or "
        "name the column with --image_column"
    )


def _read_rows(
    listing: Listing, table: Table, split: str | None, folders: Mapping[str, str], reading: Reading, notes: list[str]
) -> list[_Row]:
    file_column, images = find_file_column(table, listing, reading.image_column)
    missing = [str(value) for value, image in zip(table.columns[file_column], images, strict=True) if image is None]
    if missing:
        notes.append(
            f"{len(missing):,} rows of {table.path} were left out, whose files are missing: {name_some(missing)}"
        )
    split_column = find_split_column(table.columns, reading)
    meanings = meanings_of(table.columns[split_column], split_column, reading) if split_column else {}
    rows = []
    for place, image in enumerate(images):
        if image is None:
            continue
        values = {name: column[place] for name, column in table.columns.items() if name != file_column}
        if split_column:
            value = str(table.columns[split_column][place])
            rows.append(_Row(image, values, meanings[value], f"column {split_column} of {table.path}"))
        elif split:
            rows.append(_Row(image, values, split, table.path))
        else:
            folder = split_above(image, folders)
            origin = f"{table.path}, folder {folder[1]}" if folder else table.path
            rows.append(_Row(image, values, folder[0] if folder else "", origin))
    without = [row.image for row in rows if not row.split]
    if without and len(without) < len(rows):
        raise DataError(
            f"some images of {table.path} are in folders named like splits and {len(without)} are not "
            f"({name_some(without)}); add a column split to the table, or name the folders with --split_folders"
        )
    for row in rows:
        row.split = row.split or "train"
    return rows


def find_split_column(columns: Mapping[str, Sequence[object]], reading: Reading) -> str | None:
    """Return the column whose values are splits: the given name, else a usual name of which each value is a split.

    Raises:
        DataError: There is no column of the given name.
    """
    if reading.split_column is not None:
        if reading.split_column not in columns:
            raise DataError(f"no column {reading.split_column!r}: {name_some(columns, 20)}; check --split_column")
        return reading.split_column
    if reading.split_folders == {}:
        return None
    for name, values in columns.items():
        if name.lower() in SPLIT_COLUMNS and values and _are_splits(values):
            return name
    return None


def _are_splits(values: Sequence[object]) -> bool:
    texts = {str(value) for value in values}
    return split_meanings(texts).keys() == texts


def meanings_of(values: Sequence[object], column: str, reading: Reading) -> dict[str, str]:
    """Return the split of each value of a split column.

    Raises:
        DataError: A value is no split, or two values mean the same.
    """
    texts = sorted({str(value) for value in values})
    if reading.split_folders:
        meanings = {name: split for split, names in reading.split_folders.items() for name in names}
    else:
        meanings = split_meanings(texts)
        if twice := [split for split, count in Counter(meanings.values()).items() if count > 1]:
            same = [text for text in meanings if meanings[text] == twice[0]]
            raise DataError(
                f"several values of the column {column!r} mean {twice[0]}: {name_some(same)}; name the values of each "
                f"split: --split_folders train=VALUE,validation=VALUE,test=VALUE"
            )
    if unknown := [text for text in texts if text not in meanings]:
        raise DataError(
            f"values of the column {column!r} that are no split: {name_some(unknown)}; name the values of each split: "
            "--split_folders train=VALUE,validation=VALUE,test=VALUE"
        )
    return meanings


def split_folders_of(listing: Listing, reading: Reading) -> dict[str, str]:
    """Return the folders of a listing that stand for a split: those of the user, else by their names."""
    if reading.split_folders is not None:
        return {name.strip("/"): split for split, names in reading.split_folders.items() for name in names}
    return dict(listing.index.folders)


def _splits_of_tables(tables: Sequence[Table], reading: Reading, folders: Mapping[str, str]) -> dict[str, str]:
    """Return the split that the name or folder of each table means.

    Raises:
        DataError: Only some of several tables mean a split, or two mean the same.
    """
    if reading.split_folders:
        named = {name: split for split, names in reading.split_folders.items() for name in names}
        return {table.path: named[key] for table in tables for key in (table.path, table.folder) if key in named}
    stems = split_meanings([PurePosixPath(table.name).stem for table in tables])
    splits = {}
    for table in tables:
        split = stems.get(PurePosixPath(table.name).stem) or (split_above(table.path, folders) or (None,))[0]
        if split:
            splits[table.path] = split
    if len(tables) > 1:
        unclear = [table.path for table in tables if table.path not in splits]
        if unclear:
            raise DataError(
                f"{len(tables)} tables name images ({name_some(table.path for table in tables)}), and of "
                f"{name_some(unclear)} the name means no split; give the table itself: --dataset FOLDER/{unclear[0]}"
            )
        if twice := [split for split, count in Counter(splits.values()).items() if count > 1]:
            same = [path for path, split in splits.items() if split == twice[0]]
            raise DataError(f"several tables mean {twice[0]}: {name_some(same)}; give one table: --dataset {same[0]}")
    return splits


def _one_row_each(rows: Sequence[_Row], labels: Sequence[str], notes: list[str]) -> list[_Row]:
    """Keep one row for each image; images whose labels differ between rows are left out.

    Raises:
        DataError: An image is in two splits.
    """
    by_image: defaultdict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        by_image[row.image].append(row)
    if mixed := [image for image, same in by_image.items() if len({row.split for row in same}) > 1]:
        raise DataError(f"{len(mixed)} images are in two splits: {name_some(mixed)}; keep one row of each")
    repeated = {image: same for image, same in by_image.items() if len(same) > 1}
    differing = {
        image
        for image, same in repeated.items()
        if len({str([row.values.get(name) for name in labels]) for row in same}) > 1
    }
    if len(repeated) > len(differing):
        notes.append(f"{len(repeated) - len(differing)} images with several rows of the same label were read once")
    if differing:
        notes.append(
            f"{len(differing)} images with several rows of different labels were left out: "
            f"{name_some(sorted(differing))} (for several labels of one image, write them in one row and "
            "give --label_separator)"
        )
    return [same[0] for image, same in by_image.items() if image not in differing]


def find_label(names: Sequence[str], rows: Sequence[_Row], reading: Reading) -> str | None:
    """Return the label column: the given name, else one with a usual name, else the only column besides the files.

    Several columns with usual names are left to the caller, which raises.
    """
    if reading.label_column is not None:
        return reading.label_column
    usual = [name for name in names if name.lower() in LABEL_COLUMNS and name != reading.group_column]
    named = (reading.split_column, reading.group_column)
    others = sorted({name for row in rows for name in row.values if name not in named})
    return usual[0] if len(usual) == 1 else others[0] if not usual and len(others) == 1 else None


def has_labels(table: Table, reading: Reading, *, only_usual: bool = False) -> bool:
    """Return whether a table has the named label column, one with a usual name, or one column besides the files."""
    if reading.label_column is not None:
        return all(name.strip() in table.columns for name in reading.label_column.split(","))
    columns = [name for name in table.columns if name != reading.group_column]
    return any(name.lower() in LABEL_COLUMNS for name in columns) or (not only_usual and len(columns) == 2)
