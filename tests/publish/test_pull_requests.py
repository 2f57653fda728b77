"""Proposing a model as a pull request."""

from pathlib import Path
from typing import Any

import pytest
from hub.client import OTHER_TOKEN
from hub.server import Fault, HubServer
from publish.pushed import REPO, commits, published

from hf_tl.errors import PublishError
from hf_tl.hub.hub import push


def test_pull_request_to_a_repository_of_somebody_else(
    hub: HubServer, saved: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(saved, REPO)
    monkeypatch.setenv("HF_TOKEN", OTHER_TOKEN)
    with (copy / "README.md").open("a") as card:
        card.write("Proposed.\n")
    url = push(copy, REPO, create_pr=True)
    assert url == f"{hub.url}/{REPO}/discussions/1"
    assert push(copy, REPO, create_pr=True) == url
    assert len(commits(hub)) == 1
    assert len(commits(hub, "refs/pr/1")) == 2
    assert published(hub, "refs/pr/1")["README.md"].endswith(b"Proposed.\n")
    assert hub.hub.repos["models", REPO]["discussions"][0]["status"] == "open"
    # an existing model needs no pull request
    assert push(saved, REPO, create_pr=True).startswith(f"{hub.url}/{REPO}/commit/")
    assert len(hub.hub.repos["models", REPO]["discussions"]) == 1


@pytest.mark.parametrize("path", [r"/discussions$", "/discussions/1/status", r"/commit/refs%2Fpr%2F1"])
def test_pull_request_whose_answer_is_lost_is_not_made_twice(
    hub: HubServer, saved: Path, copy: Path, path: str
) -> None:
    push(saved, REPO)
    with (copy / "README.md").open("a") as card:
        card.write("Proposed.\n")
    hub.hub.faults.append(Fault(path, method="POST", is_cut=True, is_done=True))
    push(copy, REPO, create_pr=True)
    assert not hub.hub.faults[0].times
    assert len(hub.hub.repos["models", REPO]["discussions"]) == 1
    assert len(commits(hub, "refs/pr/1")) == 2


@pytest.mark.parametrize("options", [{"revision": "v2"}, {"private": True}])
def test_pull_request_to_another_branch_is_refused(hub: HubServer, saved: Path, options: dict[str, Any]) -> None:
    with pytest.raises(PublishError, match="made to main"):
        push(saved, REPO, create_pr=True, **options)
    assert not hub.hub.log
