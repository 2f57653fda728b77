"""`hf-tl predict`, `hf-tl evaluate` and `hf-tl card` with a trained model."""

from pathlib import Path

import pytest
from cli.printed import as_printed, metrics_of
from cli.runs import COLORS, SMALL, TINY, fails, write_images

from hf_tl.cli import main
from hf_tl.record import read_record


def test_predict_names_the_class_of_each_image(trained: Path, colors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [str(colors / "test" / name / "0.png") for name in COLORS]
    main(["predict", str(trained), *images, "--top_k", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[::2] == images
    assert [line.split()[-1] for line in lines[1::2]] == list(COLORS)


def test_evaluate_finds_the_recorded_accuracy(trained: Path, colors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", str(trained), "--dataset", str(colors)])
    lines = capsys.readouterr().out.splitlines()
    recorded = read_record(trained).measured["test"].metrics
    assert lines[0] == "test: 18 images"
    assert metrics_of(lines[1:]) == as_printed(recorded)


def test_evaluate_matches_classes_by_name(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The dataset has two of the classes, whose indices differ from the model's."""
    two = {name: COLORS[name] for name in ("red", "green")}
    write_images(tmp_path / "two" / "train", 5, two)
    write_images(tmp_path / "two" / "test", 5, two)
    main(["evaluate", str(trained), "--dataset", str(tmp_path / "two")])
    assert "accuracy       100.0% (95% CI " in capsys.readouterr().out


def test_evaluate_leaves_out_training_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Splits of a folder without splits are drawn as for the training, by its seed."""
    images, folder = tmp_path / "images", tmp_path / "out"
    write_images(images, 12)
    rest = ["--num_train_epochs", "1", "--seed", "3", "--refit", "true", "--output_dir", str(folder)]
    main(["train", *TINY, "--dataset", str(images), *SMALL, *rest])
    recorded = read_record(folder).measured["test"].metrics
    capsys.readouterr()
    main(["evaluate", str(folder), "--dataset", str(images)])
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "test: 8 images"
    assert metrics_of(lines) == as_printed(recorded)
    for split, count in (("train", 25), ("validation", 3)):
        error = fails(["evaluate", str(folder), "--dataset", str(images), "--split", split], capsys)
        assert f"{count} of {count} {split} images are training images of the model, and no other is there" in error
        flags = ["--split", split, "--include_training_images"]
        main(["evaluate", str(folder), "--dataset", str(images), *flags])
        first, note, *_ = capsys.readouterr().out.splitlines()
        assert first == f"{split}: {count} images ({count} of them training images)"
        assert note.endswith("are training images of the model: not an estimate of generalization")


def test_the_card_is_written_again(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = trained / "README.md"
    before = card.read_bytes()
    card.unlink()
    main(["card", str(trained)])
    assert capsys.readouterr().out.strip() == str(card)
    assert card.read_bytes() == before
    assert "holds no run.json" in fails(["card", str(trained.parent)], capsys)
