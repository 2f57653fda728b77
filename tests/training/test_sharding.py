"""FSDP2 in the loop: two sharded processes (torchrun, gloo) train like DistributedDataParallel."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training.launched_runs import FSDP, launch, launch_all, read_result, result_path
from training.small_runs import Run, differences, moved, resumed

from hf_tl.backbones.load import load
from hf_tl.config import TrainingConfig
from hf_tl.errors import ConfigError
from hf_tl.processes.accelerator import make_accelerator
from hf_tl.record import read_record

SPLIT = {"per_device_train_batch_size": 2, "save_steps": 1}
CACHED = {"feature_cache": "on"}


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    output, errors = process.communicate(timeout=900)
    assert process.returncode == status, errors[:3000]
    return output + errors


@dataclass(frozen=True)
class Case:
    """A run of two processes that is compared with the same run of two processes with whole models."""

    phases: str
    model: str = "resnet"
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    prefix: tuple[bool, ...] = ()
    """Whether the frozen part of each phase runs apart from the rest, in each step or cached."""
    tolerance: float = 1e-5
    """Largest distance of weights, and a tenth of that of losses. AdamW turns a rounding error into a step where a
    gradient is almost zero."""
    steps: int | None = None
    """Last step at which weights are compared; None for all."""


MIXED, STAGED = (True, True, False, True), (True, True, True, False)
CASES = {
    "augmented": Case("all kept", prefix=MIXED),
    "cached": Case("unfreezing", config=CACHED, prefix=STAGED),
    "augmented ViT": Case("all kept", "vit", prefix=MIXED, tolerance=1e-4),
    "cached ViT": Case("unfreezing", "vit", CACHED, prefix=STAGED, tolerance=1e-4),
    "in the shards": Case("all kept", config={"feature_cache": "off"}, prefix=(False,) * 4),
    "adapted": Case("adapted alone", prefix=(True, True)),
    "solved": Case("solved", prefix=(True, True), tolerance=1e-4),
    "checkpointed": Case("all kept", config={"gradient_checkpointing": True}, prefix=MIXED),
    "accumulated": Case("all kept", config={"gradient_accumulation_steps": 2}, prefix=MIXED),
    "compiled": Case("all kept", environment={"ACCELERATE_DYNAMO_BACKEND": "aot_eager"}, prefix=(False,) * 4),
    "compiled and cached": Case(
        "unfreezing", config=CACHED, environment={"ACCELERATE_DYNAMO_BACKEND": "aot_eager"}, prefix=STAGED
    ),
    "bf16": Case(
        "all kept", environment={"ACCELERATE_MIXED_PRECISION": "bf16"}, prefix=MIXED, tolerance=1e-3, steps=10
    ),
}
SHAPES = ("whole", "sharded")


def run_of(folder: Path, name: str, shape: str) -> Run:
    case, output = CASES[name], folder / name / shape
    caches = {"feature_cache_dir": str(output / "features")}
    return Run(str(output), case.phases, {**SPLIT, **caches, **case.config}, dropout=0, model=case.model)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train all cases, in two processes that start once."""
    folder = tmp_path_factory.mktemp("cases")
    runs = [
        (run_of(folder, name, shape), {**case.environment, **fsdp})
        for name, case in CASES.items()
        for shape, fsdp in zip(SHAPES, ({}, FSDP), strict=True)
    ]
    for run, _ in runs:
        Path(run.output).mkdir(parents=True)
    finish(launch_all(runs, 2))
    return folder


def distance(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the norm of the difference of all weights, relative to their norm."""
    assert weights.keys() == expected.keys()
    squares = [(weights[name].double() - tensor.double()).square().sum() for name, tensor in expected.items()]
    return float((sum(squares) / sum(tensor.double().square().sum() for tensor in expected.values())) ** 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_sharded_processes_do_as_replicated_ones(finished: Path, name: str) -> None:
    case, (whole, parts) = CASES[name], (run_of(finished, name, shape) for shape in SHAPES)
    replicated, sharded, second = (
        torch.load(path) for path in (*map(result_path, (whole, parts)), result_path(parts, 1))
    )
    assert sharded["last step"] == replicated["last step"]
    for step, expected in replicated["by step"]["weights"].items():
        if case.steps is not None and step > case.steps:
            break
        weights = sharded["by step"]["weights"][step]
        assert not moved(weights, second["by step"]["weights"][step]), step
        assert distance(weights, expected) <= case.tolerance, step
        assert sharded["by step"]["frozen"].get(step) == replicated["by step"]["frozen"].get(step)
    if case.steps is None:
        assert distance(sharded["best weights"], replicated["best weights"]) <= case.tolerance
    for a, b in zip(replicated["log"]["history"], sharded["log"]["history"], strict=True):
        assert b["validation"]["loss"] == pytest.approx(a["validation"]["loss"], rel=10 * case.tolerance)
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=10 * case.tolerance)
    phases = sharded["log"]["phases"]
    assert tuple(phase["frozen_precision"] is not None for phase in phases) == case.prefix
    assert [phase["parameters_trained"] for phase in phases] == [
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
