"""Nothing is sent on import and by commands that need no network: sockets are watched in fresh processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
WATCH = """
import os, socket

def refuse(name):
    def refused(*arguments, **options):
        with open(os.environ["SENT"], "a") as file:
            file.write(f"{name} {arguments[-1]}\\n")
        raise OSError("the network is off")
    return refused

class Watched(socket.socket):
    def connect(self, address):
        return super().connect(address) if self.family == socket.AF_UNIX else refuse("connect")(address)

    def connect_ex(self, address):
        return super().connect_ex(address) if self.family == socket.AF_UNIX else refuse("connect")(address)

    def sendto(self, *arguments):
        return super().sendto(*arguments) if self.family == socket.AF_UNIX else refuse("send")(*arguments)

socket.socket = Watched
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo"):
    setattr(socket, name, refuse(name))
"""
"""Code that refuses connections and look-ups of names and writes each into a file, for an import at the start."""
IMPORTS = """
import importlib, pkgutil, sys
import hf_tl
names = [module.name for module in pkgutil.walk_packages(hf_tl.__path__, "hf_tl.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def sent(arguments: list[str], folder: Path) -> tuple[str, list[str]]:
    """Run Python with watched sockets, and return its output and what it tried to send."""
    (folder / "sitecustomize.py").write_text(WATCH)
    (folder / "sent.txt").touch()
    variables = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    variables |= {"PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}", "SENT": str(folder / "sent.txt")}
    variables |= {"HF_HOME": str(folder), "HF_TL_CACHE": str(folder)}
    done = subprocess.run([sys.executable, *arguments], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, (folder / "sent.txt").read_text().splitlines()


def test_importing_every_module_sends_nothing(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    output, addresses = sent(["-c", IMPORTS], tmp_path)
    assert int(output.splitlines()[-1]) > 200, "all modules"
    assert not addresses


@pytest.mark.parametrize("words", [["--help"], ["doctor"], ["presets"], ["cache"], ["train", "--help"]], ids=" ".join)
def test_commands_that_need_no_network_send_nothing(tmp_path: Path, words: list[str]) -> None:
    output, addresses = sent(["-m", "hf_tl", *words], tmp_path)
    assert output
    assert not addresses


def test_doctor_asks_the_hub_with_the_flag(tmp_path: Path) -> None:
    output, addresses = sent(["-m", "hf_tl", "doctor", "--hub"], tmp_path)
    assert "cannot be reached" in output
    assert addresses, "the watch sees what is sent"
