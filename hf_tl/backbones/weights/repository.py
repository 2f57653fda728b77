"""Safety checks of a third-party checkpoint before anything of it is loaded.

transformers runs no code of a repository without permission, and reads pickled weights with `weights_only=True`. This
module covers the remaining risks: files that fill the memory, file names that point out of the folder, and configs that
request more than an architecture.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_tl.errors import ModelError, name_some
from hf_tl.storage.documents import MOST_BYTES, read_json

READ_WHOLE = (
    "config.json", "preprocessor_config.json", "processor_config.json", "adapter_config.json", "run.json", "README.md",
    "model.safetensors.index.json", "pytorch_model.bin.index.json",
)  # fmt: skip
"""Files that are read into memory as a whole, of at most `MOST_BYTES`."""
MODEL_ARGUMENTS_REFUSED = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
"""Arguments of `timm.create_model` with which a config could load other files."""
IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
"""Settings of transformers, also with a prefix or suffix, whose value may be a Hub repository of compiled kernels."""


def check_checkpoint(name: str, revision: str | None = None) -> None:
    """Check the names and sizes of a checkpoint's files, in a local directory or (if reachable) on the Hub.

    Raises:
        ModelError: A file is implausibly large for its name, or a name points out of the folder.
    """
    folder = Path(name)
    if folder.is_dir():
        check_files({path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}, name)
        _check_indices(folder)
        return
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=10)
    except (HTTPError, OfflineModeIsEnabled, HFValidationError):
        return  # a model that is not in the cache cannot be loaded either, and the loader says why
    check_files({sibling.rfilename: sibling.size for sibling in info.siblings or ()}, name)


def check_files(sizes: Mapping[str, int | None], name: str) -> None:
    """Check the names and the sizes in bytes of a checkpoint's files.

    Raises:
        ModelError: As in `check_checkpoint`.
    """
    if outside := [file for file in sizes if _leads_out(file)]:
        raise ModelError(f"expected files inside the folder of {name}, found {name_some(outside)}; do not load it")
    read = {file: sizes.get(file) or 0 for file in READ_WHOLE}
    if large := [f"{file} of {size / 1e6:,.0f} MB" for file, size in read.items() if size > MOST_BYTES]:
        raise ModelError(
            f"expected at most {MOST_BYTES / 1e6:.0f} MB for each metadata file of {name}, found {name_some(large)}; "
            "do not load it"
        )


def check_config(config: Mapping[str, Any], name: str) -> None:
    """Check that a config describes a network and nothing more.

    Raises:
        ModelError: The config grants itself permission to run code, requests kernels, or loads other files.
    """
    if any(key == "trust_remote_code" and value for key, value in _items(config)):
        raise ModelError(
            f"expected a config without trust_remote_code, found it set in {name}: only you may allow code; do not "
            "load it"
        )
    if kernels := [f"{key}={value!r:.100}" for key, value in _items(config) if _names_a_kernel(key, value)]:
        raise ModelError(
            f"expected a config without kernels of another repository, found {name_some(kernels)} in {name}: they are "
            "code; do not load it"
        )
    if config.get("model_type") != "timm_wrapper":
        return
    if ":" in str(config.get("architecture")):
        raise ModelError(
            f"expected an architecture of timm in the config of {name}, found the location {config['architecture']!r}; "
            "do not load it"
        )
    if refused := sorted(set(config.get("model_args") or ()) & set(MODEL_ARGUMENTS_REFUSED)):
        raise ModelError(
            f"expected model_args without files in the config of {name}, found {name_some(refused)}; do not load it"
        )


def check_needs_no_code(name: str, error: Exception) -> None:
    """Raise a helpful error if transformers refused to run the code of a repository.

    Raises:
        ModelError: `error` is that refusal.
    """
    if "trust_remote_code" in str(error):
        raise ModelError(
            f"{name!r} needs code from its repository, which would run on this machine: read the code, and pass "
            "--trust_remote_code if you trust it"
        ) from error


def _names_a_kernel(key: str, value: Any) -> bool:
    """Return whether a setting requests a kernel of the Hub: a text with a slash, or one for each part of the model."""
    return any(name in key for name in IMPLEMENTATIONS) and "/" in str(value)


def _leads_out(file: str) -> bool:
    return file.startswith(("/", "\\")) or ".." in file.replace("\\", "/").split("/") or file[1:2] == ":"


def _check_indices(folder: Path) -> None:
    """Check that the shards listed in an index lie in the folder itself."""
    for index in (folder / file for file in READ_WHOLE if file.endswith(".index.json")):
        if not index.is_file():
            continue
        try:
            shards = set(read_json(index)["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"expected an index of weights in {index}, found invalid content: {error}") from error
        if outside := sorted(shard for shard in shards if _leads_out(str(shard))):
            raise ModelError(
                f"expected weights inside the folder of {index}, found {name_some(outside)}; do not load it"
            )


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of nested mappings and lists."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key), inner
            yield from _items(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _items(inner)
