"""`hf-tl inspect` and `--exclude_list` on the command line."""

import json
import shutil
from pathlib import Path

import pytest
from scenes import write_scenes

from hf_tl.cli import main
from hf_tl.config import RunConfig
from hf_tl.flags import parse_run_config

COUNTS = {"train/cat": 8, "train/dog": 8, "test/cat": 3, "test/dog": 3}


def test_the_command_prints_a_summary_and_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pets = write_scenes(tmp_path / "pets", COUNTS)
    shutil.copy(pets / "train/cat/1.png", pets / "test/cat/leak.png")
    (pets / "train/dog/bad.png").write_bytes(b"")
    for _ in range(2):  # a second run replaces the files
        main(["inspect", "pets"])
    lines = capsys.readouterr().out.splitlines()
    assert "Data      pets: 24 images in 2 classes (train 17, test 7)" in lines
    assert "          train/dog/bad.png: no image that Pillow can read; replace or remove it" in lines
    assert any("1 group of exact copies" in line and "1 across splits (data leakage)" in line for line in lines)
    assert lines[-2:] == [
        "Train     hf-tl train --dataset pets --exclude_list runs/pets-inspection/exclusions.csv",
        "Page      runs/pets-inspection/inspection.html",
    ]
    folder = tmp_path / "runs" / "pets-inspection"
    assert {file.name for file in folder.iterdir()} == {"inspection.html", "inspection.json", "exclusions.csv"}
    assert json.loads((folder / "inspection.json").read_text(encoding="utf-8"))["images"] == 24


def test_a_run_leaves_out_and_records_the_images_of_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets = write_scenes(tmp_path / "pets", COUNTS)
    (tmp_path / "list.csv").write_text("file\ntrain/cat/0.png\ntest/dog/19.png\n", encoding="utf-8")
    flags = ["--dataset", str(pets), "--model", "timm:test_resnet", "--no_pretrained", "--strategy", "scratch"]
    flags += ["--num_train_epochs", "1", "--image_size", "32", "--exclude_list", str(tmp_path / "list.csv")]
    main(["train", *flags, "--output_dir", str(tmp_path / "out"), "--report_to", "none"])
    record = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert "1 of 16 images of train left out by list.csv" in record["data"]["notes"]
    assert record["data"]["splits"]["test"]["images"] == 5
    assert record["settings"]["exclude_list"] == "list.csv"  # no path of this machine
    assert "left out by list.csv" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    capsys.readouterr()
    model = str(tmp_path / "out")
    main(["evaluate", model, "--dataset", str(pets), "--exclude_list", str(tmp_path / "list.csv")])
    output = capsys.readouterr().out
    assert "test: 5 images" in output
    assert "data: 1 of 6 images of test left out by list.csv" in output


def test_the_flag_is_one_of_the_data() -> None:
    assert parse_run_config(["--exclude-list", "a.csv"]).data.exclude_list == "a.csv"
    assert RunConfig().data.exclude_list is None
