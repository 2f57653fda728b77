"""Predictions of many images: interrupted commands continue, processes share the work, and each image is once."""

import csv
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from backbones.checkpoints import save_timm, timm_network
from PIL import Image
from ports import free_port

from hf_tl.cli import main
from hf_tl.predicting.inputs import NamedImage
from hf_tl.predicting.parts import IMAGES, Parts, share_of
from hf_tl.predicting.predict import Predictor, Returned
from hf_tl.predicting.result import Prediction, TableFormat

COMMAND = [sys.executable, "-m", "hf_tl", "predict"]
COUNT = 4 * IMAGES + 7


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(COUNT):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number:05d}.png")
    (folder / "00700.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm(timm_network(), tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def expected(model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    table = tmp_path_factory.mktemp("expected") / "table.csv"
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(model), str(photos), "--output", str(table)])
    assert stop.value.code == 3
    rows = list(csv.DictReader(table.open()))
    assert [Path(row["image"]).name for row in rows] == sorted(path.name for path in photos.iterdir())
    assert [bool(row["error"]) for row in rows].count(True) == 1
    assert not table.with_name("table.csv.parts").exists()
    return table.read_text()


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_killed_command_continues(model: Path, photos: Path, expected: str, tmp_path: Path, kills: int) -> None:
    table, parts = tmp_path / "table.csv", tmp_path / "table.csv.parts"
    words = [*COMMAND, str(model), str(photos), "--output", str(table)]
    for kill in range(kills):
        process = subprocess.Popen(words, stderr=subprocess.PIPE)
        wanted = min(kill + 1, COUNT // IMAGES)
        while len(list(parts.glob("*.jsonl"))) < wanted and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not table.exists()
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert f"Continuing {table}: " in done.stdout + done.stderr
    assert table.read_text() == expected
    assert not parts.exists()


def test_two_processes_write_the_table_of_one(model: Path, photos: Path, expected: str, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "hf_tl"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words += ["predict", str(model), str(photos), "--output", str(table)]
    done = subprocess.run(words, capture_output=True, text=True, env=variables)
    assert table.read_text() == expected, done.stderr
    assert done.stderr.count("1 of 2,055 images cannot be read") == 1


def test_a_killed_process_ends_the_others(model: Path, photos: Path, expected: str, tmp_path: Path) -> None:
    """Under a launcher that does not watch; what was predicted is kept."""
    table, parts = tmp_path / "table.csv", tmp_path / "table.csv.parts"
    words = [*COMMAND, str(model), str(photos), "--output", str(table)]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    variables = {**os.environ, **shared, "CUDA_VISIBLE_DEVICES": ""}
    first, second = (
        subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**variables, "RANK": rank, "LOCAL_RANK": rank})
        for rank in ("0", "1")
    )
    while not list(parts.glob("*.jsonl")) and first.poll() is None:
        time.sleep(0.01)
    second.send_signal(signal.SIGKILL)
    _, errors = first.communicate(timeout=60)
    second.communicate()
    assert first.returncode == 2, errors
    assert errors.count("process 1 was killed") == 1
    assert not table.exists()
    assert list(parts.glob("*.jsonl"))
    assert subprocess.run(words, capture_output=True, text=True).returncode == 3
    assert table.read_text() == expected


def test_several_processes_need_a_table(
    model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        main(["predict", str(model), str(photos)])
    assert "several processes need an --output" in capsys.readouterr().err


def parts_of(folder: Path, images: list[Path], model: str = "weights", ranks: int = 1) -> Parts:
    named = [NamedImage(str(image), str(image)) for image in images]
    return Parts.open(folder / "table.csv", TableFormat(ranks), named, model)


def test_parts_of_something_else_are_not_used(photos: Path, tmp_path: Path) -> None:
    images = sorted(photos.iterdir())[: IMAGES + 1]
    parts = parts_of(tmp_path, images)
    parts.write(range(IMAGES), [Prediction(str(image), ("cat",), (0.5,)) for image in images[:IMAGES]])
    assert parts_of(tmp_path, images).done == IMAGES
    for other in (
        lambda: parts_of(tmp_path, images, model="other weights"),
        lambda: parts_of(tmp_path, images, ranks=2),
        lambda: parts_of(tmp_path, images[1:]),
    ):
        assert other().done == 0
        parts = parts_of(tmp_path, images)
        parts.write(range(IMAGES), [Prediction("a", ("cat",), (0.5,))] * IMAGES)
    changed = tmp_path / "changed.png"
    changed.write_bytes(images[0].read_bytes())
    parts_of(tmp_path, [changed, *images[:IMAGES]]).write(range(IMAGES), [Prediction("a", error="no")] * IMAGES)
    assert parts_of(tmp_path, [changed, *images[:IMAGES]]).done == IMAGES
    changed.write_bytes(images[1].read_bytes() + b" ")
    assert parts_of(tmp_path, [changed, *images[:IMAGES]]).done == 0


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_every_missing_part_belongs_to_one_process(photos: Path, tmp_path: Path, processes: int) -> None:
    parts = parts_of(tmp_path, sorted(photos.iterdir()))
    parts.write(parts.missing()[1], [Prediction("a", error="no")])
    shares = [list(share_of(parts.missing(), process, processes)) for process in range(processes)]
    made = [part for share in shares for run in share for part in run]
    assert made == parts.missing()
    assert sum(map(len, made)) == COUNT - IMAGES
    sizes = [sum(map(len, share)) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    for share in shares:
        for run in share:
            assert all(first.stop == second.start for first, second in pairwise(run))


def test_settings_that_change_rows_change_the_identity(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Predictor.load(model, Returned(top_k=1)).identity
    assert Predictor.load(model, Returned(top_k=1), batch_size=3).identity == first
    assert Predictor.load(model, Returned(top_k=2)).identity != first
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    assert Predictor.load(model, Returned(top_k=1)).identity != first
