"""Download of a published model, with its card, figures and record, into a folder."""

import os
import shutil
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError  # type: ignore[attr-defined]

from hf_tl.backbones.weights.repository import check_files
from hf_tl.errors import PublishError, name_some
from hf_tl.hub.hub_requests import explained, retried, timeout
from hf_tl.publish.checks import PUBLISHED, REQUIRED, check_folder, is_among
from hf_tl.storage.folders import atomic_folder
from hf_tl.storage.writing import library_writing, writing


def pull(
    repo_id: str, output_dir: str | os.PathLike[str], *, revision: str | None = None, token: str | None = None
) -> Path:
    """Download a model that hf_tl published, with its card, figures and record, into a new folder.

    The model passes the checks of a push before it is moved into the folder. An interrupted download is resumed.
    Digests of training images are not published, so they are not downloaded.

    Args:
        repo_id: Repository `USER/NAME`.
        output_dir: Folder that does not exist, or is empty.
        revision: Branch, tag or commit; `main` by default.
        token: As in `push`.

    Returns:
        The folder.

    Raises:
        PublishError: The model does not exist or is incomplete, or the folder is not empty.
        ModelError: The repository holds unexpected files, such as names that lead out of the folder.

    >>> import hf_tl
    >>> url = hf_tl.push("photos-model", "user/photos-model")
    >>> hf_tl.pull("user/photos-model", "downloaded").name
    'downloaded'
    """
    folder = Path(output_dir)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise PublishError(f"expected a new or empty folder, found files in {folder}; name another")
    return _fetch(HfApi(token=token, library_name="hf_tl"), repo_id, revision, folder)


def _fetch(api: HfApi, repo_id: str, revision: str | None, folder: Path) -> Path:
    with explained(f"pull {repo_id}"):
        head = retried(lambda: api.model_info(repo_id, revision=revision, files_metadata=True, timeout=timeout()))
        check_files({sibling.rfilename: sibling.size for sibling in head.siblings or ()}, repo_id)
        names = [name for s in head.siblings or () if is_among(name := s.rfilename, PUBLISHED)]
        if missing := sorted(set(REQUIRED) - set(names)):
            raise PublishError(
                f"{repo_id} was not published by hf_tl: it has no {name_some(missing)}; load it with hf_tl.load or "
                "transformers instead"
            )
        with library_writing():
            cached = [retried(partial(_download, api, repo_id, name, head.sha)) for name in names]
    with writing(folder, PublishError), atomic_folder(folder) as unfinished:
        for name, file in zip(names, cached, strict=True):
            shutil.copyfile(file, unfinished / name)
        _check(unfinished, repo_id)
    return folder


def _check(folder: Path, repo_id: str) -> None:
    try:
        check_folder(folder)
    except PublishError as error:
        raise PublishError(f"{str(error).replace(str(folder), repo_id)}; nothing was downloaded") from error


def _download(api: HfApi, repo_id: str, name: str, revision: str | None) -> Path:
    try:
        return Path(api.hf_hub_download(repo_id, name, revision=revision))
    except LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, HTTPError):  # the error that made the lookup fall back to the cache
            raise error.__cause__ from error
        raise
