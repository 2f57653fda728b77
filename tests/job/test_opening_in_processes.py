"""Several processes that open the same images: one of them reads the images, and an error reaches all."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from data.pictures import picture

PROGRAM = """
import json, os, sys
from pathlib import Path
opened = []
sys.addaudithook(lambda event, arguments: event == "open" and opened.append(str(arguments[0])))
from accelerate import Accelerator
from hf_tl.config import DataConfig, TrainingConfig
from hf_tl.errors import DataError
from hf_tl.job.opening import open_data
from hf_tl.processes.together import node_by_node
from hf_tl.record import LearnedFrom

folder, output = Path(sys.argv[1]), Path(sys.argv[2])
accelerator = Accelerator(cpu=True)
result = {}
try:
    data, _ = open_data(accelerator, str(folder), DataConfig(), TrainingConfig(), LearnedFrom())
    result["fingerprint"] = data.fingerprint
except DataError as error:
    result["error"] = str(error)
result["opened"] = sum(name.endswith(".png") for name in opened)


def fail_last():
    if not accelerator.is_local_main_process:
        raise DataError("the last one failed")


try:
    node_by_node(accelerator, fail_last)
except DataError as error:
    result["failure"] = str(error)
(output / f"{accelerator.process_index}.json").write_text(json.dumps(result))
accelerator.end_training()
"""


def open_in_two_processes(folder: Path, output: Path) -> list[dict[str, object]]:
    output.mkdir()
    (output / "program.py").write_text(PROGRAM)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command = [*launcher, "--master_port", str(29950 + os.getpid() % 40), str(output / "program.py")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_TL_CACHE": str(folder.parent / "kept")}
    done = subprocess.run(
        [*command, str(folder), str(output)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads((output / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    then = time.time() - 3600
    for number in range(20):
        file = tmp_path / "pets" / ("cat" if number % 2 else "dog") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(file)
        os.utime(file, (then, then))
    return tmp_path / "pets"


def test_one_process_reads_the_images_and_an_error_reaches_all(folder: Path, tmp_path: Path) -> None:
    first, second = open_in_two_processes(folder, tmp_path / "good")
    assert first["fingerprint"] == second["fingerprint"]
    assert first["opened"] >= 40
    assert second["opened"] == 0
    assert first["failure"] == second["failure"] == "the last one failed"
    damaged = folder / "cat" / "3.png"
    damaged.write_bytes(damaged.read_bytes()[:50])
    outcomes = open_in_two_processes(folder, tmp_path / "damaged")
    assert all("1 images cannot be used" in str(outcome["error"]) for outcome in outcomes)
    assert outcomes[1]["opened"] == 0
