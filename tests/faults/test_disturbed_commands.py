"""Commands on a disk that fills up or fails at any write, and commands that are killed at any moment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults.commands import COMMANDS
from faults.write_faults import compile_library, compiler
from parts import parts

pytestmark = pytest.mark.skipif(
    compiler() is None or not sys.platform.startswith("linux"), reason="needs a C compiler, on Linux"
)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_library(tmp_path_factory.mktemp("library"))


def disturb(library: Path, folder: Path, *options: str) -> None:
    """Run the script, and check that no command ended in another way than it must."""
    script = str(Path(__file__).with_name("disturbed_commands.py"))
    done = subprocess.run(
        [sys.executable, script, str(folder), *options],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 failed" in done.stdout


def test_commands_on_a_disk_that_fails_or_killed(library: Path, tmp_path: Path) -> None:
    disturb(library, tmp_path, "--commands", "train", "predict", "--faults", "4", "--signals", "2")


@pytest.mark.parametrize("part", parts(10, plain=0))
def test_a_disk_that_is_full_at_each_of_the_first_200_writes_of_a_training(
    library: Path, tmp_path: Path, part: int
) -> None:
    disturb(library, tmp_path, "--commands", "train", "--each", f"{20 * part + 1}", f"{20 * part + 20}")


@pytest.mark.parametrize("part", parts(2, plain=0))
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_on_a_disk_that_fails(library: Path, tmp_path: Path, command: str, part: int) -> None:
    disturb(library, tmp_path, "--commands", command, "--faults", "8", "--seed", f"{part}")


@pytest.mark.parametrize("part", parts(3, plain=0))
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_killed_at_random_moments(library: Path, tmp_path: Path, command: str, part: int) -> None:
    disturb(library, tmp_path, "--commands", command, "--signals", "8", "--seed", f"{part}")
