"""Push to the Hub: a saved model, its card, figures and record in one commit."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, Discussion, HfApi, ModelCard, RepoCard, constants, get_session
from huggingface_hub.errors import BadRequestError, HFValidationError  # type: ignore[attr-defined]
from huggingface_hub.utils import hf_raise_for_status, validate_repo_id  # type: ignore[attr-defined]

from hf_tl.abstention.detector import FILE as ABSTENTION_FILE
from hf_tl.card.card import render_adapter_card, with_repo_id
from hf_tl.errors import PublishError, name_some
from hf_tl.hub.hub_commit import Branch
from hf_tl.hub.hub_requests import explained, messages_of, retried
from hf_tl.lora.adapter import FILES as ADAPTER_FILES
from hf_tl.publish.checks import CARD_FILE, WEIGHTS, check_folder, is_among
from hf_tl.record import RECORD_FILE, read_record
from hf_tl.renamed import renamed

REPLACED = (*WEIGHTS, "preprocessor_config.json", ABSTENTION_FILE, *(Path(name).name for name in ADAPTER_FILES))
"""Files that a push removes from the repository unless the new model has them: they would be loaded with the new
model."""
COMMIT_MESSAGE = "Upload the model with its card and its record"


@renamed(output_dir="model")
def push(
    model: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    adapter_only: bool = False,
    token: str | None = None,
) -> str:
    """Publish a saved model: weights, config, card, figures and record in one commit.

    The folder is checked before anything is sent, and is not changed. A second push of the same folder makes no commit,
    and resumes an interrupted upload. Requests with a transient error are retried, up to 5 attempts in total. A request
    without an answer within 20 s (`HF_TL_HUB_TIMEOUT`) counts as failed.

    Args:
        model: Folder of a model that hf_tl saved, or the `RunResult`.
        repo_id: Repository `USER/NAME`; it is created if it does not exist.
        private: Whether a new repository is private. If true, a push to an existing public repository is refused.
        revision: Branch to commit to; it is created from `main` if it does not exist.
        create_pr: Whether to propose the commit in a pull request, to any existing repository. Your own open pull
            request of an earlier push is updated.
        adapter_only: Whether to publish the adapter of a training with LoRA alone, in the format of peft, with its own
            card: a few megabytes, which need the starting model.
        token: Hub token; that of `hf auth login` or `HF_TOKEN` by default.

    Returns:
        URL of the commit or of the pull request.

    Raises:
        PublishError: The folder is not a complete saved model, or the Hub refused the push; the message says what to
            do.

    >>> url = push("photos-model", "user/photos-model")
    >>> "user/photos-model/commit/" in url
    True
    """
    folder = Path(model)
    if create_pr and (private or revision):
        raise PublishError(
            "a pull request is made to main, and cannot make a repository private: leave out revision and private"
        )
    files = _files(folder, adapter_only=adapter_only)
    command = ["hf-tl", "push", str(folder), repo_id, *(["--private"] if private else [])]
    command += [*(["--revision", revision] if revision else []), *(["--create_pr"] if create_pr else [])]
    command += ["--adapter_only"] if adapter_only else []
    try:
        check_push_access(repo_id, token, create_pr=create_pr)
        with explained(f"push to {repo_id}"):
            return _push(HfApi(token=token, library_name="hf_tl"), files, repo_id, private, revision, create_pr)
    except PublishError as error:
        raise PublishError(f"{error}\nThe model is saved in {folder}; push it later: {shlex.join(command)}") from error


def _files(folder: Path, *, adapter_only: bool) -> dict[str, Path | bytes]:
    """Return the files to publish by their names in the repository.

    Raises:
        PublishError: The folder is not a complete saved model, or holds no adapter.
    """
    files: dict[str, Path | bytes] = {path.name: path for path in check_folder(folder)}
    if not adapter_only:
        return files
    adapter = {Path(name).name: folder / name for name in ADAPTER_FILES}
    if missing := [str(path.relative_to(folder)) for path in adapter.values() if not path.is_file()]:
        raise PublishError(
            f"{folder} holds no adapter ({name_some(missing)} missing): --adapter_only is for a training whose last "
            "phase used LoRA on layers that no earlier phase trained in full"
        )
    kept = {name: files[name] for name in (RECORD_FILE, "preprocessor_config.json") if name in files}
    return {**adapter, **kept, CARD_FILE: render_adapter_card(read_record(folder)).encode()}


def check_push_access(repo_id: str, token: str | None = None, *, create_pr: bool = False) -> None:
    """Check that a push to a repository is allowed; call it before training.

    Args:
        repo_id: Repository `USER/NAME`.
        token: As in `push`.
        create_pr: Whether the push opens a pull request, which needs no rights over the namespace.

    Raises:
        PublishError: The name is invalid, there is no valid token, or the token may not write to the namespace.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"expected a repository USER/NAME, found {repo_id!r}: {error}") from error
    namespace, _, name = repo_id.partition("/")
    if not name:
        raise PublishError(f"expected a repository USER/NAME, found {repo_id!r} without a user")
    with explained(f"push to {repo_id}"):
        user = retried(HfApi(token=token, library_name="hf_tl").whoami)
    access: dict[str, Any] = user.get("auth", {}).get("accessToken", {})
    if access.get("role") == "read":
        raise PublishError(
            "the Hub token is for reading only; create one with write permission at "
            "https://huggingface.co/settings/tokens and log in with `hf auth login`"
        )
    writable = [user["name"], *(org["name"] for org in user.get("orgs", []) if org.get("roleInOrg") != "read")]
    if not create_pr and namespace not in writable:
        raise PublishError(
            f"the Hub token may not write to {namespace!r}; it may write to {name_some(writable)}: "
            f"push to {user['name']}/{name}, or log in as a member of {namespace!r}"
        )
    if not _grants(access.get("fineGrained"), "discussion.write" if create_pr else "repo.write", namespace, repo_id):
        raise PublishError(
            f"the fine-grained Hub token may not write to {repo_id}; give it write access to repositories of "
            f"{namespace!r} at https://huggingface.co/settings/tokens, or use another token"
        )


def _grants(permissions: dict[str, Any] | None, wanted: str, namespace: str, repo_id: str) -> bool:
    """Return whether a fine-grained token grants a permission; other tokens are not restricted by scopes."""
    if not permissions or "scoped" not in permissions:
        return True
    scopes = [entry for entry in permissions["scoped"] if entry["entity"].get("name") in (namespace, repo_id)]
    granted = {*permissions.get("global", ()), *(right for entry in scopes for right in entry["permissions"])}
    return bool({wanted, "repo.write"} & granted)


def _push(
    api: HfApi,
    files: Mapping[str, Path | bytes],
    repo_id: str,
    private: bool | None,
    revision: str | None,
    create_pr: bool,
) -> str:
    own = files[CARD_FILE]
    card = with_repo_id((own if isinstance(own, bytes) else own.read_bytes()).decode(), repo_id)
    check_card(ModelCard(card))
    additions = [CommitOperationAdd(name, file) for name, file in {**files, CARD_FILE: card.encode()}.items()]
    branch = Branch(api, repo_id, COMMIT_MESSAGE, lambda name: is_among(name, REPLACED), revision)
    if not create_pr:
        branch.create(private)
    head = branch.head()
    branch.check_private(private, head)
    if not create_pr or not branch.changes(additions, head):
        return branch.commit(additions, head)
    proposal = retried(lambda: _own_pull_request(api, repo_id))
    proposed = replace(branch, revision=proposal.git_reference)
    proposed.commit(additions, proposed.head())
    if proposal.status == "draft":  # the Hub creates drafts
        retried(lambda: api.change_discussion_status(repo_id, proposal.num, new_status="open"))
    return proposal.url


def check_card(card: RepoCard) -> None:
    """Validate a card with the Hub, before anything is created there.

    Raises:
        PublishError: The Hub refuses the card.
    """
    try:
        retried(lambda: _validate(card))
    except BadRequestError as error:
        raise PublishError(
            f"the Hub refused the card: {messages_of(error.response.text)}; correct its metadata, at the top of "
            f"{CARD_FILE}"
        ) from error


def _validate(card: RepoCard) -> None:
    """Send a card to the Hub in use; `RepoCard.validate` of huggingface_hub 1 always asks huggingface.co."""
    answer = get_session().post(
        f"{constants.ENDPOINT}/api/validate-yaml",
        json={"repoType": card.repo_type, "content": str(card)},
        headers={"Accept": "text/plain"},
    )
    hf_raise_for_status(answer)


def _own_pull_request(api: HfApi, repo_id: str) -> Discussion:
    """Return the open pull request of an earlier push, or open one; a retry finds the one of the failed attempt."""
    user = api.whoami(cache=True)["name"]
    for discussion in api.get_repo_discussions(repo_id, author=user, discussion_type="pull_request"):
        is_own = discussion.title == COMMIT_MESSAGE and discussion.author == user
        if is_own and discussion.status in ("open", "draft"):
            return discussion
    return api.create_pull_request(repo_id, COMMIT_MESSAGE)
