"""scripts/benchmark.py: its measurements, its table, and one small run."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.append(str(SCRIPTS))

from benchmark import seconds_left_out  # noqa: E402
from benchmark_peers.processes import measure  # noqa: E402
from benchmark_peers.report import tables  # noqa: E402

ABOUT = {"date": "2026-01-01", "machine": "a CPU", "versions": "torch 2", "missing": {}}
SETTINGS = {"dataset": "made", "images": {"train": 30}, "image_size": 32, "hf_tl_flags": ""}


def test_a_process_is_measured_with_its_children(tmp_path: Path) -> None:
    work = "import time; block = bytearray(b'x' * 300_000_000); end = time.process_time() + 0.5\n"
    work += "while time.process_time() < end: pass"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}], check=True); print('done')"
    start = time.perf_counter()
    measured = measure([sys.executable, "-c", program], tmp_path / "log", {})
    assert measured.status == 0
    assert 0.5 <= measured.seconds <= time.perf_counter() - start
    assert measured.cpu_seconds >= 0.5
    assert measured.peak_gib > 0.27
    assert measured.own_gib > 0.27
    assert (tmp_path / "log").read_text() == "done\n"


def test_a_failing_process_has_its_status_and_its_output(tmp_path: Path) -> None:
    measured = measure(
        [sys.executable, "-c", "import os; print(os.environ['WORD']); exit(3)"], tmp_path / "log", {"WORD": "hm"}
    )
    assert measured.status == 3
    assert (tmp_path / "log").read_text() == "hm\n"


def test_the_measuring_process_stays_small() -> None:
    # the kernel would count its memory as that of its child processes
    program = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import benchmark; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def run_of(
    seconds: float, accuracy: float = 0.9, epochs: int = 10, epochs_run: int = 10, **more: float
) -> dict[str, Any]:
    measured = {"measured_seconds": seconds, "cpu_seconds": seconds, "peak_gib": 1.0, "own_gib": 0.5}
    return {"seconds": seconds, "accuracy": accuracy, "epochs": epochs, "epochs_run": epochs_run, **measured, **more}


def row_of(work: str, kind: str, sides: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**ABOUT, "work": work, "kind": kind, "settings": SETTINGS, "sides": sides, **more}


def line_of(row: dict[str, Any], word: str) -> list[str]:
    lines = tables({row["work"]: row}).split("\n\n")[0].splitlines()
    (line,) = [line for line in lines if word in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_ratio_is_the_median_over_the_turns() -> None:
    own, other = [run_of(10), run_of(20), run_of(10)], [run_of(410), run_of(810), run_of(500, epochs_run=1)]
    line = line_of(row_of("head", "training", {"hf_tl": own, "Trainer recipe": other}), "Trainer")
    assert line[0] == "head, 10 epochs"
    assert line[3:6] == ["10.0 s (10.0–20.0)", "500 s (410–810)", "41.0 (40.5–50.0)"]
    assert line[7] == "yes"


@pytest.mark.parametrize(("seconds", "accuracy"), [(399, 0.9), (500, 0.91)])
def test_a_figure_is_missed_by_time_or_by_accuracy(seconds: float, accuracy: float) -> None:
    sides = {"hf_tl": [run_of(10)], "Trainer recipe": [run_of(seconds, accuracy)]}
    assert line_of(row_of("head", "training", sides), "Trainer")[7] == "no"


def test_a_computed_time_and_a_missing_peer_say_so() -> None:
    sides = {"hf_tl": [run_of(10)], "Trainer recipe": [run_of(500, 0.5, epochs_run=2)]}
    row = row_of("head", "training", sides, missing={"timm train.py": "its script cannot freeze"})
    line = line_of(row, "Trainer")
    assert line[4] == "500 s, computed from 2 of 10 epochs"
    assert line[6] == "90.0% / 50.0% after 2"
    assert line_of(row, "timm")[4] == "its script cannot freeze"


@pytest.mark.parametrize(("seconds", "memory", "reached"), [(40, 1.0, ["yes", "yes"]), (60, 1.2, ["no", "no"])])
def test_scaling_compares_the_sizes_without_what_is_fixed(seconds: float, memory: float, reached: list[str]) -> None:
    # 10 s of start-up, then 10 s per thousand images, or more for the last thousand
    sides = {f"{n},000 images": [run_of(10 + 10 * n)] for n in (1, 2)}
    sides["3,000 images"] = [run_of(seconds, peak_gib=memory)]
    lines = tables({"scaling": row_of("scaling", "scaling", sides)}).split("\n\n")[0].splitlines()[2:]
    assert [line.strip("| ").split("|")[-1].strip() for line in lines] == reached


def test_a_forward_is_judged_by_the_peak_of_the_machine() -> None:
    limits = {"images_per_second": 60.0, "gemm_gflops": 100.0, "share_of_peak": 0.5}
    sides = {"hf_tl": [run_of(1, **limits)], "plain PyTorch": [run_of(1, **{**limits, "images_per_second": 20.0})]}
    lite = line_of(row_of("forward_lite0", "forward", sides), "plain")
    assert (lite[2], lite[5], lite[7]) == ("60 images/s at this GEMM peak", "3.00", "yes")
    assert line_of(row_of("forward_resnet50", "forward", sides), "plain")[7] == "no"


def test_an_accuracy_after_less_training_is_not_compared() -> None:
    sides = {"hf_tl": [run_of(10)], "Trainer recipe": [run_of(500, 0.99, epochs_run=1)]}
    assert line_of(row_of("head", "training", sides), "Trainer")[7] == "in time"


def test_the_time_of_epochs_that_were_not_run_is_computed() -> None:
    # an epoch of 10 s over a quarter of the images and 3 s of evaluation, for 5 epochs: 5 x 40 + 5 x 3 in total
    assert seconds_left_out([10], [3], 5, 0.25) == 5 * 40 + 5 * 3 - 13
    # the first of two is of another kind (the head), the second represents the rest
    assert seconds_left_out([4, 8], [1, 1], 3, 0.5) == (8 + 1) + 2 * (16 + 1) - 14
    assert seconds_left_out([7, 8], [1, 1], 2, 1) == 0


def test_starts_are_compared_by_turn() -> None:
    first, again, other = (run_of(seconds, images=100_000, start_cpu_seconds=1) for seconds in (10.0, 2.0, 1.0))
    sides = {"hf_tl, first": [first], "hf_tl, again": [again], "torchvision ImageFolder, again": [other]}
    row = row_of("start", "start", sides)
    lines = tables({"start": row}).split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [line[7] for line in cells] == ["no", "no", "yes", "yes"]
    assert cells[2][:6] == [
        *("start on 100,000 images, again", "torchvision ImageFolder", "at most 2 s"),
        *("2.00 s, CPU 1.0 s", "1.00 s, CPU 1.0 s", "0.50"),
    ]  # fmt: skip


def test_a_start_is_timed(tmp_path: Path) -> None:
    program = [sys.executable, str(SCRIPTS / "benchmark_peers" / "start.py")]
    subprocess.run([*program, "make", str(tmp_path / "images"), "--images", "700"], check=True)
    for turn in ("first", "again"):
        places = ["--cache", str(tmp_path / "cache"), "--output_dir", str(tmp_path / turn)]
        subprocess.run([*program, "hf_tl", str(tmp_path / "images"), *places], check=True)
        result = json.loads((tmp_path / turn / "result.json").read_text())
        assert result["images"] == 700
        assert result["seconds"] > 0
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 2


@pytest.mark.slow
def test_a_small_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("validation", 4), ("test", 4)):
        for number in range(count):
            path = tmp_path / "images" / split / ("ab"[number % 2]) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    command = [sys.executable, str(SCRIPTS / "benchmark.py"), "--only", "head", "forward_lite0", "--repeats", "1"]
    command += ["--epochs", "2", "--peer_epochs", "0.5", "--image_size", "32", "--seconds", "0.2"]
    command += ["--dataset", "images", "--output", "results.json", "--report_to", "none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "results.json").read_text())
    for name in ("hf_tl", "Trainer recipe", "Trainer recipe, same memory setting"):
        (run,) = rows["head"]["sides"][name]
        assert 0 <= run["accuracy"] <= 1
        assert 0.1 < run["peak_gib"] < 4
        assert 0.1 < run["own_gib"] < 4
        assert run["measured_seconds"] > 1
    peer = rows["head"]["sides"]["Trainer recipe"][0]
    (train,), (evaluate,) = peer["train_seconds"], peer["evaluate_seconds"]
    assert peer["seconds"] == pytest.approx(
        peer["measured_seconds"] + 3 * train + evaluate
    )  # 2 epochs, half of one run
    assert 0 < peer["start_up_seconds"] < peer["measured_seconds"] - train - evaluate
    fast = rows["forward_lite0"]["sides"]["hf_tl"][0]
    assert fast["gflop_per_image"] == pytest.approx(0.77 * (32 / 224) ** 2, rel=0.1)
    assert 0 < fast["share_of_peak"] < 1
    assert "| head, 2 epochs | Trainer recipe |" in done.stdout
    assert str(tmp_path) not in json.dumps(rows) + done.stdout
