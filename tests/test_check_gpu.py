"""The check of a machine with a GPU, on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
from check_gpu import Deadline, compared, write_images  # noqa: E402


def test_a_command_that_takes_too_long_is_ended() -> None:
    result = Deadline(0).run([sys.executable, "-c", "import time; time.sleep(60)"])
    assert result["status"] == "no time left"
    assert result["seconds"] < 30


def test_a_command_that_fails_shows_what_it_printed() -> None:
    result = Deadline(1).run([sys.executable, "-c", "print('before'); raise SystemExit(3)"])
    assert (result["status"], result["output"]) == (3, "before\n")


def test_rates_of_too_short_runs_are_unknown() -> None:
    assert compared(100, 2.0, 100.0) == {"hf_tl": 50.0, "bare": 100.0, "share": 0.5}
    assert compared(100, -0.1, 100.0) == {"hf_tl": None, "bare": 100.0, "share": None}


def test_images_are_split_by_class(tmp_path: Path) -> None:
    write_images(tmp_path, 160)
    counts = {split.name: len([*split.rglob("*.jpg")]) for split in tmp_path.iterdir()}
    assert counts == {"train": 128, "validation": 16, "test": 16}
    assert len([*(tmp_path / "train").iterdir()]) == 8


@pytest.mark.slow
def test_the_whole_check(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "check_gpu.py"), "--output", str(tmp_path / "gpu.json")]
    command += [
        "--backbones",
        "test_resnet",
        "--images",
        "200",
        "--image_size",
        "64",
        "--batch_size",
        "16",
        "--minutes",
        "60",
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    results = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
    assert results["default training"]["status"] == 0
    assert results["default training"]["missing files"] == []
    assert results["rates"]["test_resnet"].keys() == {"features", "fine-tuning"}
