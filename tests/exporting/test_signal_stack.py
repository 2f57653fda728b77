"""Signals reach handlers in Python after OpenVINO was used: its alternate stack for signals is not left behind."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PROGRAM = """
import faulthandler, gc, os, signal, sys

faulthandler.enable()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
"""
OPENED = """
from pathlib import Path
from hf_tl.runtime.runners import RUNTIMES

first, second = (RUNTIMES["openvino"].open(Path(sys.argv[1], "model.xml")) for _ in range(2))
del first
gc.collect()
del second
"""
EXPORTED = """
import hf_tl

hf_tl.export(sys.argv[2], "openvino", sys.argv[4], dataset=sys.argv[3], int8=True)
"""
SIGNALED = """
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.fixture(scope="module")
def exported(timm_folder: Path, colors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("nncf")
    import hf_tl

    return Path(hf_tl.export(timm_folder, "openvino", tmp_path_factory.mktemp("out") / "openvino", dataset=str(colors)))


@pytest.mark.parametrize("use", [OPENED, EXPORTED, EXPORTED + OPENED], ids=["opened", "exported", "both"])
def test_a_signal_is_handled_after_openvino(
    exported: Path, timm_folder: Path, colors: Path, tmp_path: Path, use: str
) -> None:
    words = [sys.executable, "-c", PROGRAM + use + SIGNALED, exported, timm_folder, colors, tmp_path / "new"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
