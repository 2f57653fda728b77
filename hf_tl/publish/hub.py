"""The push to the Hub: a saved model, its card, figures and record in one commit."""

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from safetensors import SafetensorError, safe_open

from hf_tl.errors import PublishError, name_some
from hf_tl.publish.card import with_repo_id

REQUIRED = ("config.json", "README.md", "run.json")
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
PUBLISHED = (*REQUIRED, *WEIGHTS, "preprocessor_config.json", "*.png")
"""What a push sends; checkpoints, logs and optimizer states stay where they are."""
REPLACED = (*WEIGHTS, "preprocessor_config.json")
"""What a push removes from the repository where the new model has no such file: it would be loaded with the new one."""
COMMIT_MESSAGE = "Upload the model with its card and its record"
ADVICE = {
    401: "the token was not accepted; log in with `hf auth login`, or set HF_TOKEN to a valid token",
    403: "the token may not do this; use one with write permission for the namespace",
    404: "the repository or its revision was not found; check both names",
    409: "the repository is being changed by another push; push again when that is done",
    412: "the repository was changed during the push, which was not applied; look at the change, then push again",
    413: "a file or the commit is too large for the repository",
    429: "too many requests; wait some minutes",
}


def push(
    output_dir: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Publish a saved model: weights, config, card, figures and record in one commit.

    The local folder is not changed. Pushing the same folder again makes no commit.

    Args:
        output_dir: a folder that hf_tl saved a model in.
        repo_id: `USER/NAME`; the repository is made where it does not exist.
        private: whether a new repository is private; an existing public one is refused if this is true.
        revision: the branch to commit to, made from `main` where it does not exist.
        token: a Hub token; the one of `hf auth login` or `HF_TOKEN` if it is None.

    Returns:
        The address of the commit.

    Raises:
        PublishError: the folder is not a complete saved model, or the Hub refused; the message says what to do.

    ```python
    url = hf_tl.push("out", "user/flowers")
    ```
    """
    folder = Path(output_dir)
    files = _published_files(folder)
    check_push_access(repo_id, token)
    api = HfApi(token=token, library_name="hf_tl")
    with _explained(repo_id, f"hf-tl push {shlex.quote(str(folder))} {repo_id}"):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        head = api.model_info(repo_id, revision=revision)
        if private and not head.private:
            raise PublishError(
                f"{repo_id} is public, but a private push was asked for; make it private or name another"
            )
        # The parent commit makes the Hub refuse a push that another one has overtaken: files are never mixed.
        commit = api.create_commit(
            repo_id,
            _operations(files, head, repo_id),
            commit_message=COMMIT_MESSAGE,
            revision=revision,
            parent_commit=head.sha,
        )
    return str(commit.commit_url)


def check_push_access(repo_id: str, token: str | None = None) -> None:
    """Check that a push to a repository would be allowed; call it before training.

    The Hub alone knows what a fine-grained token may do, so that is seen at the push.

    Raises:
        PublishError: the name is not valid, there is no valid token, or it may not write to the namespace.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"--push_to_hub needs a repository USER/NAME, found {repo_id!r}: {error}") from error
    namespace, _, name = repo_id.partition("/")
    if not name:
        raise PublishError(f"--push_to_hub needs a repository USER/NAME, found {repo_id!r} without a user")
    with _explained(repo_id):
        user = HfApi(token=token, library_name="hf_tl").whoami()
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise PublishError(
            "the Hub token is for reading only; make one with write permission at "
            "https://huggingface.co/settings/tokens and log in with `hf auth login`"
        )
    writable = _writable_namespaces(user)
    if namespace not in writable:
        raise PublishError(
            f"the Hub token may not write to {namespace!r}; it may write to {name_some(writable)}: "
            f"push to {user['name']}/{name}, or log in as a member of {namespace!r}"
        )


def _writable_namespaces(user: Mapping[str, Any]) -> list[str]:
    return [user["name"], *(org["name"] for org in user.get("orgs", []) if org.get("roleInOrg") != "read")]


def _published_files(folder: Path) -> list[Path]:
    """List what is published, once it is known to be complete.

    Raises:
        PublishError: a file is missing or damaged.
    """
    if not folder.is_dir():
        raise PublishError(f"{folder} is no folder; name the --output_dir of a finished training")
    names = {path.name for path in folder.iterdir() if path.is_file()}
    wanted = {*REQUIRED, *_weight_names(folder, names), *_figures_of_card(folder / "README.md")}
    if missing := sorted(wanted - names):
        raise PublishError(
            f"{folder} is not a complete saved model: {name_some(missing)} missing; "
            "name the --output_dir of a finished training, or train again"
        )
    for name in ("config.json", "run.json"):
        _read_json(folder / name)
    for name in sorted(name for name in wanted if name.endswith(".safetensors")):
        try:
            with safe_open(folder / name, framework="np"):
                pass
        except SafetensorError as error:
            raise PublishError(f"{folder / name} is damaged ({error}); train or save again") from error
    return [folder / name for name in sorted(names) if _matches(name, PUBLISHED)]


def _weight_names(folder: Path, names: set[str]) -> set[str]:
    """Name the files of the weights: one, or those of the index."""
    index = "model.safetensors.index.json"
    return set(_read_json(folder / index)["weight_map"].values()) if index in names else {"model.safetensors"}


def _figures_of_card(card: Path) -> set[str]:
    return (
        set(re.findall(r"!\[[^]]*\]\(([^)/]+\.png)\)", card.read_text(encoding="utf-8"))) if card.is_file() else set()
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PublishError(f"{path} is no valid JSON ({error}); train or save again") from error


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _operations(files: list[Path], head: ModelInfo, repo_id: str) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Add each file, the card with the repository's name in its snippets, and remove what another model left behind."""
    local = {path.name for path in files}
    remote = {sibling.rfilename for sibling in head.siblings or ()}
    stale = sorted(name for name in remote - local if _matches(name, REPLACED))
    return [
        *(
            CommitOperationAdd(
                path.name,
                with_repo_id(path.read_text(encoding="utf-8"), repo_id).encode() if path.name == "README.md" else path,
            )
            for path in files
        ),
        *(CommitOperationDelete(name) for name in stale),
    ]


@contextmanager
def _explained(repo_id: str, retry: str | None = None) -> Iterator[None]:
    """Turn what the Hub's client raises into a `PublishError` that says what to do.

    Args:
        repo_id: the repository of the push.
        retry: the command that pushes later, if something was saved that can be pushed.
    """
    try:
        yield
    except (LocalTokenNotFoundError, OfflineModeIsEnabled, HTTPError, ValueError) as error:
        later = f". The model is safe where it was saved; push it later with: {retry}" if retry else ""
        raise PublishError(f"cannot push to {repo_id}: {_what_to_do(error)}{later}") from error


def _what_to_do(error: Exception) -> str:
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no Hub token; log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, OfflineModeIsEnabled):
        return "the Hub's client is offline; unset HF_HUB_OFFLINE"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        advice = ADVICE.get(status, "the Hub has trouble; try again later" if status >= 500 else "see what it said")
        return f"{advice} (the Hub said {status}: {error.server_message or error.response.reason_phrase})"
    if isinstance(error, HTTPError):  # its text may quote the request's headers, and with them the token
        return f"the Hub could not be reached ({type(error).__name__}); check the network and HF_ENDPOINT"
    return f"the Hub refused the card: {error}; mend the metadata in README.md"  # the client's check of the card
