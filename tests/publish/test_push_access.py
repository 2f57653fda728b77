"""Access of a token is checked before a push."""

from typing import Any

import pytest
from hub.client import READ_TOKEN, TOKEN
from hub.server import HubServer
from publish.pushed import REPO

from hf_tl.errors import PublishError
from hf_tl.hub.hub import check_push_access


@pytest.mark.parametrize(
    ("repo_id", "token", "said"),
    [
        ("pets", None, "without a user"),
        ("user/pets/more", None, "USER/NAME"),
        ("user/pe ts", None, "USER/NAME"),
        (REPO, READ_TOKEN, "reading only"),
        (REPO, "hf_wrong", "hf auth login.*401"),
        ("someone/pets", None, "may write to user, team: push to user/pets"),
    ],
)
def test_push_that_would_be_refused_is_seen_before(hub: HubServer, repo_id: str, token: str | None, said: str) -> None:
    with pytest.raises(PublishError, match=said) as caught:
        check_push_access(repo_id, token)
    assert "hf_" not in str(caught.value).replace("hf_tl", "")
    assert not hub.hub.repos


def test_push_without_token_says_how_to_get_one(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishError, match=r"no Hub token.*hf auth login"):
        check_push_access(REPO)


def test_access_of_user_and_organization(hub: HubServer) -> None:
    check_push_access(REPO)
    check_push_access("team/pets")


def scoped(*permissions: str, name: str = "user") -> dict[str, Any]:
    """Return the Hub's description of a fine-grained token."""
    entity = {"_id": "1", "type": "user", "name": name}
    return {"global": [], "scoped": [{"entity": entity, "permissions": ["repo.content.read", *permissions]}]}


@pytest.mark.parametrize(
    ("permissions", "is_allowed"),
    [
        (scoped("repo.write"), True),
        (scoped("repo.write", name=REPO), True),
        ({"canReadGatedRepos": True}, True),  # unknown permissions are checked by the push itself
        (scoped(), False),
        (scoped("repo.write", name="team"), False),
    ],
)
def test_fine_grained_token(hub: HubServer, permissions: dict[str, Any], is_allowed: bool) -> None:
    hub.hub.tokens = {TOKEN: {"name": "user", "role": "fineGrained", "fineGrained": permissions}}
    if is_allowed:
        check_push_access(REPO)
        return
    with pytest.raises(PublishError, match="fine-grained Hub token may not write to user/pets"):
        check_push_access(REPO)
