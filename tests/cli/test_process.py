"""The process of a command: unknown commands, and how it ends."""

import os
import signal
import subprocess
import sys

import pytest
from cli.runs import REPOSITORY, fails

from hf_tl.cli import ERROR_STATUS, INTERRUPTED_STATUS, main
from hf_tl.errors import TERMINATED_STATUS


def test_the_overview_and_the_nearest_command_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert "hf-tl COMMAND" in capsys.readouterr().out
    assert "unknown command 'trian'; did you mean train?" in fails(["trian"], capsys)


LEAVING = """
import atexit, sys
from hf_tl.__main__ import command

class Library:
    def __del__(self):
        print("freed")

class Words(list):
    # stands for a library that asks, in the middle of a command, to be closed at the end
    def __getitem__(self, place):
        if not atexit_is_set:
            atexit_is_set.append(atexit.register(print, "closed"))
        return super().__getitem__(place)

library, atexit_is_set = Library(), []
sys.argv = Words(sys.argv)
command()
"""


@pytest.mark.parametrize(
    ("words", "rank", "status", "ends"),
    [
        (["--help"], {}, 0, ["closed"]),
        (["trian"], {}, ERROR_STATUS, ["closed", "freed"]),
        (["trian"], {"RANK": "1"}, ERROR_STATUS, ["closed"]),
    ],
)
def test_the_process_ends_without_freeing_its_objects(
    words: list[str], rank: dict[str, str], status: int, ends: list[str]
) -> None:
    """Exit handlers of libraries run, and output is flushed; an error has its status."""
    command = [sys.executable, "-c", LEAVING, *words]
    done = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **rank}, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert done.stdout.splitlines()[-len(ends) :] == ends
    assert ("usage: hf-tl" in done.stdout) == (status == 0)


SWALLOWING = """
import os, sys, time
from hf_tl.__main__ import command

class Words(list):
    # stands for a library whose compiled code answers any exception in a callback with an error of its own
    def __getitem__(self, place):
        try:
            os.kill(os.getpid(), int(os.environ["SENT"]))
            time.sleep(10)
        except BaseException:
            raise ValueError("could not determine the shape") from None

sys.argv = Words(sys.argv)
command()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to handle")
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, TERMINATED_STATUS), (signal.SIGINT, INTERRUPTED_STATUS)])
def test_a_library_cannot_turn_a_signal_into_an_error(sent: signal.Signals, status: int) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "RANK"} | {"SENT": f"{int(sent)}"}
    command = [sys.executable, "-c", SWALLOWING, "presets"]
    done = subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
