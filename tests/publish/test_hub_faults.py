"""A push under faults of each endpoint: it succeeds as one commit, or fails at once with advice."""

import json
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event, Timer

import pytest
from hub.client import environment
from hub.server import Fault, HubServer
from publish.pushed import REPO, commits, contents, published

from hf_tl.errors import ConfigError, PublishError
from hf_tl.hub.hub import push
from hf_tl.hub.hub_requests import TIMEOUT_VARIABLE

ENDPOINTS = {
    "account": Fault("/whoami-v2"),
    "card": Fault("/validate-yaml"),
    "creation": Fault("/repos/create"),
    "state": Fault("/api/models/user/pets$"),
    "preupload": Fault("/preupload/"),
    "LFS batch": Fault("/objects/batch"),
    "PUT": Fault("/cdn/", method="PUT"),
    "verification": Fault("/lfs-verify/"),
    "commit": Fault("/commit/"),
}
PASSING = {
    "429": {"status": 429, "headers": {"Retry-After": "0"}},
    "500": {"status": 500},
    "503": {"status": 503},
    "cut": {"is_cut": True},
    "stall": {},
}
FINAL = {
    "401": ({"status": 401}, "hf auth login"),
    "403": ({"status": 403}, "write permission"),
    "quota": ({"status": 403, "message": "Private repository storage limit reached"}, "is full; free some of it"),
}
CELLS = [
    # plain pytest tests one fault of each endpoint, and each fault at least once
    *((endpoint, [*PASSING][number % 5], 1) for number, endpoint in enumerate(ENDPOINTS, 1)),
    *(pytest.param(endpoint, fault, 4, marks=pytest.mark.slow) for endpoint in ENDPOINTS for fault in PASSING),
]
"""Endpoint, fault, and number of consecutive failures."""


def tries(hub: HubServer, endpoint: str) -> int:
    """Return the number of equal requests to the endpoint; PUT and verification have a URL per file."""
    fault = ENDPOINTS[endpoint]
    asked = [call[1] for call in hub.hub.log if re.fullmatch(fault.method, call[0]) and re.search(fault.path, call[1])]
    return max(Counter(asked).values(), default=0)


def check_published_once(hub: HubServer, url: str, folder: Path) -> None:
    (commit,) = commits(hub)
    assert url == f"{hub.url}/{REPO}/commit/{commit['id']}"
    local = contents(folder)
    files = published(hub)
    assert {"config.json", "model.safetensors", "run.json", "README.md"} < set(files)
    assert all(content == local[name] for name, content in files.items() if name != "README.md")


@pytest.mark.parametrize(("endpoint", "fault", "times"), CELLS)
def test_faults_that_pass(
    hub: HubServer, saved: Path, endpoint: str, fault: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(saved)
    is_over = Event()
    held = {"until": is_over.is_set} if fault == "stall" else {}
    if held:
        monkeypatch.setenv(TIMEOUT_VARIABLE, "0.5")
    hub.hub.faults.append(replace(ENDPOINTS[endpoint], **PASSING[fault], **held, times=times))
    rescue = Timer(30, is_over.set)
    rescue.start()
    url = push(saved, REPO)
    assert not is_over.is_set(), "the push went on while its request was held"
    assert not hub.hub.faults[0].times, "the fault was met"
    # without a fault, a push requests the card check and the state twice
    assert tries(hub, endpoint) <= times + 2
    check_published_once(hub, url, saved)
    assert contents(saved) == before
    rescue.cancel()
    is_over.set()
    time.sleep(0.1 if held else 0)  # the delayed request is carried out now, without effect
    check_published_once(hub, url, saved)


@pytest.mark.slow
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_answer_that_takes_30_s(hub: HubServer, saved: Path, endpoint: str) -> None:
    hub.hub.faults.append(replace(ENDPOINTS[endpoint], stall=30))
    start = time.monotonic()
    url = push(saved, REPO)
    assert 20 < time.monotonic() - start < 30
    check_published_once(hub, url, saved)
    time.sleep(12)  # the late request is carried out now, without effect
    check_published_once(hub, url, saved)


def test_a_fault_that_stays_is_given_up_after_five_tries(hub: HubServer, saved: Path) -> None:
    hub.hub.faults.append(replace(ENDPOINTS["account"], status=503, headers={"Retry-After": "0"}, times=99))
    with pytest.raises(PublishError, match=r"try again later.*503(?s:.*)push it later: hf-tl push"):
        push(saved, REPO)
    assert tries(hub, "account") == 5


def test_a_long_pause_ends_the_push(hub: HubServer, saved: Path) -> None:
    hub.hub.faults.append(replace(ENDPOINTS["account"], status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(PublishError, match="too many requests"):
        push(saved, REPO)


@pytest.mark.parametrize("endpoint", ["creation", "verification", "commit"])
@pytest.mark.parametrize("answer", [{"is_cut": True}, {"status": 500}], ids=["cut", "500"])
def test_what_was_done_though_the_answer_was_lost_is_not_done_again(
    hub: HubServer, saved: Path, endpoint: str, answer: dict[str, object]
) -> None:
    hub.hub.faults.append(replace(ENDPOINTS[endpoint], is_done=True, **answer))
    url = push(saved, REPO)
    assert tries(hub, endpoint) == (1 if endpoint == "commit" else 2)
    check_published_once(hub, url, saved)


@pytest.mark.parametrize("reason", FINAL)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_refusal_is_reported_at_once(hub: HubServer, copy: Path, endpoint: str, reason: str) -> None:
    answer, advice = FINAL[reason]
    before = contents(copy)
    hub.hub.faults.append(replace(ENDPOINTS[endpoint], **answer, times=99))
    start = time.monotonic()
    with pytest.raises(PublishError, match=advice) as caught:
        push(copy, REPO)
    assert time.monotonic() - start < 2
    assert tries(hub, endpoint) == 1
    assert "hf_test" not in str(caught.value)
    assert f"hf-tl push '{copy}' {REPO}" in str(caught.value)
    assert contents(copy) == before
    assert not hub.hub.repos or not commits(hub)


def test_a_name_that_the_hub_does_not_allow(hub: HubServer, saved: Path) -> None:
    hub.hub.faults.append(replace(ENDPOINTS["creation"], status=400, message="Invalid repo name: reserved", times=99))
    start = time.monotonic()
    with pytest.raises(PublishError, match=r"does not allow.*Invalid repo name: reserved"):
        push(saved, REPO)
    assert time.monotonic() - start < 2
    assert tries(hub, "creation") == 1


def test_a_timeout_that_is_no_number(hub: HubServer, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, "soon")
    with pytest.raises(ConfigError, match=r"HF_TL_HUB_TIMEOUT takes a number of seconds above 0, found 'soon'"):
        push(saved, REPO)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_two_pushes_that_meet(hub: HubServer, saved: Path, copy: Path, endpoint: str) -> None:
    """Whenever the second push happens, one of them wins completely, or both succeed one after the other."""
    (copy / "run.json").write_text(json.dumps(json.loads((copy / "run.json").read_text()) | {"hardware": "another"}))
    with (copy / "README.md").open("a") as card:
        card.write("The other.\n")
    waiting = replace(ENDPOINTS[endpoint], until=lambda: bool(hub.hub.repos) and len(commits(hub)) == 1)
    hub.hub.faults.append(waiting)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(push, saved, REPO)
        while waiting.times and not first.done():
            time.sleep(0.01)
        push(copy, REPO)
        conflict = first.exception()
    files = published(hub)
    is_other = json.loads(files["run.json"])["hardware"] == "another"
    assert is_other == files["README.md"].endswith(b"The other.\n")
    if conflict is None:  # it had not read the repository yet
        assert endpoint in ("account", "card", "creation", "state")
        assert len(commits(hub)) == 2
    else:
        assert isinstance(conflict, PublishError)
        assert re.search(r"another commit changed .* during the push.*push again", str(conflict))
        assert is_other
        assert len(commits(hub)) == 1


def test_a_push_after_a_killed_push_completes_it(hub: HubServer, saved: Path, tmp_path: Path) -> None:
    is_killed = Event()
    waiting = replace(ENDPOINTS["commit"], until=is_killed.is_set, status=503)
    hub.hub.faults.append(waiting)
    command = [sys.executable, "-m", "hf_tl", "push", str(saved), REPO]
    with subprocess.Popen(command, env=environment(hub.url, tmp_path / "home")) as process:
        while waiting.times and process.poll() is None:
            time.sleep(0.05)
        process.kill()
    is_killed.set()
    assert not commits(hub)
    sent = tries(hub, "PUT")
    assert sent
    url = push(saved, REPO)
    assert tries(hub, "PUT") == sent
    check_published_once(hub, url, saved)
