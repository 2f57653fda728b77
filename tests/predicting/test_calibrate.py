"""`hf-tl calibrate`: a trained model abstains from foreign images, and its prediction sets hold the right class."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from abstention.calibrated import calibrate, train, write_foreign
from cli.runs import TINY, fails, write_images
from fuzzing.mutations import mutate_bytes
from fuzzing.reading import PARTS, fuzz
from parts import parts
from pyarrow import parquet
from safetensors.torch import load_file, save_file

import hf_tl
from hf_tl.abstention.detector import FILE, Detector
from hf_tl.cli import main
from hf_tl.errors import ConfigError, DataError, ModelError
from hf_tl.hub.hub import check_folder
from hf_tl.record import read_record


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs"), "--strategy", "full", "--epochs", "2")


@pytest.fixture(scope="module")
def photos(trained: Path) -> Path:
    return trained.parent / "photos"


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_foreign(tmp_path_factory.mktemp("foreign"))


@pytest.fixture(scope="module")
def calibrated(trained: Path) -> Path:
    folder = shutil.copytree(trained, trained.with_name("calibrated"))
    calibrate(folder)
    return folder


def test_record_and_card_say_what_was_measured(calibrated: Path) -> None:
    record = read_record(calibrated).abstention
    assert record is not None
    assert record.measured is not None
    splits = read_record(calibrated).data.splits
    assert record.validation_images == splits["validation"].images
    assert record.measured.images == splits["test"].images
    assert record.separation[record.score] == max(record.separation.values())
    card = (calibrated / "README.md").read_text()
    assert "### Abstention" not in card
    assert "Abstention and prediction sets" in card
    assert f"{record.measured.set_size:.2f} classes in the mean" in card
    assert FILE in {file.name for file in check_folder(calibrated)}


def test_the_thresholds_are_those_of_the_validation_images(calibrated: Path, photos: Path) -> None:
    """Four of five validation images are accepted, and the sets of seven of ten hold their class."""
    record = read_record(calibrated)
    data = hf_tl.load_data(photos, seed=0)
    images = [row["image"] for row in data.splits["validation"]]
    result = hf_tl.predict(calibrated, images, abstain=True, prediction_sets=True)
    assert sum(not each.abstained for each in result) == pytest.approx(0.8 * len(images), abs=1)
    measured = hf_tl.predict(calibrated, [row["image"] for row in data.splits["test"]], abstain=True)
    assert record.abstention is not None
    assert record.abstention.measured is not None
    assert np.mean([not each.abstained for each in measured]) == record.abstention.measured.accepted
    sets = hf_tl.predict(calibrated, [row["image"] for row in data.splits["test"]], prediction_sets=True)
    assert np.mean([len(each.labels) for each in sets]) == record.abstention.measured.set_size
    is_covered = [data.labels[row["label"]] in each.labels for row, each in zip(data.splits["test"], sets, strict=True)]
    assert np.mean(is_covered) == record.abstention.measured.covered


def test_foreign_images_get_no_class(calibrated: Path, foreign: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    table = tmp_path / "table.csv"
    words = ["predict", str(calibrated), str(foreign), str(photos / "red" / "0.png"), str(tmp_path / "broken.png")]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--abstain", "--output", str(table)])
    assert stop.value.code == 3
    *unlike, known, broken = csv.DictReader(table.open())
    threshold = Detector.read(calibrated / FILE, 3).limits.threshold
    assert all(row["abstained"] == "True" and float(row["ood_score"]) > threshold for row in unlike)
    assert {row["label"] for row in unlike} == {""}
    assert known["abstained"] == "False"
    assert known["label"]
    assert broken["error"]
    assert not broken["abstained"]
    assert not broken["ood_score"]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_other_tables(calibrated: Path, foreign: Path, tmp_path: Path, suffix: str) -> None:
    result = hf_tl.predict(calibrated, foreign, abstain=True, prediction_sets=True)
    result.save(file := tmp_path / f"table.{suffix}")
    if suffix == "jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    else:
        rows = parquet.read_table(file).to_pylist()
    assert [row["abstained"] for row in rows] == [True] * 4
    assert list(rows[0]) == ["image", "labels", "probabilities", "abstained", "ood_score", "error"]
    assert repr(result[0]).endswith(f"abstained, score {result[0].ood_score:.3f})")
    assert "abstained 4" in repr(result)


def test_the_terminal_says_no_class(calibrated: Path, foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["predict", str(calibrated), str(foreign / "0.png"), "--abstain"])
    assert "no class: unlike the training images (score" in capsys.readouterr().out


def test_without_the_flags_predictions_are_those_of_before(calibrated: Path, trained: Path, foreign: Path) -> None:
    assert hf_tl.predict(calibrated, foreign).predictions == hf_tl.predict(trained, foreign).predictions


@pytest.mark.parametrize("flag", ["--abstain", "--prediction_sets"])
def test_a_model_that_was_not_calibrated(
    trained: Path, foreign: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert f"hf-tl calibrate {trained} --dataset" in fails(["predict", str(trained), str(foreign), flag], capsys)


def test_a_new_training_in_the_folder_removes_the_thresholds(calibrated: Path, photos: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(calibrated, tmp_path / "model")
    words = ["train", "--dataset", str(photos), "--output_dir", str(folder), "--overwrite_output_dir", "--seed", "1"]
    main([*words, "--epochs", "1", "--strategy", "transfer", *TINY])
    assert not (folder / FILE).exists()
    assert read_record(folder).abstention is None


def test_thresholds_of_other_weights_are_refused(
    calibrated: Path, trained: Path, foreign: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(trained, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("fc.weight"))
    save_file({**weights, name: weights[name] + 1}, folder / "model.safetensors", {"format": "pt"})
    shutil.copy(calibrated / FILE, folder / FILE)
    with pytest.raises(ModelError, match="fitted for other weights"):
        hf_tl.predict(folder, foreign, abstain=True)


def test_a_retrained_model_has_no_images_to_calibrate_on(photos: Path, tmp_path: Path) -> None:
    """After `--refit`, the validation images are training images."""
    folder = tmp_path / "model"
    words = ["train", "--dataset", str(photos), "--output_dir", str(folder), "--strategy", "transfer", "--refit"]
    main([*words, "--epochs", "1", *TINY])
    with pytest.raises(DataError, match="validation"):
        hf_tl.calibrate(folder, photos)


def test_what_cannot_be_calibrated(trained: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"accept=0\.95 needs more validation images"):
        hf_tl.calibrate(trained, photos)
    with pytest.raises(DataError, match="purple"):
        hf_tl.calibrate(trained, write_images(tmp_path / "other", 9, {"purple": (9, 0, 9), "red": (200, 0, 0)}))
    with pytest.raises(ConfigError, match="hf-tl pull"):
        hf_tl.calibrate("user/model", photos)
    with pytest.raises(ConfigError, match="name images"):
        hf_tl.calibrate(trained)


@pytest.mark.parametrize("part", parts(PARTS))
def test_a_mutated_file_is_read_or_refused(calibrated: Path, tmp_path: Path, part: int) -> None:
    file = shutil.copy(calibrated / FILE, tmp_path / FILE)
    fuzz(file, mutate_bytes, lambda: Detector.read(file, 3).scores(np.ones((1, 32)), np.ones((1, 3))), part)


def test_foreign_images_are_measured_beside_the_own(
    calibrated: Path, photos: Path, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    words = ["evaluate", str(calibrated), "--dataset", str(photos), "--output_dir", str(tmp_path / "report")]
    main([*words, "--ood", str(foreign), str(tmp_path / "broken.png")])
    printed = capsys.readouterr()
    assert "1 of 5 images cannot be read" in printed.err
    assert "abstained      100.0% of 4 foreign images" in printed.out
    result = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    measured = read_record(calibrated).abstention.measured  # type: ignore[union-attr]
    assert measured is not None
    assert result["foreign"]["accepted"] == measured.accepted
    assert result["foreign"]["own_images"] == measured.images == result["images"]
    assert result["foreign"]["auroc"] > 0.9
    assert "## Abstention" in (tmp_path / "report" / "evaluation.md").read_text()


def test_own_images_given_as_foreign_are_not_separated(calibrated: Path, photos: Path) -> None:
    own = [row["image"] for row in hf_tl.load_data(photos, seed=0).splits["test"]]
    foreign = hf_tl.evaluate(calibrated, photos, ood=own).foreign
    assert foreign is not None
    assert foreign.auroc == 0.5
    assert foreign.auroc_interval is not None
    assert foreign.auroc_interval[0] < 0.5 < foreign.auroc_interval[1]
    assert foreign.abstained == pytest.approx(1 - foreign.accepted)


def test_foreign_images_need_a_calibrated_model(
    trained: Path, photos: Path, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(trained), "--dataset", str(photos), "--ood"]
    assert "hf-tl calibrate" in fails([*words, str(foreign)], capsys)
    (tmp_path / "empty").mkdir()
    assert "no images in the folder" in fails([*words, str(tmp_path / "empty")], capsys)
