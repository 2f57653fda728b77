"""`hf-tl doctor`: the rows of the report, and names and tokens that it hides."""

import getpass
from pathlib import Path

import pytest
import torch
from hub.client import TOKEN
from hub.server import HubServer
from huggingface_hub import constants

import hf_tl
from hf_tl.cli import main
from hf_tl.cli.doctor import _shown


def rows(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, str]:
    main(["doctor", *flags])
    return {line[:15].strip(): line[15:] for line in capsys.readouterr().out.splitlines()}


def test_versions_devices_and_caches(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_TL_CACHE", str(Path.home() / "features of a test"))
    report = rows(capsys)
    assert report["hf-tl"] == hf_tl.__version__
    assert f"torch {torch.__version__.partition('+')[0]}" in report["packages"]
    assert "not installed" not in report["packages"]
    assert report["devices"].startswith("CPU with ")
    assert "bfloat16" in report["matmul speed"]
    assert report["feature cache"] == "~/features of a test (0 entries, 0.0 MB)"
    assert report["Hub"] == "offline mode (HF_HUB_OFFLINE)"
    assert "installed" in report["demo weights"]


def test_the_hub_is_asked_with_the_flag_alone(hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert rows(capsys)["Hub"] == "the endpoint of HF_ENDPOINT was not asked (--hub asks it); a token is set"
    assert not hub.hub.log
    report = rows(capsys, "--hub")
    assert report["Hub"].startswith("the endpoint of HF_ENDPOINT answers (status ")
    assert report["Hub"].endswith("a token is set")
    assert TOKEN not in str(report)
    assert hub.url not in str(report)


def test_a_hub_that_does_not_answer_is_reported(
    hub: HubServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "")
    assert rows(capsys, "--hub")["Hub"] == "the endpoint of HF_ENDPOINT cannot be reached (ConnectError); no token"


def test_paths_hide_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setattr(getpass, "getuser", lambda: "lovelace")
    assert _shown(Path("/home/ada/.cache/x")) == "~/.cache/x"
    assert _shown(Path("/scratch/ada/x")) == _shown(Path("/scratch/lovelace/x")) == "/scratch/USER/x"
    assert _shown(Path("/adapters/x")) == "/adapters/x"
