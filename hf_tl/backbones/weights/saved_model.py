"""Weights of a saved model as they lie in its folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from safetensors import SafetensorError, safe_open
from torch import Tensor

from hf_tl.backbones.weights.digest import digest
from hf_tl.errors import PublishError
from hf_tl.storage import documents

HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEX_FILE = "model.safetensors.index.json"


def weights_digest(folder: Path, names: Iterable[str] = ("model.safetensors",)) -> str:
    """Compute the SHA-256 of all saved tensors: their names, types, shapes and bytes.

    Raises:
        PublishError: A file is damaged.
    """
    tensors: dict[str, Tensor] = {}
    for name in names:
        try:
            with safe_open(folder / name, framework="pt") as file:
                tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a mapping
        except SafetensorError as error:
            raise PublishError(f"{folder / name} is damaged ({error}); train or save again") from error
    return digest(tensors)


def weight_files(folder: Path) -> set[str]:
    """Return the names of the weights files of a folder: one file, or those of the index."""
    return weight_names(folder, {path.name for path in folder.iterdir()})


def weight_names(folder: Path, names: set[str]) -> set[str]:
    """Return the names of the weights files among `names`, the files of a folder."""
    if INDEX_FILE not in names:
        return {"model.safetensors"}
    shards = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise PublishError(f"{folder / INDEX_FILE} has no weight_map of names of files; train or save again")
    return set(shards.values())


def damaged_download(repository: str, file_name: str | None = None) -> Path | None:
    """Return the weights file of a Hub repository in the local cache that is damaged, such as one that is cut off.

    Args:
        repository: Hub id.
        file_name: Name of the weights file (default: the usual names).
    """
    from huggingface_hub import try_to_load_from_cache

    for name in [file_name] if file_name else HUB_WEIGHTS:
        file = try_to_load_from_cache(repository, name)
        if isinstance(file, str) and not _is_readable(Path(file)):
            return Path(file).resolve()  # deleting a link to it would not download it again
    return None


def _is_readable(file: Path) -> bool:
    """Return whether a weights file is complete: safetensors, or PyTorch's zip archive."""
    if file.suffix != ".safetensors":
        return is_zipfile(file)
    try:
        with safe_open(file, framework="pt"):
            return True
    except SafetensorError:
        return False


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that maps names to values.

    Raises:
        PublishError: It is damaged.
    """
    try:
        content = documents.read_json(path)
    except ValueError as error:
        raise PublishError(f"{path} is not valid JSON ({error}); train or save again") from error
    if not isinstance(content, dict):
        raise PublishError(f"{path} must map names to values, found {type(content).__name__}; train or save again")
    return content
