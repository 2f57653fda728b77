"""Loading of the stored splits of a dataset by name, before any check or split."""

import glob
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import (
    ClassLabel,
    Dataset,
    DatasetBuilder,
    DatasetDict,
    Features,
    Image,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub import DatasetCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from huggingface_hub.errors import HTTPError as HubHTTPError  # type: ignore[attr-defined]
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from hf_tl.data.images import is_image_file
from hf_tl.errors import DataError, name_some
from hf_tl.record.parts import DataSource

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "val": "validation", "valid": "validation", "dev": "validation", "eval": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
LAYOUT = "expected one folder of images per class (cat/1.jpg, dog/2.jpg), perhaps inside train/, validation/ and test/"
DIGITS = "digits"
"""Name of the built-in dataset."""
METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


@dataclass(frozen=True)
class Source:
    """Stored splits, and their metadata."""

    splits: DatasetDict
    name: str
    """Publishable name: a Hub id, "digits", or the folder's or file's own name, never a path."""
    revision: str | None = None
    license: str | None = None
    notes: tuple[str, ...] = ()
    kind: DataSource = "folder"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Recommended settings of a built-in dataset."""


def open_source(name: str, *, config_name: str | None = None, revision: str | None = None) -> Source:
    """Open `digits`, an image folder, parquet files (a file, a pattern, or several with commas) or a Hub dataset.

    Raises:
        DataError: There is no such dataset, its layout is none of the above, or the Hub cannot be reached.
    """
    if name == DIGITS:
        return _digits()
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder(path)
    if name.endswith(".parquet"):
        return _parquet(expand(name))
    require_repo_id(name)
    return _hub(name, config_name, revision)


def require_repo_id(name: str) -> None:
    """Check that a name that is no local path is a valid Hub id.

    Raises:
        DataError: The name is not valid.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise DataError(
            f"no dataset {name!r}: expected an existing folder, *.parquet files, a Hub id (user/name) or 'digits'; "
            "check --dataset"
        ) from error


def _digits() -> Source:
    """Load scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, with a fixed test split."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Stored as PGM, which is uncompressed: the same bytes, hence the same fingerprint, with every version of Pillow.
    pixels = (digits.images * (255 / 16)).round().astype("uint8")
    images = [{"bytes": b"P5 8 8 255\n" + image.tobytes(), "path": None} for image in pixels]
    features = Features({"image": Image(), "label": ClassLabel(names=[str(name) for name in digits.target_names])})
    rows = Dataset.from_dict({"image": images, "label": digits.target.tolist()}, features=features)
    splits = rows.train_test_split(test_size=0.2, stratify_by_column="label", seed=0)
    note = "test split of digits: 20%, stratified by class, the same in every run"
    # the images are 8 pixels wide, and a flipped digit is another digit or none
    defaults = {"image_size": 112, "horizontal_flip": False}
    return Source(splits, DIGITS, license="cc-by-4.0", notes=(note,), kind="built-in", defaults=defaults)


def _folder(root: Path) -> Source:
    name = root.resolve().name
    if (root / "dataset_dict.json").is_file() or (root / "dataset_info.json").is_file():
        saved = call(f"the dataset saved in {root}", lambda: load_from_disk(str(root)))
        return Source(saved if isinstance(saved, DatasetDict) else DatasetDict(train=saved), name)
    if parquet := parquet_of(root):
        return Source(_parquet(parquet).splits, name)
    folders = {folder.name: folder for folder in _visible_folders(root)}
    splits = {split: folder for split, folder in folders.items() if split.lower() in SPLIT_NAMES and _is_split(folder)}
    notes = []
    if any(SPLIT_NAMES[split.lower()] == "train" for split in splits):
        if others := sorted(folders.keys() - splits.keys()):
            notes.append(f"folders beside the splits were left out: {name_some(others)}")
    elif splits.keys() != folders.keys() or not splits:
        splits = {"train": root}
    if any((folder / file).is_file() for folder in (root, *splits.values()) for file in METADATA_FILES):
        # datasets reads the labels from the metadata files and matches their paths itself
        loaded = call(f"the folder {root}", lambda: load_dataset("imagefolder", data_dir=glob.escape(str(root))))
        return Source(loaded, name, notes=tuple(notes))
    left_out: Counter[str] = Counter()
    rows = {split: _class_folders(folder, left_out) for split, folder in splits.items()}
    if left_out:
        counts = name_some(f"{count} {suffix}" for suffix, count in left_out.most_common())
        notes.append(f"files that are not images were left out: {counts}")
    return Source(_read_class_folders(rows), name, notes=tuple(notes))


def parquet_of(root: Path) -> list[str]:
    """List the parquet files of a folder that contains no images."""
    files = _visible_files(root)
    parquet = sorted(str(file) for file in files if file.suffix == ".parquet")
    return [] if any(_is_image(file) for file in files) else parquet


def _is_split(folder: Path) -> bool:
    """Return whether a folder named like a split holds classes or metadata; a class "train" would hold images."""
    return bool(_visible_folders(folder)) or any((folder / file).is_file() for file in METADATA_FILES)


def _is_visible(path: Path) -> bool:
    return not path.name.startswith((".", "__"))


def _is_image(path: Path) -> bool:
    return is_image_file(path)


def _visible_folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and _is_visible(path))


def _visible_files(root: Path) -> list[Path]:
    files = sorted(path for path in root.iterdir() if path.is_file() and _is_visible(path))
    return files + [file for folder in _visible_folders(root) for file in _visible_files(folder)]


def _class_folders(root: Path, left_out: Counter[str]) -> dict[str, list[str]]:
    """Map each class folder to its images at any depth; count the other files."""
    if stray := [file.name for file in root.iterdir() if file.is_file() and _is_visible(file) and _is_image(file)]:
        raise DataError(f"images that are in no class folder of {root}: {name_some(sorted(stray))}; {LAYOUT}")
    classes: dict[str, list[str]] = {}
    for folder in _visible_folders(root):
        files = _visible_files(folder)
        classes[folder.name] = [str(file.resolve()) for file in files if _is_image(file)]
        left_out.update(file.suffix.lower() or file.name for file in files if not _is_image(file))
    if not any(classes.values()):
        raise DataError(f"no images in {root}: {LAYOUT}")
    return classes


def _read_class_folders(splits: Mapping[str, Mapping[str, list[str]]]) -> DatasetDict:
    """Build splits that refer to the files in place: nothing is copied or cached, so changed images are detected."""
    names = sorted({name for classes in splits.values() for name in classes})
    _check_names([*names, *(path for classes in splits.values() for paths in classes.values() for path in paths)])
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    datasets = DatasetDict()
    for split, classes in splits.items():
        rows = [(path, name) for name, paths in sorted(classes.items()) for path in paths]
        columns = {"image": [path for path, _ in rows], "label": [name for _, name in rows]}
        datasets[split] = Dataset.from_dict(columns, features=features)
    return datasets


def _check_names(names: Iterable[str]) -> None:
    """Reject file names that are not valid text, which neither a dataset nor a card can hold."""
    if escaped := [ascii(name) for name in names if any("\ud800" <= character <= "\udfff" for character in name)]:
        raise DataError(
            f"names of files that are not {sys.getfilesystemencoding().upper()} text: {name_some(escaped, 2)}; rename "
            "them, or, where the system's language setting is the reason, set PYTHONUTF8=1"
        )


def expand(patterns: str) -> list[str]:
    """Find the files that match comma-separated patterns.

    Raises:
        DataError: A pattern matches none.
    """
    files: list[str] = []
    for pattern in patterns.split(","):
        path = str(Path(pattern.strip()).expanduser())
        found = [path] if Path(path).is_file() else sorted(glob.glob(path, recursive=True))
        if not found:
            raise DataError(
                f"no parquet file {pattern.strip()!r}: expected an existing file or pattern; check --dataset"
            )
        files += found
    return files


def _parquet(files: list[str]) -> Source:
    name, by_split = name_parquet(files)
    return Source(
        call(f"the parquet files of {name}", lambda: load_dataset("parquet", data_files=by_split)), name, kind="files"
    )


def name_parquet(files: list[str]) -> tuple[str, dict[str, list[str]]]:
    """Sort parquet files by split; train-00000.parquet and test/1.parquet name their split.

    Returns:
        Name for the dataset, and the files of each split, as patterns.

    Raises:
        DataError: Some files name their split and some do not.
    """
    by_split: dict[str, list[str]] = {}
    unnamed = []
    for file in files:
        words = [re.split(r"[-_.]", Path(file).name)[0].lower(), Path(file).resolve().parent.name.lower()]
        split = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)
        unnamed += [Path(file).name] if split is None else []
        by_split.setdefault(split or "train", []).append(glob.escape(file))
    if unnamed and len(unnamed) < len(files):
        raise DataError(
            f"some parquet files name their split and some do not: {name_some(unnamed)}; "
            "expected names such as train-0.parquet and test-0.parquet; check --dataset"
        )
    name = Path(files[0]).stem if len(files) == 1 else Path(files[0]).resolve().parent.name
    return name, by_split


def _hub(name: str, config_name: str | None, revision: str | None) -> Source:
    def download() -> tuple[DatasetDict, str | None, str | None]:
        builder = load_dataset_builder(name, config_name, revision=revision)
        builder.download_and_prepare()
        commit = commit_of(builder)
        return builder.as_dataset(), commit, card_license(name, commit)

    splits, commit, license_name = call(f"the dataset {name!r} of the Hub", download)
    return Source(splits, name, commit, license_name, kind="hub")


def commit_of(builder: DatasetBuilder) -> str | None:
    """Return the commit of the Hub repository that a builder reads."""
    return builder.hash if re.fullmatch("[0-9a-f]{40}", builder.hash or "") else None


def card_license(name: str, revision: str | None) -> str | None:
    """Return the license in the card of a Hub dataset, if there is one."""
    try:
        path = hf_hub_download(name, "README.md", repo_type="dataset", revision=revision)
    except EntryNotFoundError:  # raised offline too, if the file is not in the cache
        return None
    licenses = DatasetCard.load(path).data.get("license")
    return ", ".join(_listed(licenses)) or None


def _listed(value: str | Iterable[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def call(what: str, load: Callable[[], Any]) -> Any:
    """Call `load`, and convert library exceptions to an error that says what could not be loaded and why."""
    try:
        return load()
    except DatasetNotFoundError as error:
        advice = "check --dataset; a private or gated dataset needs `hf auth login`"
        raise DataError(f"{what} does not exist, nor does a local folder of that name ({error}); {advice}") from error
    except (ConnectionError, HubHTTPError) as error:
        raise DataError(
            f"{what} cannot be downloaded, and no local folder has that name: the Hub cannot be reached ({error}); "
            "check the network, or give --dataset a local folder"
        ) from error
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{what} cannot be loaded: {error}") from error
