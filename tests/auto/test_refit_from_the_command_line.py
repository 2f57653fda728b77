"""`--refit` and the retraining of `--strategy auto`, with and without a validation split in the dataset."""

from pathlib import Path

import pytest
from auto.inputs import AUTO, RECIPE, Inputs, printed_by, read
from cli.runs import SMALL, write_images

from hf_tl.cli import main


def test_a_validation_split_of_the_dataset_is_not_trained_on(
    inputs: Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_images(tmp_path / "data" / "train", 9).parent
    write_images(data / "validation", 3)
    write_images(data / "test", 3)
    flags = ["--model", inputs.models[0], "--dataset", str(data), "--refit", "true", *RECIPE, *SMALL]
    main(["train", *flags, "--output_dir", str(tmp_path / "out")])
    record = read(tmp_path / "out")
    assert "Skipping --refit: the dataset has its own validation split" in capsys.readouterr().out
    assert record["refit"] is None
    assert "refit" not in record["strategy"]


def test_after_a_climb_the_validation_split_is_only_evaluated(inputs: Inputs, tmp_path: Path) -> None:
    """The refit starts from scratch all the same, and the results of the split are from the saved weights."""
    data = write_images(tmp_path / "data" / "train", 9).parent
    write_images(data / "validation", 3)
    write_images(data / "test", 3)
    out = tmp_path / "out"
    printed = printed_by(
        ["train", "--model", inputs.models[0], "--dataset", str(data), *AUTO, "--output_dir", str(out)]
    )
    record, card = read(out), (out / "README.md").read_text()
    images = record["data"]["splits"]["train"]["images"]
    assert sum(rung["is_kept"] for rung in record["rungs"]) > 1
    assert f"Retraining from scratch on train ({images} images)\n" in printed
    assert record["refit"]["images"] == images
    assert record["refit"]["splits"] == ["train"]
    assert f", on train: {images} images. The published weights are those at the end of the retraining." in card
    measured = printed_by(["evaluate", str(out), "--dataset", str(data), "--split", "validation"])
    assert f"{record['measured']['validation']['metrics']['accuracy']:.1%}" in measured


def test_any_strategy_is_retrained_on_request(inputs: Inputs, tmp_path: Path) -> None:
    flags = ["--strategy", "finetune", "--refit", "true", *RECIPE, *SMALL, "--output_dir", str(tmp_path / "out")]
    main(["train", "--model", inputs.models[0], "--dataset", inputs.images, *flags])
    record, card = read(tmp_path / "out"), (tmp_path / "out" / "README.md").read_text()
    splits = record["data"]["splits"]
    assert record["refit"]["images"] == splits["train"]["images"] + splits["validation"]["images"]
    assert record["strategy"]["refit"] is True
    assert [len(phase["trained_stages"]) for phase in record["phases"]] == [1, 2]
    assert "the model was retrained from its starting weights, on train + validation: " in card
    assert "Model selection" not in card
