"""Opening of a dataset by its name, before any check or split."""

from dataclasses import replace
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, load_dataset, load_from_disk

from hf_tl.data.columns import IMAGE
from hf_tl.data.layout.archives import ZIP, is_tar, unpack
from hf_tl.data.layout.carry_out import carry_out, plan_folder, plan_table, require_table
from hf_tl.data.layout.listing import Listing
from hf_tl.data.layout.plan import Plan, Reading
from hf_tl.data.sources.files import escaped, expand, files_of, name_files, origins_of
from hf_tl.data.sources.hub import call, check_no_version, open_hub, require_repo_id
from hf_tl.data.sources.source import Source
from hf_tl.errors import DataError, name_some

DIGITS = "digits"
"""Name of the built-in dataset."""
PARQUET = ".parquet"


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
        ConfigError: A configuration or revision is named for what is not on the Hub.
        DataError: There is no such dataset, its layout is none of the above or has two readings, or the Hub cannot be
            reached.
    """
    if not is_local(name):
        require_repo_id(name)
        return open_hub(name, config_name, revision)
    check_no_version(f"{name!r}, which is here and not read from the Hub", config_name, revision)
    return _local(name, reading or Reading())


def is_local(name: str) -> bool:
    """Return whether a name is not a Hub id: the built-in dataset, an existing path, or files."""
    path = Path(name).expanduser()
    return name == DIGITS or path.is_dir() or path.is_file() or is_tar(name) or name.lower().endswith(PARQUET)


def _local(name: str, reading: Reading) -> Source:
    """Open what is not on the Hub."""
    if name == DIGITS:
        return _digits()
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder(path, reading)
    if is_tar(name):
        return _shards(expand(name), reading)
    if path.is_file() and path.suffix.lower() == ZIP:
        return replace(_folder(unpack(path), reading), name=path.stem)
    if name.lower().endswith(PARQUET):
        return _parquet(expand(name), reading)
    require_table(path)
    return _table(path, reading)


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
    if parquet := files_of(listing, root, PARQUET):
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


def _parquet(files: list[str], reading: Reading) -> Source:
    name, by_split = name_files(files, reading)
    if len(files) == 1 and not _holds_images(Path(files[0])):
        return _table(Path(files[0]), reading)
    loaded = call(f"the parquet files of {name}", lambda: load_dataset("parquet", data_files=escaped(by_split)))
    return Source(loaded, name, kind="files", layout="parquet files", origins=origins_of(by_split))


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
    return Source(loaded, name, kind="files", layout="WebDataset shards", origins=origins_of(by_split))
