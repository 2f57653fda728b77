"""Datasets of the Hub, and errors of the libraries that load them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import DatasetBuilder, DatasetDict, load_dataset_builder
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from datasets.packaged_modules.cache.cache import Cache
from huggingface_hub import DatasetCard, constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from huggingface_hub.errors import HTTPError as HubHTTPError  # type: ignore[attr-defined]
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from hf_tl.data.sources.source import Source
from hf_tl.errors import ConfigError, DataError
from hf_tl.storage.writing import library_writing


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


def check_no_version(dataset: str, config_name: str | None, revision: str | None) -> None:
    """Check that no version is named for a dataset that has none: it would be ignored.

    Args:
        dataset: The dataset in words.
        config_name: Configuration of a Hub dataset.
        revision: Branch, tag or commit of a Hub dataset.

    Raises:
        ConfigError: One is.
    """
    named = {"--dataset_config": config_name, "--dataset_revision": revision}
    if flags := [flag for flag, value in named.items() if value is not None]:
        raise ConfigError(f"expected a Hub dataset with {' and '.join(flags)}, found {dataset}: leave it out")


def open_hub(name: str, config_name: str | None, revision: str | None) -> Source:
    """Download a dataset of the Hub, or find it in the cache.

    Raises:
        DataError: There is no such dataset, it cannot be read, or the Hub cannot be reached.
    """

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
    return ", ".join([licenses] if isinstance(licenses, str) else licenses or ()) or None


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
