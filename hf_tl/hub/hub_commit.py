"""One commit on a branch of a repository: what differs is uploaded, all of it is applied or nothing."""

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
    """A branch of a model's repository or of a Space, to which one kind of commit is made."""

    api: HfApi
    repo_id: str
    message: str
    """Of the commit."""
    is_ours: Callable[[str], bool]
    """Which files are removed where a new commit has no such file."""
    revision: str | None = None
    """`main` where it is None."""
    repo_type: Literal["model", "space"] = "model"

    @property
    def url(self) -> str:
        """The address of the repository."""
        return f"{self.api.endpoint}/{'spaces/' if self.repo_type == 'space' else ''}{self.repo_id}"

    def create(self, private: bool | None) -> None:
        """Make the repository, private or not, and the branch where they do not exist."""
        sdk = "gradio" if self.repo_type == "space" else None
        retried(
            lambda: self.api.create_repo(
                self.repo_id, private=private, repo_type=self.repo_type, space_sdk=sdk, exist_ok=True
            )
        )
        if self.revision is not None:
            retried(lambda: self.api.create_branch(self.repo_id, branch=str(self.revision), exist_ok=True))

    def check_private(self, private: bool | None, head: Head) -> None:
        """Check that what is to be private does not go to a public repository.

        Raises:
            PublishError: it would.
        """
        if private and not head.private:
            raise PublishError(
                f"{self.repo_id} is public, but a private push was asked for; make it private or name another"
            )

    def head(self) -> Head:
        """Ask for the state of the branch."""
        return retried(self._head)

    def commit(self, additions: Sequence[CommitOperationAdd], head: Head) -> str:
        """Upload what differs from `head` and commit it on top of `head`, or on nothing.

        Returns:
            The address of the commit.

        Raises:
            PublishError: the branch has moved since `head`.
        """
        changed = [change for change in self.changes(additions, head) if isinstance(change, CommitOperationAdd)]
        with time_limit():  # tried again by huggingface_hub itself
            self.api.preupload_lfs_files(
                self.repo_id, changed, repo_type=self.repo_type, revision=self.revision, free_memory=False
            )
        if ignored := [addition.path_in_repo for addition in changed if addition._should_ignore]:
            raise PublishError(
                f"the repository's .gitignore keeps out {name_some(ignored)}, without which the {self.repo_type} would "
                "not be whole; take them out of it"
            )
        # overtaken (412): the next attempt sees by whom
        return retried(lambda: self._commit(additions, head), also=(412,))

    def _commit(self, additions: Sequence[CommitOperationAdd], head: Head) -> str:
        now = self._head()
        changes = self.changes(additions, now)
        if not changes:  # pushed before; or just now, and the answer was lost
            return f"{self.url}/commit/{now.sha}"
        if now.sha != head.sha:
            raise PublishError(
                f"{self.repo_id} was changed by somebody else during the push, of which nothing was applied; "
                "look at the change, then push again"
            )
        # With the parent named, the Hub refuses a commit that another one has overtaken: files are never mixed.
        return self.api.create_commit(
            self.repo_id,
            changes,
            commit_message=self.message,
            repo_type=self.repo_type,
            revision=self.revision,
            parent_commit=head.sha,
        ).commit_url

    def changes(self, additions: Sequence[CommitOperationAdd], head: Head) -> list[Change]:
        """List what is to be added or replaced, and what an earlier commit left behind is to be removed."""
        there = {sibling.rfilename: sibling for sibling in head.siblings or ()}
        stale = sorted(set(there) - {addition.path_in_repo for addition in additions})
        return [
            *(addition for addition in additions if not _is_there(addition, there.get(addition.path_in_repo))),
            *(CommitOperationDelete(name) for name in stale if self.is_ours(name)),
        ]

    def _head(self) -> Head:
        found = self.api.repo_info(
            self.repo_id, repo_type=self.repo_type, revision=self.revision, files_metadata=True, timeout=timeout()
        )
        assert isinstance(found, Head)
        return found


def _is_there(addition: CommitOperationAdd, sibling: RepoSibling | None) -> bool:
    if sibling is None or sibling.size != addition.upload_info.size:
        return False
    if sibling.lfs is not None:
        return sibling.lfs.sha256 == addition.upload_info.sha256.hex()
    with addition.as_file() as file:
        return sibling.blob_id == git_hash(file.read())
