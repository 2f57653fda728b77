"""Files of 8 bits, with their measured loss of accuracy."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import hf_tl
from hf_tl.backbones.libraries.timm import wrap
from hf_tl.data.datasets import load_data
from hf_tl.errors import DataError, SaveError
from hf_tl.evaluation.intervals import wilson_interval
from hf_tl.evaluation.metrics import MULTI_LABEL
from hf_tl.evaluation.paired import paired_interval
from hf_tl.exporting.formats import FORMATS, write_model
from hf_tl.exporting.quantize import METHODS, check_loss, measure_int8, write_int8
from hf_tl.exporting.result import ExportResult
from hf_tl.runtime.runners import parts_of, runtime_of


@pytest.fixture(scope="module", params=list(METHODS))
def quantized(
    request: pytest.FixtureRequest, timm_folder: Path, colors: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    for package in (*FORMATS[request.param].packages, METHODS[request.param].package):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("int8") / request.param
    return hf_tl.export(timm_folder, request.param, folder, dataset=str(colors), int8=True).output_dir


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "export.json").read_text(encoding="utf-8"))


def files_of(folder: Path) -> tuple[Path, Path]:
    report = read(folder)
    return folder / report["file"], folder / report["int8"]["file"]


def test_int8_is_measured_on_all_test_images(quantized: Path, timm_folder: Path, colors: Path) -> None:
    float_file, int8_file = files_of(quantized)
    names = {part.name for file in (float_file, int8_file) for part in parts_of(file)}
    assert {path.name for path in quantized.iterdir()} == {*names, "preprocessing.json", "export.json"}
    model, transforms = hf_tl.load(timm_folder)
    splits = load_data(str(colors)).splits
    images = splits["test"]
    pixels = np.stack([transforms.eval(row["image"]).numpy() for row in images])
    classes = images.features["label"].names
    true = np.array([model.config.label2id[classes[row["label"]]] for row in images])
    right = {
        name: runtime_of(file).open(file)(pixels).argmax(1) == true
        for name, file in (("float32", float_file), ("int8", int8_file))
    }
    int8 = read(quantized)["int8"]
    assert int8["images"] == len(true) == 18
    for name, hits in right.items():
        expected = {"value": hits.mean(), "interval": list(wilson_interval(hits.sum(), 18))}
        assert int8["accuracy"][name] == {key: pytest.approx(value) for key, value in expected.items()}
        assert int8["metrics"][name]["accuracy"] == pytest.approx(hits.mean())
    gained, lost = (right["int8"] & ~right["float32"]).sum(), (right["float32"] & ~right["int8"]).sum()
    assert int8["accuracy"]["difference"]["value"] == pytest.approx((gained - lost) / 18)
    assert int8["accuracy"]["difference"]["interval"] == pytest.approx(paired_interval(lost, gained, 18))
    assert int8["calibration"] == {"split": "train", "images": len(splits["train"]) + len(splits["validation"])}
    sizes = [sum(part.stat().st_size for part in parts_of(file)) for file in (float_file, int8_file)]
    assert [read(quantized)["bytes"], int8["bytes"]] == sizes
    assert int8["milliseconds_per_image"].keys() == {"float32", "int8", "batch_size", "threads"}
    assert re.search(
        r"int8      accuracy \d.* on 18 images, [\d.]+ ms an image", str(ExportResult(quantized, read(quantized)))
    )


def test_int8_is_not_measured_on_training_images(colors: Path, tmp_path: Path) -> None:
    """The test split contains three training images under other names."""
    strategy = hf_tl.Strategy.transfer(epochs=1, augmentation="none")
    data = load_data(str(colors))
    model, transforms = hf_tl.load_backbone("timm:test_resnet", data.labels, strategy, pretrained=False, image_size=64)
    hf_tl.train(model, data, strategy, transforms=transforms, output_dir=str(tmp_path / "out"), report_to="none")
    shutil.copytree(colors, tmp_path / "mixed")
    for number, row in enumerate(data.splits["train"].select(range(3))):
        label = data.labels[row["label"]]
        shutil.copyfile(row["image"].filename, tmp_path / "mixed" / "test" / label / f"other-{number}.png")
    flags = {"dataset": str(tmp_path / "mixed"), "int8": True}
    folder = hf_tl.export(tmp_path / "out", "onnx", **flags)
    int8 = read(folder)["int8"]
    assert (int8["images"], int8["leakage"]["left_out"], int8["leakage"]["learned"]) == (18, 3, 0)
    note = "3 of 21 test images are training images of the model"
    assert f"Leakage   {note}: left out" in str(folder)
    flags |= {"include_training_images": True, "overwrite_output_dir": True}
    int8 = read(hf_tl.export(tmp_path / "out", "onnx", **flags))["int8"]
    assert (int8["images"], int8["leakage"]["left_out"], int8["leakage"]["learned"]) == (21, 0, 3)


def test_int8_is_not_measured_with_classes_of_others(timm_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the model knows none of the classes"):
        hf_tl.export(timm_folder, "onnx", tmp_path / "out", dataset="digits", int8=True)
    assert list(tmp_path.iterdir()) == []


def test_a_transformer_with_tables_of_positions_is_quantized(tmp_path: Path) -> None:
    """Swin looks its position biases up in a table of constants."""
    for package in ("openvino", "nncf"):
        pytest.importorskip(package)
    network = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, embed_dim=24, depths=(1, 1), num_heads=(2, 2), num_classes=2
    )
    model = wrap(network.eval(), ["cat", "dog"]).eval()
    write_model("openvino", model, (3, 56, 56), tmp_path)
    pixels = np.random.default_rng(0).normal(size=(8, 3, 56, 56)).astype(np.float32)
    file = write_int8("openvino", tmp_path / "model.xml", iter([pixels]), len(pixels))
    with torch.inference_mode():
        expected = model(pixel_values=torch.from_numpy(pixels)).logits.numpy()
    logits = runtime_of(file).open(file)(pixels)
    assert all(np.corrcoef(logits[:, index], expected[:, index])[0, 1] > 0.9 for index in range(2))


def test_a_loss_above_the_limit_is_an_error() -> None:
    """The limit is a share: the measured loss itself passes, and less does not."""
    accuracy = {"difference": {"value": -0.02, "interval": [-0.05, 0.01]}}
    check_loss(accuracy, 0.02)
    check_loss(accuracy, None)
    with pytest.raises(SaveError, match=r"allows a loss of 1 points, found int8 -2.0 points \(-5.0 to \+1.0\)"):
        check_loss(accuracy, 0.01)
    check_loss({"difference": {"value": 0.02, "interval": [0.0, 0.05]}}, 0.0)


def test_a_quantized_file_is_a_model_of_its_own(quantized: Path, colors: Path) -> None:
    """Its weights are not those of the model, so another digest identifies it."""
    from hf_tl.evaluation.holdout.exported import ExportedClassifier

    float_file, int8_file = files_of(quantized)
    result = hf_tl.predict(int8_file, colors / "test", top_k=1)
    assert len(result) == 18
    digests = [ExportedClassifier.open(file).weights_digest for file in (float_file, int8_file)]
    assert digests[0] == read(quantized)["model"]["weights_digest"] != digests[1]


def test_images_of_several_classes_are_right_when_all_are(quantized: Path) -> None:
    pixels = np.random.default_rng(0).normal(size=(8, 3, 160, 160)).astype(np.float32)
    files = files_of(quantized)
    runtime = runtime_of(files[0])
    labels = (runtime.open(files[0])(pixels) > 0).astype(np.int64)
    labels[0, 1] ^= 1
    measured = measure_int8(runtime, *files, iter([pixels[:5], pixels[5:]]), labels, MULTI_LABEL)
    assert measured["subset_accuracy"]["float32"]["value"] == 7 / 8
    assert set(measured["metrics"]["int8"]) >= {"mean_average_precision", "micro_f1"}
