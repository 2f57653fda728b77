"""`hf-tl evaluate` on hold-out images: which are measured, which are left out, and the report."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli.runs import COLORS, TINY, fails, write_images
from datasets import Dataset, DatasetDict
from datasets import Image as ImageFeature
from PIL import Image

from hf_tl.cli import main
from hf_tl.errors import ConfigError, DataError
from hf_tl.predicting.evaluate import Evaluation, evaluate


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that was trained on a folder without splits, which lies beside it."""
    folder = tmp_path_factory.mktemp("run")
    write_images(folder / "images", 20)
    recipe = ["--strategy", "full", "--num_train_epochs", "4", "--learning_rate", "0.01", "--augmentation", "none"]
    main(["train", *TINY, "--dataset", str(folder / "images"), *recipe, "--output_dir", str(folder / "out")])
    return folder / "out"


@pytest.fixture
def holdout(tmp_path: Path) -> Path:
    return write_images(tmp_path / "holdout", 7)


def test_all_images_of_a_folder_without_splits_are_measured(
    model: Path, holdout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["evaluate", str(model), "--dataset", str(holdout)])
    assert capsys.readouterr().out.splitlines()[0] == "all: 21 images"


def test_only_a_dataset_with_splits_has_a_split(model: Path, holdout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = fails(["evaluate", str(model), "--dataset", str(holdout), "--split", "test"], capsys)
    assert "--split test: holdout has no splits; leave --split out to evaluate on all of its images" in text


def test_the_dataset_of_the_training_has_the_splits_of_the_training(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((model / "run.json").read_text("utf-8"))
    images = {name: split["images"] for name, split in record["data"]["splits"].items()}
    for flags, name in (([], "test"), (["--split", "validation"], "validation")):
        main(["evaluate", str(model), "--dataset", str(model.parent / "images"), *flags])
        assert capsys.readouterr().out.splitlines()[0] == f"{name}: {images[name]} images"


def test_training_images_in_a_holdout_set_are_left_out(model: Path, holdout: Path) -> None:
    for number in range(6):
        shutil.copyfile(model.parent / "images" / "red" / f"{number}.png", holdout / "red" / f"copy-{number}.png")
    evaluation = evaluate(str(model), str(holdout))
    assert evaluation.left_out > 0
    assert evaluation.images + evaluation.left_out == 27


@pytest.mark.parametrize("splits", [("train", "validation"), ("train", "test"), ("validation", "test")])
def test_a_dataset_with_splits_is_measured_on_its_test_or_validation_split(
    model: Path, tmp_path: Path, splits: tuple[str, str]
) -> None:
    for count, name in enumerate(splits, 5):
        write_images(tmp_path / "split" / name, count)
    evaluation = evaluate(str(model), str(tmp_path / "split"))
    assert (evaluation.split, evaluation.images) == (splits[1], 18)
    assert evaluate(str(model), str(tmp_path / "split"), split=splits[0]).images == 15
    missing = ({"train", "validation", "test"} - {*splits}).pop()
    with pytest.raises(DataError, match=f"split {missing}: the dataset has the splits"):
        evaluate(str(model), str(tmp_path / "split"), split=missing)


def keep(folder: Path, counts: dict[str, int]) -> None:
    """Keep some images of each class."""
    for name in COLORS:
        for number in range(counts[name], 7):
            (folder / name / f"{number}.png").unlink()


def test_one_class_is_measured_without_metrics_that_need_two(
    model: Path, holdout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(holdout / "red")
    shutil.rmtree(holdout / "blue")
    main(["evaluate", str(model), "--dataset", str(holdout)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["all: 7 images", "data: 2 of 3 classes have no image in all: blue, red"]
    assert any(line.startswith("  accuracy ") for line in lines)
    assert "  macro_f1       left out: it needs images of at least two classes" in lines


def test_small_and_empty_classes_are_measured(model: Path, holdout: Path) -> None:
    keep(holdout, {"red": 2, "green": 5, "blue": 0})
    evaluation = evaluate(str(model), str(holdout))
    assert evaluation.images == 7
    assert evaluation.measured.classes["images"] == [0, 5, 2]
    assert evaluation.data_notes[-1] == "1 of 3 classes have no image in all: blue"
    assert evaluation.metric_notes == {}


def test_unknown_classes_are_named_and_left_out(model: Path, holdout: Path) -> None:
    (holdout / "red").rename(holdout / "yellow")
    (holdout / "empty").mkdir()
    evaluation = evaluate(str(model), str(holdout))
    assert evaluation.images == 14
    assert evaluation.data_notes[1] == (
        "7 of 21 images of all are of classes that the model does not know: left out (yellow)"
    )
    for name in ("green", "blue"):
        shutil.rmtree(holdout / name)
    with pytest.raises(DataError, match="knows none of the classes yellow; it knows blue, green, red"):
        evaluate(str(model), str(holdout))


def test_unlabeled_rows_are_left_out(model: Path, holdout: Path, tmp_path: Path) -> None:
    files = sorted(holdout.rglob("*.png"))
    labels = [None if number % 7 == 0 else file.parent.name for number, file in enumerate(files)]
    rows = Dataset.from_dict({"image": [str(file) for file in files], "label": labels})
    rows.cast_column("image", ImageFeature()).save_to_disk(tmp_path / "table")
    evaluation = evaluate(str(model), str(tmp_path / "table"))
    assert evaluation.images == 18
    assert evaluation.data_notes == ("3 of 21 images of all have no label: left out",)


def test_unreadable_images_are_named(model: Path, holdout: Path) -> None:
    (holdout / "red" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 images cannot be used; .*skip_bad_images=True:\n  .*red/0\.png: no image"):
        evaluate(str(model), str(holdout))
    evaluation = evaluate(str(model), str(holdout), skip_bad_images=True)
    assert evaluation.images == 20
    assert evaluation.data_notes == ("1 images of all that cannot be read were left out: 0.png",)


def test_the_report_holds_confusion_matrix_and_calibration(model: Path, holdout: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    main(["evaluate", str(model), "--dataset", str(holdout), "--output_dir", str(out)])
    record = json.loads((out / "evaluation.json").read_text("utf-8"))
    evaluation = evaluate(str(model), str(holdout))
    assert record["metrics"] == evaluation.metrics
    assert sum(count for _, _, count in record["confusion"]) == 21
    assert sum(record["calibration"]["before"]["counts"]) == 21
    assert record["data"]["labels"] == ["blue", "green", "red"]
    for name in ("confusion.png", "reliability.png"):
        assert np.asarray(Image.open(out / name)).std() > 5
    page = (out / "evaluation.md").read_text("utf-8")
    assert "All 21 labeled images." in page
    assert "| red | 7 |" in page
    assert "(confusion.png)" in page


def test_a_report_replaces_the_earlier_report_but_no_figures_of_a_card(
    model: Path, holdout: Path, tmp_path: Path
) -> None:
    """A cell of a notebook may run twice."""
    for images in (21, 14):
        evaluate(str(model), str(holdout), output_dir=tmp_path / "report")
        assert json.loads((tmp_path / "report" / "evaluation.json").read_text("utf-8"))["images"] == images
        shutil.rmtree(holdout / "red", ignore_errors=True)
    before = {file.name: file.read_bytes() for file in model.iterdir()}
    with pytest.raises(ConfigError, match="holds a trained model, and the figures of its card"):
        evaluate(str(model), str(holdout), output_dir=model)
    assert {file.name: file.read_bytes() for file in model.iterdir()} == before


def test_the_temperature_of_the_model_calibrates_its_probabilities(model: Path, holdout: Path) -> None:
    saved = json.loads((model / "run.json").read_text("utf-8"))
    saved["temperature"] |= {"value": 2.0, "weights_digest": saved["weights_digest"], "split": "validation"}
    for measured in saved["measured"].values():
        measured["weights_digest"] = saved["weights_digest"]
        measured["calibration"]["after"] = measured["calibration"]["before"]
    text = (model / "run.json").read_text("utf-8")
    try:
        (model / "run.json").write_text(json.dumps(saved), "utf-8")
        evaluation: Evaluation = evaluate(str(model), str(holdout))
    finally:
        (model / "run.json").write_text(text, "utf-8")
    assert evaluation.temperature is not None
    assert evaluation.measured.calibration["after"] is not None


def test_two_splits_of_one_meaning_are_refused(model: Path, holdout: Path, tmp_path: Path) -> None:
    """Neither is chosen in silence; --split_folders names one."""
    rows = Dataset.from_dict(
        {"image": [str(path) for path in sorted(holdout.glob("*/*"))], "label": ["red"] * 21}
    ).cast_column("image", ImageFeature())
    DatasetDict({"train": rows, "test1": rows, "test2": rows}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match=r"two splits mean test: test1 and test2; name one: split_folders=.test=test2."):
        evaluate(str(model), str(tmp_path / "saved"))
    evaluation = evaluate(str(model), str(tmp_path / "saved"), split_folders="train=train,test=test2")
    assert (evaluation.split, evaluation.measured.images) == ("test", 21)
