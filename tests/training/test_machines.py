"""Two machines, as two torchrun agents with a process each: they train as one machine does, and end together."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training.launched_runs import launch, launch_machines, read_result, result_path
from training.small_runs import Run, differences, resumed

from hf_tl.checkpoints.checkpoint import newest_checkpoint

pytestmark = pytest.mark.slow

CONFIG = {"per_device_train_batch_size": 2, "save_steps": 1}


def finish(processes: Sequence[subprocess.Popen[str]], status: int = 0) -> list[str]:
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [status] * len(processes), outputs[0][1][-3000:]
    return [errors for _, errors in outputs]


@pytest.mark.parametrize("strategy", ["transfer", "finetune", "adapted", "full"])
def test_two_machines_do_as_one(tmp_path: Path, strategy: str) -> None:
    alone, both = (Run(str(tmp_path / name), strategy, CONFIG) for name in ("alone", "both"))
    finish([launch(alone, 2)])
    finish(launch_machines(both))
    for rank in range(2):
        assert differences(read_result(alone, rank), read_result(both, rank)) == [], rank
    assert torch.load(result_path(both))["log"]["history"]


def test_a_lost_machine_ends_the_other_and_one_machine_resumes(tmp_path: Path) -> None:
    """The resumed run has as many processes, on one machine."""
    whole, lost = (Run(str(tmp_path / name), "gradual", CONFIG) for name in ("whole", "lost"))
    finish([launch(whole, 2)])
    slow = replace(lost, config={**CONFIG, "save_total_limit": 100})
    machines = launch_machines(slow)
    while not (tmp_path / "lost" / "checkpoints" / "step-00000003").exists():
        assert all(machine.poll() is None for machine in machines)
        time.sleep(0.01)
    os.killpg(machines[1].pid, signal.SIGKILL)
    start = time.monotonic()
    [errors] = finish(machines[:1], status=1)
    assert time.monotonic() - start < 10
    assert "rocess" in errors
    newest, damages = newest_checkpoint(tmp_path / "lost" / "checkpoints")
    assert newest is not None
    assert damages == []
    finish([launch(resumed(lost), 2)])
    for rank in range(2):
        assert differences(read_result(whole, rank), read_result(lost, rank)) == [], rank
