"""A Hub on loopback, for one test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub.client import OTHER_TOKEN, READ_TOKEN, TOKEN
from hub.server import HubServer
from huggingface_hub import constants

ACCOUNTS = {
    TOKEN: {"name": "user", "role": "write", "orgs": ["team"]},
    READ_TOKEN: {"name": "user", "role": "read", "orgs": ["team"]},
    OTHER_TOKEN: {"name": "other", "role": "write"},
}


@pytest.fixture
def xet_hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """Yield a Hub with large files through xet, the default of the clients."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    return hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Yield a Hub for one test, which huggingface_hub in this process uses with a write token."""
    with HubServer(tmp_path / "hub", tokens=ACCOUNTS) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))  # otherwise models of another Hub
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
