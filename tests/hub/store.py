"""Storage of the test Hub: accounts, repositories and commits in memory, blobs on disk by SHA-256."""

import datetime
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import yaml
from starlette.requests import Request

Repo = dict[str, Any]
User = dict[str, Any]
Entry = dict[str, Any]
WRITER: User = {"name": "user", "role": "write"}


class HubError(Exception):
    """Error answer, with the headers from which huggingface_hub builds its exceptions."""

    def __init__(self, status: int, message: str, code: str | None = None, commit: str | None = None) -> None:
        self.status, self.message = status, message
        headers = {"X-Error-Message": message, "X-Error-Code": code, "X-Repo-Commit": commit}
        self.headers = {name: value for name, value in headers.items() if value}


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def front_matter(text: str) -> Any:
    match = re.match(r"\s*---\r?\n(.*?)\r?\n---(\r?\n|$)", text, re.S)
    return yaml.safe_load(match.group(1)) if match else None


class Store:
    """Accounts, repositories and blobs.

    Args:
        root: Folder of the blobs.
        tokens: Account of each token: `{"name": user, "role": "write" or "read", "orgs": [...]}`.
        lfs_threshold: Size in bytes above which files go through LFS, whatever their name.
    """

    def __init__(
        self, root: str | Path, tokens: dict[str, User] | None = None, lfs_threshold: int = 10 * 2**20
    ) -> None:
        self.blobs = Path(root) / "blobs"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self.tokens = {"hf_test": WRITER} if tokens is None else tokens
        self.lfs_threshold = lfs_threshold
        self.repos: dict[tuple[str, str], Repo] = {}

    # -- permissions
    def user(self, request: Request, need: bool = False) -> User | None:
        header = request.headers.get("authorization", "")
        user = self.tokens.get(header.removeprefix("Bearer "))
        if (header or need) and not user:
            raise HubError(
                401, "Invalid credentials in Authorization header" if header else "Invalid username or password."
            )
        return user

    def needed_user(self, request: Request) -> User:
        user = self.user(request, need=True)
        assert user is not None
        return user

    @staticmethod
    def namespaces(user: User | None) -> list[str]:
        return [user["name"], *user.get("orgs", [])] if user else []

    def repo(self, request: Request, kind: str | None, repo_id: str, write: bool = False) -> Repo:
        user, repo = self.user(request), self.repos.get((kind or "models", repo_id))
        is_member = repo_id.split("/")[0] in self.namespaces(user)
        if repo is None or (repo["private"] and not is_member):
            raise HubError(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and not (user and user["role"] == "write" and is_member):
            raise HubError(403 if user else 401, "You need a write token of a member to change this repository.")
        return repo

    # -- blobs
    def blob(self, sha: str) -> Path:
        return self.blobs / sha

    def read(self, entry: Entry) -> bytes:
        return self.blob(entry["blob"]).read_bytes()

    def regular(self, data: bytes) -> Entry:
        sha = hashlib.sha256(data).hexdigest()
        self.blob(sha).write_bytes(data)
        return {"oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(), "size": len(data), "blob": sha}

    def lfs(self, sha: str) -> Entry:
        size = self.blob(sha).stat().st_size
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {size}\n".encode()
        lfs = {"oid": sha, "size": size, "pointerSize": len(pointer)}
        return {**self.regular(pointer), "size": size, "blob": sha, "lfs": lfs}

    # -- commits
    @staticmethod
    def revision(repo: Repo, name: str | None) -> str:
        commit = repo["refs"].get(name or "main") or repo["tags"].get(name)
        if commit is None and name in repo["commits"]:
            return str(name)
        if commit is None:
            raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
        return str(commit)

    def files(self, repo: Repo, revision: str | None = None) -> dict[str, Entry]:
        return repo["commits"][self.revision(repo, revision)]["files"]

    @staticmethod
    def add_commit(repo: Repo, ref: str, files: dict[str, Entry], title: str, author: str, message: str = "") -> str:
        parent = repo["refs"].get(ref)
        commit = {"parent": parent, "title": title, "message": message, "date": now(), "authors": [{"user": author}]}
        content = [commit, len(repo["commits"]), sorted((path, entry["oid"]) for path, entry in files.items())]
        oid = hashlib.sha1(json.dumps(content).encode()).hexdigest()
        repo["refs"][ref] = oid
        repo["commits"][oid] = {**commit, "id": oid, "files": files}
        return oid

    @staticmethod
    def history(repo: Repo, revision: str = "main") -> list[dict[str, Any]]:
        """Return the commits of a branch, newest first."""
        commits, oid = [], Store.revision(repo, revision)
        while commit := repo["commits"].get(oid):
            commits.append(commit)
            oid = commit["parent"]
        return commits
