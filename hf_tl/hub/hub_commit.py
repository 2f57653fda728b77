"""Atomic commit of the changed files to a branch of a repository."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import ModelInfo, RepoSibling, SpaceInfo
from huggingface_hub.utils.sha import git_hash

from hf_tl.errors import PublishError, name_some
from hf_tl.hub.hub_requests import retried, time_limit, timeout

Change = CommitOperationAdd | CommitOperationDelete
Head = ModelInfo | SpaceInfo


@dataclass(frozen=True)
class Branch:
    """Branch of a model repository or a Space, for one kind of commit."""

    api: HfApi
    repo_id: str
    message: str
    """Commit message."""
    is_ours: Callable[[str], bool]
    """Predicate of the files to remove when a new commit does not contain them."""
    revision: str | None = None
    """Name of the branch; `main` by default."""
    repo_type: Literal["model", "space"] = "model"

    @property
    def url(self) -> str:
        """Return the URL of the repository."""
        return f"{self.api.endpoint}/{'spaces/' if self.repo_type == 'space' else ''}{self.repo_id}"

    def create(self, private: bool | None) -> None:
        """Create the repository, private or not, and the branch, if they do not exist."""
        sdk = "gradio" if self.repo_type == "space" else None
        retried(
            lambda: self.api.create_repo(
                self.repo_id, private=private, repo_type=self.repo_type, space_sdk=sdk, exist_ok=True
            )
        )
        if self.revision is not None:
            retried(lambda: self.api.create_branch(self.repo_id, branch=str(self.revision), exist_ok=True))

    def check_private(self, private: bool | None, head: Head) -> None:
        """Check that a private push does not go to a public repository.

        Raises:
            PublishError: The repository is public.
        """
        if private and not head.private:
            raise PublishError(
                f"expected a private repository, but {self.repo_id} is public; make it private, or name another"
            )

    def head(self) -> Head:
        """Return the state of the branch."""
        return retried(self._head)

    def commit(self, additions: Sequence[CommitOperationAdd], head: Head) -> str:
        """Upload the files that differ from `head` and commit them on top of `head`, or fail.

        Returns:
            URL of the commit.

        Raises:
            PublishError: The branch has moved since `head`.
        """
        changed = [change for change in self.changes(additions, head) if isinstance(change, CommitOperationAdd)]
        with time_limit():  # huggingface_hub retries the upload itself
            self.api.preupload_lfs_files(
                self.repo_id, changed, repo_type=self.repo_type, revision=self.revision, free_memory=False
            )
        if ignored := [addition.path_in_repo for addition in changed if addition._should_ignore]:
            raise PublishError(
                f"the repository's .gitignore excludes {name_some(ignored)}, which the {self.repo_type} needs; remove "
                "these lines from it"
            )
        # a conflicting commit (412): the next attempt finds out whose
        return retried(lambda: self._commit(additions, head), also=(412,))

    def _commit(self, additions: Sequence[CommitOperationAdd], head: Head) -> str:
        now = self._head()
        changes = self.changes(additions, now)
        if not changes:  # pushed before, or just now by a request whose answer was lost
            return f"{self.url}/commit/{now.sha}"
        if now.sha != head.sha:
            raise PublishError(
                f"another commit changed {self.repo_id} during the push, which was not applied; look at the change, "
                "then push again"
            )
        # With its parent stated, the Hub refuses a commit on a branch that has moved: versions are never mixed.
        return self.api.create_commit(
            self.repo_id,
            changes,
            commit_message=self.message,
            repo_type=self.repo_type,
            revision=self.revision,
            parent_commit=head.sha,
        ).commit_url

    def changes(self, additions: Sequence[CommitOperationAdd], head: Head) -> list[Change]:
        """Return the files to add or replace, and the files of an earlier commit to remove."""
        there = {sibling.rfilename: sibling for sibling in head.siblings or ()}
        stale = sorted(set(there) - {addition.path_in_repo for addition in additions})
        return [
            *(addition for addition in additions if not _is_there(addition, there.get(addition.path_in_repo))),
            *(CommitOperationDelete(name) for name in stale if self.is_ours(name)),
        ]

    def _head(self) -> Head:
        info = self.api.repo_info(
            self.repo_id, repo_type=self.repo_type, revision=self.revision, files_metadata=True, timeout=timeout()
        )
        assert isinstance(info, Head)
        return info


def _is_there(addition: CommitOperationAdd, sibling: RepoSibling | None) -> bool:
    if sibling is None or sibling.size != addition.upload_info.size:
        return False
    if sibling.lfs is not None:
        return sibling.lfs.sha256 == addition.upload_info.sha256.hex()
    with addition.as_file() as file:
        return sibling.blob_id == git_hash(file.read())
