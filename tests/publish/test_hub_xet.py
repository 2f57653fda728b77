"""A push through xet, the default for large files on the real Hub unless HF_HUB_DISABLE_XET is set."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hub.client import run_python
from hub.server import Fault, HubServer
from publish.pushed import REPO, commits, contents, published
from publish.records import LABELS

from hf_tl.errors import PublishError
from hf_tl.hub.hub import push

ENDPOINTS = {"token": Fault("/xet-write-token/"), "xorb": Fault("/v1/xorbs/"), "shard": Fault("/v1/shards")}


def test_push_and_load(xet_hub: HubServer, saved: Path, tmp_path: Path) -> None:
    url = push(saved, REPO)
    assert push(saved, REPO) == url
    (commit,) = commits(xet_hub)
    local = contents(saved)
    assert all(content == local[name] for name, content in published(xet_hub).items() if name != "README.md")
    calls = [path for _, path, *_ in xet_hub.hub.log]
    assert not any("/objects/batch" in path for path in calls)
    assert any("/v1/shards" in path for path in calls)

    code = """
import json
from transformers import AutoModelForImageClassification
config = AutoModelForImageClassification.from_pretrained("user/pets").config
print(json.dumps([config.id2label[index] for index in range(3)]))
"""
    assert json.loads(run_python(code, xet_hub.url, tmp_path, xet=True)) == list(LABELS)
    assert commit["parent"]


@pytest.mark.parametrize(
    ("endpoint", "fault"),
    [("token", {"status": 503}), ("xorb", {"is_cut": True}), ("xorb", {"stall": 1.0}), ("shard", {"status": 500})],
    ids=["token-503", "xorb-cut", "xorb-stall", "shard-500"],
)
def test_a_fault_that_passes(xet_hub: HubServer, saved: Path, endpoint: str, fault: dict[str, object]) -> None:
    xet_hub.hub.faults.append(replace(ENDPOINTS[endpoint], **fault))
    push(saved, REPO)
    assert not xet_hub.hub.faults[0].times
    assert len(commits(xet_hub)) == 1


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(("status", "advice"), [(401, "hf auth login"), (403, "write permission.*storage")])
def test_a_refused_transfer_is_reported_at_once(
    xet_hub: HubServer, saved: Path, endpoint: str, status: int, advice: str
) -> None:
    xet_hub.hub.faults.append(replace(ENDPOINTS[endpoint], status=status, times=99))
    start = time.monotonic()
    with pytest.raises(PublishError, match=rf"{advice}(?s:.*)push it later: hf-tl push"):
        push(saved, REPO)
    assert time.monotonic() - start < 2
    assert 99 - xet_hub.hub.faults[0].times == 1
    assert not commits(xet_hub)


@pytest.mark.slow
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_answer_that_takes_30_s(xet_hub: HubServer, saved: Path, endpoint: str) -> None:
    """xet has longer time limits of its own: it waits."""
    xet_hub.hub.faults.append(replace(ENDPOINTS[endpoint], stall=30))
    start = time.monotonic()
    push(saved, REPO)
    assert time.monotonic() - start < 60
    assert len(commits(xet_hub)) == 1
