"""`--strategy auto` in two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from auto.inputs import AUTO, RECIPE, Inputs, printed_by, read, shuffled
from cli.runs import REPOSITORY, SMALL


def two_processes(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    # with more frequent checks, torchrun would end the second process before it ends by itself
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--monitor_interval=5"]
    launcher += ["-m", "hf_tl", "train"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(
        [sys.executable, *launcher, *arguments], env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.mark.slow
def test_two_processes_compute_the_recommendation_once(inputs: Inputs, auto: tuple[Path, str], tmp_path: Path) -> None:
    flags = [*inputs.flags(), *AUTO, "--per_device_train_batch_size", "4", "--output_dir", str(tmp_path / "out")]
    done = two_processes(flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Measuring 2 backbones") == 1
    record, alone = read(tmp_path / "out"), read(auto[0])
    assert record["hyperparameters"]["processes"] == 2
    assert record["recommendation"]["backbone"] == alone["recommendation"]["backbone"]
    assert [rung["is_kept"] for rung in record["rungs"]] == [rung["is_kept"] for rung in alone["rungs"]]


@pytest.mark.slow
def test_one_of_two_processes_tries_the_strategies_as_a_single_one_does(inputs: Inputs, tmp_path: Path) -> None:
    """The other one waits, and takes part in the training that follows."""
    flags = ["--model", inputs.models[0], "--dataset", inputs.images, "--strategy", "auto", *RECIPE, *SMALL]
    advice = tmp_path / "advice"
    model = ["--model", inputs.models[0], "--dataset", inputs.images]
    printed_by(["recommend", *model, "--feature_cache", "off", "--output_dir", str(advice)])
    expected = json.loads((advice / "recommendation.json").read_text())["trials"]["results"]
    assert len([trial for trial in expected if trial["is_finalist"]]) == 2
    done = two_processes([*flags, "--per_device_train_batch_size", "4", "--output_dir", str(tmp_path / "out")])
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Trying ") == 1
    record = read(tmp_path / "out")
    for trial, alone in zip(record["recommendation"]["trials"]["results"], expected, strict=True):
        assert {**trial, "seconds": 0} == {**alone, "seconds": 0}
    assert record["hyperparameters"]["processes"] == 2
    assert record["refit"] is not None


@pytest.mark.slow
def test_what_cannot_be_learned_ends_both_processes(inputs: Inputs, tmp_path: Path) -> None:
    data = shuffled(tmp_path / "shuffled")
    flags = ["--model", inputs.models[0], "--dataset", str(data), *AUTO, "--output_dir", str(tmp_path / "out")]
    done = two_processes(flags)
    assert done.returncode == 1  # torchrun's own status
    assert done.stderr.count("--strategy auto recommends no training") == 1
    assert done.stderr.count("exitcode  : 2 ") == 2
    assert not (tmp_path / "out").exists()
