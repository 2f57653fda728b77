"""Features of ONNX alone: 8 bits with their measured loss, and the page's program without the model's libraries."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backbones.checkpoints import edit_config, save_transformers, tiny_vit
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

import hf_tl
from hf_tl.data.datasets import load_data
from hf_tl.errors import DataError
from hf_tl.evaluation.intervals import wilson_interval
from hf_tl.evaluation.metrics import MULTI_LABEL
from hf_tl.evaluation.paired import paired_interval
from hf_tl.exporting.quantize import measure_int8
from hf_tl.exporting.result import ExportResult
from hf_tl.predicting.predict import predict
from hf_tl.runtime.runners import open_onnx

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def quantized(timm_folder: Path, colors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "onnx"
    return hf_tl.export(timm_folder, "onnx", folder, dataset=str(colors), int8=True).output_dir


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "export.json").read_text(encoding="utf-8"))


def test_int8_is_measured_on_all_test_images(quantized: Path, timm_folder: Path, colors: Path) -> None:
    names = {"model.onnx", "model_int8.onnx", "preprocessing.json", "export.json"}
    assert {path.name for path in quantized.iterdir()} == names
    model, transforms = hf_tl.load(timm_folder)
    splits = load_data(str(colors)).splits
    images = splits["test"]
    pixels = np.stack([transforms.eval(row["image"]).numpy() for row in images])
    classes = images.features["label"].names
    true = np.array([model.config.label2id[classes[row["label"]]] for row in images])
    right = {
        name: open_onnx(quantized / file)(pixels).argmax(1) == true
        for name, file in (("float32", "model.onnx"), ("int8", "model_int8.onnx"))
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
    assert int8["bytes"] == (quantized / "model_int8.onnx").stat().st_size < read(quantized)["bytes"] / 2
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


def test_images_of_several_classes_are_right_when_all_are(quantized: Path) -> None:
    pixels = np.random.default_rng(0).normal(size=(8, 3, 160, 160)).astype(np.float32)
    files = quantized / "model.onnx", quantized / "model_int8.onnx"
    labels = (open_onnx(files[0])(pixels) > 0).astype(np.int64)
    labels[0, 1] ^= 1
    measured = measure_int8(*files, iter([pixels[:5], pixels[5:]]), labels, MULTI_LABEL)
    assert measured["subset_accuracy"]["float32"]["value"] == 7 / 8
    assert set(measured["metrics"]["int8"]) >= {"mean_average_precision", "micro_f1"}


def program(folder: Path, image: Path) -> str:
    """Return the program of `hf_tl/exporting/README.md`, for an export and an image."""
    readme = (REPOSITORY / "hf_tl" / "exporting" / "README.md").read_text(encoding="utf-8")
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if 'Path("DIR/onnx")' in code]
    assert code.count('"DIR/onnx"') == code.count('"IMAGE"') == 1
    return code.replace('"DIR/onnx"', repr(str(folder))).replace('"IMAGE"', repr(str(image)))


def check_program(folder: Path, model: Path, images: list[Path]) -> None:
    """Compare the output of the page's program with predictions of hf_tl."""
    for image, prediction in zip(images, predict(model, images), strict=True):
        alone = "import sys\nassert not {'torch', 'timm', 'transformers', 'hf_tl'} & set(sys.modules)\n"
        done = subprocess.run(
            [sys.executable, "-I", "-c", program(folder, image) + alone], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        printed = [(line.split(maxsplit=1)[1], float(line.split("%")[0])) for line in done.stdout.splitlines()]
        assert [label for label, _ in printed] == list(prediction.labels)
        percentages = [100 * value for value in prediction.probabilities]
        assert [value for _, value in printed] == pytest.approx(percentages, abs=0.02)


def test_the_program_of_the_readme_predicts_as_the_model(quantized: Path, timm_folder: Path, colors: Path) -> None:
    check_program(quantized, timm_folder, sorted(colors.glob("test/*/[01].png"))[:3])


def test_the_program_of_the_readme_takes_several_classes(colors: Path, tmp_path: Path) -> None:
    """Including images that are resized to a square, and not cropped."""
    model = save_transformers(tiny_vit(), tmp_path / "vit", fast=False)
    edit_config(model, problem_type="multi_label_classification")
    images = [Image.open(path) for path in sorted(colors.glob("test/*/0.png"))]
    columns = {"image": images, "ant": [1, 0, 1], "zebra": [0, 1, 1]}
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        rows = Dataset.from_dict(columns).cast_column("image", ImageFeature())
        rows.to_parquet(tmp_path / "data" / f"{split}.parquet")
    flags = {"dataset": str(tmp_path / "data"), "label_column": "ant,zebra"}
    folder = hf_tl.export(model, "onnx", tmp_path / "onnx", **flags).output_dir
    assert json.loads((folder / "preprocessing.json").read_text())["scores"] == "sigmoid"
    check_program(folder, model, sorted(colors.glob("test/*/0.png"))[:2])
