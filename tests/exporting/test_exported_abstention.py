"""Exported files of a calibrated model abstain from the same images, with the same scores, as the model."""

import json
import shutil
from pathlib import Path

import pytest
from abstention.calibrated import calibrate, train, write_foreign
from cli.runs import fails

import hf_tl
from hf_tl.errors import ConfigError, ModelError
from hf_tl.exporting.formats import FORMATS
from hf_tl.runtime.runners import RUNTIMES


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs"), "--strategy", "full", "--epochs", "2")


@pytest.fixture(scope="module")
def calibrated(trained: Path) -> Path:
    folder = shutil.copytree(trained, trained.with_name("calibrated"))
    calibrate(folder)
    return folder


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_foreign(tmp_path_factory.mktemp("foreign"))


def export(model: Path, name: str, folder: Path) -> Path:
    for package in FORMATS[name].packages:
        pytest.importorskip(package)
    photos = str(model.parent / "photos")
    is_onnx = name == "onnx"
    return Path(hf_tl.export(model, name, folder, dataset=photos, int8=is_onnx, with_preprocessing=is_onnx))


@pytest.fixture(scope="module")
def onnx(calibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(calibrated, "onnx", tmp_path_factory.mktemp("exported") / "onnx")


def check_predictions(model: Path, file: Path, foreign: Path, tolerance: float) -> None:
    """Compare the predictions of an exported file with those of its model, for foreign and own images."""
    images = [str(foreign), str(model.parent / "photos" / "red")]
    expected = hf_tl.predict(model, images, abstain=True, prediction_sets=True)
    result = hf_tl.predict(file, images, abstain=True, prediction_sets=True)
    assert {each.abstained for each in expected} == {True, False}
    assert [each.abstained for each in result] == [each.abstained for each in expected]
    assert [each.labels for each in result] == [each.labels for each in expected]
    scores = [each.ood_score for each in expected]
    assert [each.ood_score for each in result] == pytest.approx(scores, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("name", [name for name in RUNTIMES if name != "onnx"])
def test_every_format_abstains_as_the_model(calibrated: Path, foreign: Path, tmp_path: Path, name: str) -> None:
    folder = export(calibrated, name, tmp_path / name)
    check_predictions(calibrated, folder, foreign, 1e-3)
    report = json.loads((folder / "export.json").read_text())
    assert report["verified"]["ood_scores"] < 1e-2


def test_onnx_abstains_as_the_model(calibrated: Path, onnx: Path, foreign: Path) -> None:
    check_predictions(calibrated, onnx, foreign, 1e-3)


def test_a_file_with_its_preprocessing_abstains_too(calibrated: Path, onnx: Path, foreign: Path) -> None:
    check_predictions(calibrated, onnx / "model_with_preprocessing.onnx", foreign, 0.1)


def test_an_exported_file_is_measured_on_foreign_images(calibrated: Path, onnx: Path, foreign: Path) -> None:
    photos = calibrated.parent / "photos"
    expected, measured = (hf_tl.evaluate(model, photos, ood=foreign).foreign for model in (calibrated, onnx))
    assert expected is not None
    assert measured is not None
    assert (measured.abstained, measured.accepted) == (expected.abstained, expected.accepted)
    assert measured.auroc == pytest.approx(expected.auroc, abs=0.01)


@pytest.mark.parametrize("flag", ["--abstain", "--prediction_sets"])
def test_a_quantized_file_never_abstains(
    onnx: Path, foreign: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    """Its features are others than those that the model was calibrated with."""
    words = ["predict", str(onnx / "model_int8.onnx"), str(foreign)]
    assert "model_int8.onnx never abstains: " in fails([*words, flag], capsys)
    assert len(hf_tl.predict(onnx / "model_int8.onnx", foreign)) == 4


def test_a_file_of_a_model_that_was_not_calibrated_never_abstains(trained: Path, foreign: Path, tmp_path: Path) -> None:
    folder = export(trained, "torch_export", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"model.pt2 never abstains: it was exported before hf-tl calibrate"):
        hf_tl.predict(folder, foreign, abstain=True)


@pytest.mark.parametrize(
    "limits", [None, {}, {"threshold": 1}, {"threshold": 1.0, "set_thresholds": [0.5]}, {"threshold": "1"}]
)
def test_damaged_limits_are_refused(onnx: Path, foreign: Path, tmp_path: Path, limits: object) -> None:
    folder = Path(shutil.copytree(onnx, tmp_path / "damaged"))
    steps = json.loads((folder / "preprocessing.json").read_text())
    (folder / "preprocessing.json").write_text(json.dumps({**steps, "abstention": limits}))
    with pytest.raises(ModelError, match=r"expected the preprocessing of an exported model in .*preprocessing\.json"):
        hf_tl.predict(folder, foreign)
