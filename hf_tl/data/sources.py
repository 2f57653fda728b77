"""Loading of the stored splits of a dataset by name, before any check or split."""

import glob
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from datasets.packaged_modules.cache.cache import Cache
from huggingface_hub import DatasetCard, constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from huggingface_hub.errors import HTTPError as HubHTTPError  # type: ignore[attr-defined]
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from hf_tl.data.columns import IMAGE
from hf_tl.data.layout.archives import ZIP, is_tar, unpack
from hf_tl.data.layout.carry_out import carry_out, plan_folder, plan_table, require_table
from hf_tl.data.layout.listing import Listing
from hf_tl.data.layout.names import is_plain, split_meanings, split_of
from hf_tl.data.layout.plan import Plan, Reading
from hf_tl.errors import DataError, name_some
from hf_tl.record.parts import DataSource
from hf_tl.storage.writing import library_writing

DIGITS = "digits"
"""Name of the built-in dataset."""


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
    origins: Mapping[str, str] = field(default_factory=dict)
    """Origin of each split, for example a folder."""
    layout: str = ""
    """Format in words: class folders, table, parquet files."""
    image_column: str | None = None
    """Image column, where the layout decides it."""
    label_column: str | None = None
    """Label column, where the layout decides it and the user does not."""
    root: Path | None = None
    """Folder that holds the files, if they are one by one in a folder."""

    def complete(self, reading: Reading) -> Reading:
        """Return the choices of the user with the columns that the layout decides."""
        return replace(
            reading,
            image_column=self.image_column or reading.image_column,
            label_column=reading.label_column or self.label_column,
        )


def open_source(
    name: str, reading: Reading | None = None, *, config_name: str | None = None, revision: str | None = None
) -> Source:
    """Open `digits`, a folder, a table, an archive, parquet files or a Hub dataset.

    Args:
        name: Value of `--dataset`: a path, several files with commas or patterns, or a Hub id.
        reading: Choices of the user about how to read it.
        config_name: Configuration of a Hub dataset.
        revision: Branch, tag or commit of a Hub dataset.

    Raises:
        DataError: There is no such dataset, its layout is none of the above or has two readings, or the Hub cannot be
            reached.
    """
    reading = reading or Reading()
    if name == DIGITS:
        return _digits()
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder(path, reading)
    if is_tar(name):
        return _shards(expand(name), reading)
    if path.is_file() and path.suffix.lower() == ZIP:
        return replace(_folder(unpack(path), reading), name=path.stem)
    if name.lower().endswith(".parquet"):
        return _parquet(expand(name), reading)
    if path.is_file():
        require_table(path)
        return _table(path, reading)
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
            f"no dataset {name!r}: expected an existing folder, a table, an archive, *.parquet files, a Hub id "
            "(user/name) or 'digits'; check --dataset"
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
    return Source(
        splits,
        DIGITS,
        license="cc-by-4.0",
        notes=(note,),
        kind="built-in",
        defaults=defaults,
        layout="scikit-learn's digits",
    )


def _folder(root: Path, reading: Reading) -> Source:
    name = root.resolve().name
    if (root / "dataset_dict.json").is_file() or (root / "dataset_info.json").is_file():
        saved = call(f"the dataset saved in {root}", lambda: load_from_disk(str(root)))
        splits = saved if isinstance(saved, DatasetDict) else DatasetDict(train=saved)
        return Source(splits, name, layout="dataset on disk")
    listing = Listing.read(root)
    if parquet := files_of(listing, root, ".parquet"):
        return replace(_parquet(parquet, reading), name=name, kind="folder")
    if shards := files_of(listing, root, ".tar"):
        return replace(_shards(shards, reading), name=name, kind="folder")
    if archives := files_of(listing, root, ZIP):
        raise DataError(
            f"{root.name} holds archives ({name_some(Path(file).name for file in archives)}) and no images; "
            f"give one: --dataset {archives[0]}"
        )
    return _planned(plan_folder(listing, root, reading), root, name)


def _table(path: Path, reading: Reading) -> Source:
    plan, root = plan_table(path, reading)
    return _planned(plan, root, path.stem)


def _planned(plan: Plan, root: Path, name: str) -> Source:
    return Source(
        carry_out(plan, root),
        name,
        notes=plan.notes,
        origins={split: planned.origin for split, planned in plan.splits.items()},
        layout=plan.layout,
        image_column=IMAGE,
        label_column=plan.label_column,
        root=root.resolve(),
    )


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


def _parquet(files: list[str], reading: Reading) -> Source:
    name, by_split = name_files(files, reading)
    if len(files) == 1 and not _holds_images(Path(files[0])):
        return _table(Path(files[0]), reading)
    loaded = call(f"the parquet files of {name}", lambda: load_dataset("parquet", data_files=escaped(by_split)))
    return Source(loaded, name, kind="files", layout="parquet files", origins=_origins(by_split))


def _holds_images(file: Path) -> bool:
    """Return whether a parquet file holds encoded images, rather than their paths."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = call(f"the parquet file {file.name}", lambda: pq.read_schema(file))
    fields = [
        inner for field in schema for inner in ([field, *field.type] if pa.types.is_struct(field.type) else [field])
    ]
    return any(pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type) for field in fields)


def _shards(files: list[str], reading: Reading) -> Source:
    """Load WebDataset shards: of each image the field `cls`, `txt` or `json` of the same key."""
    name, by_split = name_files(files, reading)
    loaded = call(f"the tar shards of {name}", lambda: load_dataset("webdataset", data_files=escaped(by_split)))
    return Source(loaded, name, kind="files", layout="WebDataset shards", origins=_origins(by_split))


def _origins(by_split: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {split: name_some(Path(file).name for file in files) for split, files in by_split.items()}


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


def _hub(name: str, config_name: str | None, revision: str | None) -> Source:
    def download() -> tuple[DatasetDict, str | None, str | None]:
        builder = load_dataset_builder(name, config_name, revision=revision)
        commit = commit_of(builder)
        if (
            revision is not None
            and isinstance(builder, Cache)
            and commit not in (revision, _cached_commit(name, revision))
        ):
            raise FileNotFoundError(
                f"the revision {revision!r} cannot be downloaded, and the cache has another one ({commit}); check "
                "--dataset_revision and the network"
            )
        builder.download_and_prepare()
        return builder.as_dataset(), commit, card_license(name, commit)

    splits, commit, license_name = call(f"the dataset {name!r} of the Hub", download)
    return Source(splits, name, commit, license_name, kind="hub", layout="Hub dataset")


def _cached_commit(name: str, revision: str) -> str | None:
    """Return the commit of a branch or tag when the Hub was last asked, if it was."""
    folder = repo_folder_name(repo_id=name, repo_type="dataset")
    file = Path(constants.HF_HUB_CACHE, folder, "refs", revision)
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


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
        with library_writing():
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
        advice = "; name one with --dataset_config" if "Config name is missing" in str(error) else ""
        raise DataError(f"{what} cannot be loaded: {_cause(error)}{advice}") from error


def _cause(error: BaseException) -> str:
    """Return the message of the innermost cause of an error, without code that datasets suggests to write."""
    while error.__cause__ is not None:
        error = error.__cause__
    return re.sub(r"\s*Example of usage:.*", "", " ".join(str(error).split())) or type(error).__name__
