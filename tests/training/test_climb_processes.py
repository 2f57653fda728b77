"""A climb in two processes (torchrun, gloo), ten seconds per launch: all decide alike, sharded or not."""

import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training.launched_runs import FSDP, launch, read_result, result_path
from training.small_runs import Run, differences, moved, resumed

pytestmark = pytest.mark.slow


def finish(process: subprocess.Popen[str], status: int = 0) -> None:
    _, errors = process.communicate(timeout=1800)  # generous, for a busy machine
    assert process.returncode == status, errors[-3000:]


def climb(folder: Path, processes: int, environment: dict[str, str] | None = None, **changes: Any) -> Run:
    """Run a climb in processes of its own; two processes with 2 images each have the batches of one with 4."""
    config = {"per_device_train_batch_size": 4 // processes, "save_steps": 1}
    run = replace(Run(str(folder), "climb", config, dropout=0, expected_rung=1), **changes)
    folder.mkdir(exist_ok=True)
    status = 0 if run.signal_at is None else 1
    finish(launch(run, processes, environment), status)
    return run


@pytest.mark.parametrize("environment", [{}, FSDP], ids=["replicated", "sharded"])
@pytest.mark.parametrize(
    ("phases", "expected_rung"),
    [("climb", 1), ("gentle climb", 2), ("climb to random weights", 3)],
    ids=["undone", "kept", "random weights"],
)
def test_two_processes_climb_as_one(
    tmp_path: Path, phases: str, expected_rung: int, environment: dict[str, str]
) -> None:
    two = climb(tmp_path / "two", 2, environment, phases=phases, expected_rung=expected_rung)
    results = [torch.load(result_path(climb(tmp_path / "one", 1, phases=phases, expected_rung=expected_rung)))]
    results += [torch.load(result_path(two, rank)) for rank in range(2)]
    decisions = [
        [(rung["is_kept"], rung["why"], rung["accuracy"], rung["p_value"]) for rung in result["log"]["rungs"]]
        for result in results
    ]
    assert [kept for kept, *_ in decisions[0]] == ([True, False] if expected_rung == 1 else [True] * expected_rung)
    assert decisions[0] == decisions[1] == decisions[2]
    assert len({result["log"]["stopped"] for result in results}) == 1
    assert results[0]["requires grad"] == results[1]["requires grad"] == results[2]["requires grad"]
    weights = [result["best weights"] for result in results]
    assert not moved(weights[1], weights[2]), "the processes have different weights"
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize("environment", [{}, FSDP], ids=["replicated", "sharded"])
def test_two_processes_train_again_as_one(tmp_path: Path, environment: dict[str, str]) -> None:
    """After a climb with all stage depths kept: from the initial weights, on all images."""
    changes = {"phases": "gentle climb", "expected_rung": 2}
    two = climb(tmp_path / "two", 2, environment, refit=True, **changes)
    single, before = climb(tmp_path / "one", 1, refit=True, **changes), climb(tmp_path / "before", 1, **changes)
    alone, first = (torch.load(result_path(run))["best weights"] for run in (single, before))
    weights = [torch.load(result_path(two, rank))["best weights"] for rank in range(2)]
    assert not moved(*weights), "the processes have different weights"
    assert moved(first, alone)
    for name, tensor in alone.items():
        torch.testing.assert_close(weights[0][name], tensor, atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize("environment", [{}, FSDP], ids=["replicated", "sharded"])
def test_two_processes_resume_a_climb_bit_by_bit(tmp_path: Path, environment: dict[str, str]) -> None:
    """Interrupted within the second stage depth, which is undone: earlier weights came from the checkpoint."""
    alone = climb(tmp_path / "a", 2, environment, dropout=0.2)
    killed = climb(tmp_path / "b", 2, environment, dropout=0.2, signal_at=(10, 1, signal.SIGTERM))
    last = replace(resumed(killed), signal_at=None)
    finish(launch(last, 2, environment))
    for rank in range(2):
        assert differences(read_result(alone, rank), read_result(last, rank)) == [], rank
