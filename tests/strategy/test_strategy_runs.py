"""A run of each strategy, with the recipe in its record and card."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from cli.runs import REPOSITORY, TINY, write_images
from safetensors.torch import load_file

from hf_tl.cli import ERROR_STATUS, main
from hf_tl.record import read_record
from hf_tl.strategy import Strategy


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "colors"
    write_images(folder / "train", 8)
    write_images(folder / "test", 2)
    return folder


BATCH = ["--per_device_train_batch_size", "8", "--save_total_limit", "0"]


@pytest.mark.parametrize(
    ("flags", "trained"),
    [
        (["--strategy", "gradual", "--trainable_stages", "3", "--num_train_epochs", "2"], [1, 2, 3]),
        (["--strategy", "full", "--mixup", "0.2", "--ema_decay", "0.9"], [6]),
        (["--strategy", "scratch", "--cutmix", "1", "--class_weights", "balanced", "--test_time_flip"], [6]),
        (["--strategy", "transfer", "--balanced_sampling", "--find_learning_rate"], [1]),
    ],
)
def test_a_run_of_each_strategy(flags: list[str], trained: list[int], colors: Path, tmp_path: Path) -> None:
    epochs = [] if "--num_train_epochs" in flags else ["--num_train_epochs", "1"]
    main(["train", *TINY, "--dataset", str(colors), *BATCH, *epochs, *flags, "--output_dir", str(tmp_path / "out")])
    record, card = read_record(tmp_path / "out"), (tmp_path / "out" / "README.md").read_text()
    assert {entry["phase"] for entry in record.history} == set(range(len(trained)))
    assert record.best is not None
    assert [len(phase.trained_stages) for phase in record.phases] == trained[: record.best["phase"] + 1]
    assert Strategy.from_record(json.loads(json.dumps(record.strategy.to_record()))) == record.strategy
    for flag, text in {
        "--mixup": "mixup 0.2", "--ema_decay": "ema decay 0.9", "--cutmix": "cutmix 1.0",
        "--class_weights": "class weights balanced",
        "--balanced_sampling": "balanced sampling", "--test_time_flip": "test time augmentation: horizontal flip",
        "--find_learning_rate": "of held-out losses",
    }.items():  # fmt: skip
        assert (text in card) == (flag in flags), flag


def test_a_run_of_phases_from_a_yaml_config(colors: Path, tmp_path: Path) -> None:
    config = {
        "phases": [
            {"trainable_stages": 1, "steps": 2, "augmentation": "none"},
            {"trainable_stages": ["layer4"], "epochs": 0.5, "batch_norm": "keep"},
        ],
        "dataset": str(colors),
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    main(["train", *TINY, *BATCH, "--config", str(tmp_path / "run.yaml"), "--output_dir", str(tmp_path / "out")])
    record = read_record(tmp_path / "out")
    assert record.strategy.name == "custom"
    assert [phase.steps for phase in record.phases] == [2, 2]
    assert [phase.trained_stages for phase in record.phases] == [("head",), ("layer4", "head")]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| 1 | `head` | 291 | 2 steps |" in card
    assert "- phase 2: " in card
    assert "BatchNorm of trained stages keeps its statistics" in card


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mixup", "0.1", "--per_device_train_batch_size", "5"], "must be even, found 5"),
        (["--test_time_flip", "--horizontal_flip", "false"], "averages the logits of an image and its mirror image"),
        (["--phases", "[{trainable_stages: 70, epochs: 1}]"], "expected 1 to 6 trainable stages"),
    ],
)
def test_runs_that_are_refused(
    flags: list[str], message: str, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", *TINY, "--dataset", str(colors), *flags, "--output_dir", str(tmp_path / "out")])
    assert stop.value.code == ERROR_STATUS
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_mix_average_and_weigh_as_one(colors: Path, tmp_path: Path) -> None:
    """The same global batch: with frozen batch statistics, nothing depends on how it is split."""
    flags = [*TINY, "--dataset", str(colors), "--strategy", "full", "--batch_norm", "keep", "--num_train_epochs", "2"]
    flags += ["--mixup", "0.4", "--cutmix", "1", "--ema_decay", "0.9", "--class_weights", "balanced"]
    flags += ["--balanced_sampling", "--test_time_flip"]
    weights, records = [], []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        launcher += ["--master_port", str(29300 + os.getpid() % 300), str(REPOSITORY / "scripts" / "train.py")]
        batch = ["--per_device_train_batch_size", str(8 // processes), "--output_dir", str(folder)]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        subprocess.run([*launcher, *flags, *batch], env=environment, check=True, capture_output=True)
        records.append(read_record(folder))
        weights.append(load_file(folder / "model.safetensors"))
    assert [record.hyperparameters["processes"] for record in records] == [1, 2]
    assert records[0].measured["test"].metrics["accuracy"] == records[1].measured["test"].metrics["accuracy"]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-5)
