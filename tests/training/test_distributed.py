"""Several processes (torchrun, gloo), ten seconds per launch: all slow."""

import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training.launched_runs import launch, launch_unwatched, read_result, result_path
from training.small_runs import FLAT, Run, differences, make_model, moved, resumed

from hf_tl.backbones.stages.freezing import freeze, frozen_tensors
from hf_tl.checkpoints.checkpoint import newest_checkpoint

pytestmark = pytest.mark.slow

SPLIT = {"per_device_train_batch_size": 2, "save_steps": 1}
"""Two processes with 2 images each have the batches of one process with 4."""


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    output, errors = process.communicate(timeout=240)
    assert process.returncode == status, errors[-3000:]
    return output + errors


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, Any], dict[str, Any]]:
    run = Run(str(tmp_path_factory.mktemp("two")), "norms frozen", SPLIT, dropout=0)
    finish(launch(run, 2))
    return run, torch.load(result_path(run)), torch.load(result_path(run, 1))


def test_two_processes_do_as_one(tmp_path: Path, two: tuple[Run, dict[str, Any], dict[str, Any]]) -> None:
    run, first, second = two
    alone = replace(run, output=str(tmp_path), config={"save_steps": 1})
    finish(launch(alone))
    single = torch.load(result_path(alone))
    for step, indices in single["by step"]["seen"].items():
        assert first["by step"]["seen"][step] + second["by step"]["seen"][step] == indices, step
        views = first["by step"]["pixels"][step] + second["by step"]["pixels"][step]
        assert differences(views, single["by step"]["pixels"][step]) == []
        weights = (single["by step"]["weights"][step], first["by step"]["weights"][step])
        assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-5) for name in weights[0]), step
        assert not moved(weights[1], second["by step"]["weights"][step]), "the processes have different weights"
    for name in ("accuracy", "top5_accuracy", "macro_f1"):
        metrics = [
            [entry["validation"][name] for entry in result["log"]["history"]] for result in (single, first, second)
        ]
        assert metrics[0] == metrics[1] == metrics[2]
    losses = [[entry["train_loss"] for entry in result["log"]["history"]] for result in (single, first, second)]
    assert losses[1] == losses[2] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("backend", ["no", "eager", "aot_eager"])
@pytest.mark.parametrize("processes", [1, 2])
def test_frozen_tensors_stand_still_in_every_phase(tmp_path: Path, processes: int, backend: str) -> None:
    """Compiled or not; the test determines the frozen tensors itself."""
    run = Run(str(tmp_path), config={**SPLIT, "per_device_train_batch_size": 4 // processes})
    finish(launch(run, processes, {"ACCELERATE_DYNAMO_BACKEND": backend}))
    ends = [0, 4, 11, 14]
    for rank in range(processes):
        weights = torch.load(result_path(run, rank))["by step"]["weights"]
        assert sorted(weights) == list(range(15))
        for phase, first, last in zip(run.strategy.phases, ends, ends[1:], strict=False):
            model = make_model(run)
            freeze(model, phase.trainable_stages, phase.norm)
            frozen = set(frozen_tensors(model))
            for step in range(first, last):
                assert moved(weights[step], weights[step + 1]).isdisjoint(frozen), step
            assert moved(weights[first], weights[last]) == set(weights[0]) - frozen


def test_two_processes_resume_bit_by_bit(tmp_path: Path) -> None:
    """BatchNorm trains, and each process draws its own dropout."""
    run = Run(str(tmp_path / "a"), config=SPLIT)
    finish(launch(run, 2))
    killed = replace(run, output=str(tmp_path / "b"), signal_at=(6, 1, signal.SIGKILL))
    Path(killed.output).mkdir()
    finish(launch(killed, 2), status=1)
    going_on = replace(resumed(killed), signal_at=(9, 0, signal.SIGKILL))
    finish(launch(going_on, 2), status=1)
    last = replace(resumed(going_on), signal_at=None)
    finish(launch(last, 2))
    for rank in range(2):
        assert differences(read_result(run, rank), read_result(last, rank)) == [], rank


def test_two_processes_measure_the_precision_once(tmp_path: Path) -> None:
    run = Run(str(tmp_path), "all kept", {**SPLIT, "feature_cache": "off"}, is_measured=True)
    finish(launch(run, 2))
    first, second = (read_result(run, rank)["log"]["phases"] for rank in range(2))
    assert [phase["step_precision"] for phase in first] == [phase["step_precision"] for phase in second]
    assert all(phase["step_precision"]["precision"] == "bfloat16" for phase in first)
    assert {phase["frozen_precision"] and phase["frozen_precision"]["precision"] for phase in first} == {
        None,
        "bfloat16",
    }


def test_another_number_of_processes_is_refused(two: tuple[Run, dict[str, Any], dict[str, Any]]) -> None:
    run, _, _ = two
    errors = finish(launch(resumed(run)), status=2)
    assert "processes was 2, now 1" in errors


def test_a_killed_process_ends_all(tmp_path: Path) -> None:
    process = launch(Run(str(tmp_path), config=SPLIT, signal_at=(3, 1, signal.SIGKILL)), 2)
    while not (tmp_path / "checkpoints" / "step-00000003").exists():
        assert process.poll() is None
        time.sleep(0.05)
    start = time.monotonic()
    assert "Signal 9" in finish(process, status=1)
    assert time.monotonic() - start < 10


def test_sigterm_writes_one_checkpoint(tmp_path: Path) -> None:
    """The signal goes to one process, as on a cluster: all stop after the same step."""
    run = Run(str(tmp_path), config={**SPLIT, "save_steps": None}, signal_at=(5, 1, signal.SIGTERM))
    output = finish(launch(run, 2), status=1)  # torchrun's own status
    assert output.count("Stopping on SIGTERM after step 6") == 1
    assert "exitcode  : 143" in output
    newest, problems = newest_checkpoint(tmp_path / "checkpoints")
    assert newest == tmp_path / "checkpoints" / "step-00000006"
    assert problems == []


def test_a_network_with_parts_that_get_no_gradient(tmp_path: Path) -> None:
    """SigLIP's pooling head: DistributedDataParallel would raise an error in the second step."""
    run = Run(str(tmp_path), "full", SPLIT, model="siglip")
    finish(launch(run, 2))
    result = torch.load(result_path(run))
    weights = result["by step"]["weights"]
    still = set(weights[0]) - moved(weights[4], weights[result["last step"]])
    assert still == {name for name in weights[0] if name.startswith("vision_model.head.")}
    assert still <= result["by step"]["frozen"][result["last step"]]


@pytest.mark.parametrize("way", ["loop", "trainer"])
@pytest.mark.parametrize("fault", ["image", "loss", "gradient"])
def test_both_processes_stop_where_one_has_no_number(tmp_path: Path, fault: str, way: str) -> None:
    """Nobody else ends them: torchrun would, as soon as one of them has ended."""
    processes = launch_unwatched(2 * [Run(str(tmp_path), config=SPLIT, fault=fault, way=way)])
    errors = "".join(finish(process, status=2) for process in processes)
    assert errors.count("error: ") == 1
    assert "is not finite in step" in errors
    assert str(FLAT) in errors or fault == "gradient"
