"""The configurations of scripts/accelerate, started by accelerate itself."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from accelerate.commands.config.config_args import load_config_from_file
from PIL import Image
from ports import free_port

from hf_tl.record import read_record

PROJECT = Path(__file__).parents[2]
CONFIGS = sorted((PROJECT / "scripts" / "accelerate").glob("*.yaml"))
MACHINES = "two_machines"
TWO = dict.fromkeys(("ddp", "bf16", "fsdp2", MACHINES), ("--num_processes", "2"))
"""Number of processes in a test, on a machine without GPUs."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, chance = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for number in range(20):
            Image.fromarray(chance.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / label / f"{number}.png")
    return folder


def start(config: Path, photos: Path, output: Path, further: Sequence[str] = ()) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    words += [*TWO.get(config.stem, ()), *further, str(PROJECT / "scripts" / "train.py")]
    words += ["--dataset", str(photos), "--output_dir", str(output), "--model", "timm:test_resnet", "--pretrained"]
    words += ["false", "--strategy", "scratch", "--num_train_epochs", "1", "--image_size", "32", "--report_to", "none"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=output.parent)


def finish(processes: Sequence[subprocess.Popen[str]]) -> None:
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs[0][-3000:]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda file: file.stem)
def test_accelerate_knows_every_key(config: Path) -> None:
    assert load_config_from_file(str(config)).num_processes >= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", [file for file in CONFIGS if file.stem != "two_machines"], ids=lambda file: file.stem
)
def test_a_configuration_trains(config: Path, photos: Path, tmp_path: Path) -> None:
    finish([start(config, photos, tmp_path / "model")])
    record = read_record(tmp_path / "model")
    assert record.hyperparameters["processes"] == int(TWO.get(config.stem, ("", "1"))[1])


@pytest.mark.slow
def test_two_machines_train(photos: Path, tmp_path: Path) -> None:
    config = next(file for file in CONFIGS if file.stem == MACHINES)
    address = ("--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port()))
    finish([start(config, photos, tmp_path / "model", (*address, "--machine_rank", rank)) for rank in ("0", "1")])
    assert read_record(tmp_path / "model").hyperparameters["processes"] == 2
