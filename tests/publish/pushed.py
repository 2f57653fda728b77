"""Content of folders and repositories."""

from pathlib import Path
from typing import Any

from hub.server import HubServer

REPO = "user/pets"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def commits(hub: HubServer, branch: str = "main", repo_id: str = REPO, kind: str = "models") -> list[dict[str, Any]]:
    """Return the commits of the repository, without the initial one."""
    repo = hub.hub.repos[kind, repo_id]
    return hub.hub.history(repo, branch)[:-1]


def published(hub: HubServer, branch: str = "main", repo_id: str = REPO, kind: str = "models") -> dict[str, bytes]:
    """Return the files of a branch, without those that the Hub added."""
    files = hub.hub.files(hub.hub.repos[kind, repo_id], branch)
    return {name: hub.hub.read(entry) for name, entry in files.items() if name != ".gitattributes"}
