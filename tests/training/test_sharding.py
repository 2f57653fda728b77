"""FSDP2 in the loop: two sharded processes (torchrun, gloo) train like DistributedDataParallel."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training.small_runs import Run, differences, launch, moved, read_result, result_path, resumed

from hf_tl.backbones.load import load
from hf_tl.config import TrainingConfig
from hf_tl.errors import ConfigError
from hf_tl.processes.accelerator import make_accelerator
from hf_tl.record import read_record

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
SPLIT = {"per_device_train_batch_size": 2, "save_steps": 1}


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    output, errors = process.communicate(timeout=240)
    assert process.returncode == status, errors[:3000]
    return output + errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phases", "config", "environment", "tolerance", "steps"),
    [
        ("all kept", {}, {}, 1e-5, None),
        ("adapted alone", {}, {}, 1e-5, None),
        ("all kept", {"gradient_checkpointing": True}, {}, 1e-5, None),
        ("all kept", {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}, {}, 1e-5, None),
        ("all kept", {}, {"ACCELERATE_DYNAMO_BACKEND": "aot_eager"}, 1e-5, None),
        # AdamW turns the sign of a small gradient, which bf16 rounding changes, into a step
        ("all kept", {}, {"ACCELERATE_MIXED_PRECISION": "bf16"}, 1e-3, 10),
    ],
    ids=["plain", "adapted", "checkpointed", "accumulated", "compiled", "bf16"],
)
def test_sharded_processes_do_as_replicated_ones(
    tmp_path: Path,
    phases: str,
    config: dict[str, Any],
    environment: dict[str, str],
    tolerance: float,
    steps: int | None,
) -> None:
    runs = [Run(str(tmp_path / name), phases, {**SPLIT, **config}, dropout=0) for name in ("whole", "sharded")]
    for run, fsdp in zip(runs, ({}, FSDP), strict=True):
        Path(run.output).mkdir()
        finish(launch(run, 2, {**environment, **fsdp}))
    replicated, sharded, second = *map(torch.load, map(result_path, runs)), torch.load(result_path(runs[1], 1))
    assert sharded["last step"] == replicated["last step"]
    for step, expected in replicated["by step"]["weights"].items():
        if steps is not None and step > steps:
            break
        weights = sharded["by step"]["weights"][step]
        assert not moved(weights, second["by step"]["weights"][step]), step
        assert weights.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(weights[name], tensor, atol=tolerance, rtol=0, msg=f"{step}: {name}")
        assert sharded["by step"]["frozen"].get(step) == replicated["by step"]["frozen"].get(step)
    for name, tensor in replicated["best weights"].items():
        torch.testing.assert_close(sharded["best weights"][name], tensor, atol=tolerance, rtol=0, msg=name)
    for a, b in zip(replicated["log"]["history"], sharded["log"]["history"], strict=True):
        assert b["validation"]["loss"] == pytest.approx(a["validation"]["loss"], rel=10 * tolerance)
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=10 * tolerance)
    assert [phase["parameters_trained"] for phase in sharded["log"]["phases"]] == [
        phase["parameters_trained"] for phase in replicated["log"]["phases"]
    ]
    # each process holds about half, including the optimizer state
    parameters = replicated["by step"]["held"]
    assert all(0.4 * parameters < result["by step"]["held"] < 0.6 * parameters for result in (sharded, second))


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{}, {"ACCELERATE_MIXED_PRECISION": "bf16"}], ids=["float32", "bf16"])
def test_sharded_processes_resume_bit_by_bit(tmp_path: Path, environment: dict[str, str]) -> None:
    """The run has dropout, weight averaging, and phases with different numbers of frozen stages."""
    environment = {**FSDP, **environment}
    run = Run(str(tmp_path / "a"), "all kept", SPLIT)
    Path(run.output).mkdir()
    finish(launch(run, 2, environment))
    killed = replace(run, output=str(tmp_path / "b"), signal_at=(6, 1, signal.SIGKILL))
    Path(killed.output).mkdir()
    finish(launch(killed, 2, environment), status=1)
    going_on = replace(resumed(killed), signal_at=(10, 0, signal.SIGKILL))
    finish(launch(going_on, 2, environment), status=1)
    last = replace(resumed(going_on), signal_at=None)
    finish(launch(last, 2, environment))
    for rank in range(2):
        assert differences(read_result(run, rank), read_result(last, rank)) == [], rank
    assert "sharded was True, now False" in finish(launch(resumed(run), 2), status=1)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_sharded_processes_stop_where_one_has_no_number(tmp_path: Path, fault: str) -> None:
    errors = finish(launch(Run(str(tmp_path), "all kept", SPLIT, fault=fault), 2, FSDP), status=1)
    assert errors.count("error: ") == 1
    assert "is not finite in step" in errors


@pytest.mark.slow
def test_accelerate_launch_shards_a_whole_run(tmp_path: Path) -> None:
    """Also on a machine without GPUs, where accelerate alone would ignore FSDP."""
    launcher = ["-m", "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2", "--num_processes", "2"]
    model = ["--model", "timm:test_vit", "--no_pretrained", "--image_size", "32", "--dataset", "digits"]
    recipe = ["--strategy", "finetune", "--trainable_stages", "3", "--num_train_epochs", "1", "--report_to", "none"]
    command = [sys.executable, *launcher, "--main_process_port", "0", "-m", "hf_tl", "train", *model, *recipe]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "out")], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = read_record(tmp_path / "out")
    assert record.hyperparameters["processes"] == 2
    assert record.hyperparameters["sharding"] == "FSDP2"
    assert type(load(str(tmp_path / "out"))[0]).__name__ == "TimmWrapperForImageClassification"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, r"found FSDP1, .*--fsdp_version 2"),
        ({**FSDP, "FSDP_OFFLOAD_PARAMS": "true"}, "leave out --fsdp_offload_params"),
        ({**FSDP, "FSDP_RESHARD_AFTER_FORWARD": "false"}, "leave out --fsdp_reshard_after_forward false"),
        (FSDP, "FSDP needs several processes, found one"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "does not support DEEPSPEED, .*FSDP2"),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}, "expected several processes, .* found one"),
    ],
)
def test_unsupported_settings_of_the_launcher_are_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    """The variables are those of accelerate launch."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        make_accelerator(TrainingConfig(report_to="none"))


@pytest.mark.slow
def test_accelerate_launch_that_drops_processes_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "hf_tl"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*command, "train", "--dataset", "digits", "--output_dir", str(tmp_path / "out")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "expected several processes, as the launcher requests, found one" in done.stderr
    assert not (tmp_path / "out").exists()
