"""A run that is killed, or fails, at any moment after its last optimizer step leaves a model that loads."""

import subprocess
import sys
from pathlib import Path

import pytest


def disturb(folder: Path, kills: int, exceptions: int) -> None:
    script = str(Path(__file__).with_name("interrupted_runs.py"))
    counts = ["--kills", str(kills), "--exceptions", str(exceptions)]
    done = subprocess.run([sys.executable, script, str(folder), *counts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills + exceptions} runs disturbed, 0 without a model" in done.stdout


def test_six_random_moments(tmp_path: Path) -> None:
    disturb(tmp_path, 3, 3)


@pytest.mark.slow
def test_a_hundred_random_moments(tmp_path: Path) -> None:
    disturb(tmp_path, 50, 50)
