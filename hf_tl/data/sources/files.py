"""Files that hold a dataset, and the split of each."""

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path

from hf_tl.data.layout.listing import Listing
from hf_tl.data.layout.names import is_plain, split_meanings, split_of
from hf_tl.data.layout.plan import Reading
from hf_tl.errors import DataError, name_some


def files_of(listing: Listing, root: Path, suffix: str) -> list[str]:
    """Return the files of a suffix in a folder that contains no images and no other tables."""
    return [str(root / file) for file in listing.only(suffix)]


def expand(patterns: str) -> list[str]:
    """Find the files that match comma-separated patterns.

    Raises:
        DataError: A pattern matches none.
    """
    files: list[str] = []
    for pattern in patterns.split(","):
        path = str(Path(pattern.strip()).expanduser())
        matching = [path] if Path(path).is_file() else sorted(glob.glob(path, recursive=True))
        if not matching:
            raise DataError(f"no file {pattern.strip()!r}: expected an existing file or pattern; check --dataset")
        files += matching
    return files


def escaped(by_split: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return file names as patterns that match nothing else."""
    return {split: [glob.escape(file) for file in files] for split, files in by_split.items()}


def name_files(files: list[str], reading: Reading | None = None) -> tuple[str, dict[str, list[str]]]:
    """Sort files by split: train-00000.parquet, cifar10_test.parquet and test/1.parquet name theirs.

    Returns:
        Name for the dataset, and the files of each split.

    Raises:
        DataError: Some files name their split and some do not.
    """
    named = {} if reading is None or not reading.split_folders else reading.split_folders
    chosen = {file: split for split, names in named.items() for file in names}
    stems = split_meanings({Path(file).stem for file in files}) if not chosen else {}
    by_split: dict[str, list[str]] = {}
    unnamed = []
    for file in files:
        folder = Path(file).resolve().parent.name
        if chosen:
            split = chosen.get(Path(file).name) or chosen.get(Path(file).stem) or chosen.get(folder)
        else:
            split = stems.get(Path(file).stem) or (split_of(folder) if is_plain(folder) else None)
        unnamed += [Path(file).name] if split is None else []
        by_split.setdefault(split or "train", []).append(file)
    if unnamed and len(unnamed) < len(files):
        raise DataError(
            f"some files name their split and some do not: {name_some(unnamed)}; expected names such as "
            "train-0.parquet and test-0.parquet; name the files of each split: --split_folders train=FILE,test=FILE"
        )
    name = Path(files[0]).stem if len(files) == 1 else Path(files[0]).resolve().parent.name
    return name, by_split


def origins_of(by_split: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the files of each split in words."""
    return {split: name_some(Path(file).name for file in files) for split, files in by_split.items()}
