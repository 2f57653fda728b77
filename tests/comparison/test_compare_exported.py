"""`hf-tl compare` of a model and its exports: agreement, differences, and the speed of each in its own runtime."""

import json
from pathlib import Path

import pytest
from cli.runs import write_images
from exporting.trained import INSTALLED, train_and_export

import hf_tl
from hf_tl.cli import main
from hf_tl.runtime.runners import RUNTIMES

pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_and_export(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("name", INSTALLED)
def test_a_model_agrees_with_its_export(
    model: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = model.parent / "images"
    pair = [str(model), str(model / name)]
    main(["compare", *pair, "--dataset", str(images), "--output_dir", str(tmp_path)])
    record = json.loads((tmp_path / "comparison.json").read_text())
    first, second = record["models"].values()
    assert record["agreement"] == 1
    assert record["metrics"]["accuracy"]["difference"] == 0
    assert record["data"]["split"] == "test"
    assert first["runtime"] == "torch"
    assert second["runtime"] == RUNTIMES[name].name
    same = ("architecture", "strategy", "parameters")
    assert [second[key] for key in same] == [first[key] for key in same]
    assert second["name"] == f"{name}/{RUNTIMES[name].file}"
    assert min(first["images_per_second"], second["images_per_second"]) > 0
    assert str(model.parent) not in json.dumps(record)
    text = capsys.readouterr().out
    assert f"images/s in {RUNTIMES[name].name} on this machine" in text
    assert "images/s in torch on this machine" in text
    assert "A and B make the same predictions for all images." in text


def test_training_images_of_an_export_are_left_out(model: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "new", 9)
    for file in (model.parent / "images" / "red").iterdir():
        (images / "red" / f"copy-{file.name}").write_bytes(file.read_bytes())
    pair = (model / "onnx" / "model.onnx", model / "onnx" / "model_int8.onnx")
    comparison = hf_tl.compare(*pair, images)
    leakage = comparison.record["data"]["leakage"]
    assert leakage == hf_tl.compare(model, model, images).record["data"]["leakage"]
    assert "images are training images of A or B: left out" in leakage["notes"][0]
    assert comparison.record["agreement"] > 0.8


def test_an_export_that_states_nothing_of_its_network_is_compared(model: Path, tmp_path: Path) -> None:
    """An export of an earlier version is such a one, and a file that was put in its place."""
    (tmp_path / "bare").mkdir()
    for name in ("model.onnx", "preprocessing.json"):
        (tmp_path / "bare" / name).write_bytes((model / "onnx" / name).read_bytes())
    comparison = hf_tl.compare(model, tmp_path / "bare", write_images(tmp_path / "new", 9))
    assert "bare/model.onnx: " in str(comparison)
    assert "None" not in str(comparison).splitlines()[1]
    assert comparison.record["agreement"] == 1
    [note] = comparison.record["data"]["leakage"]["notes"]
    assert "hf_tl cannot tell whether" in note
    assert "a dataset that is not recorded" in note
