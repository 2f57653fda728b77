"""Features of ONNX alone: operators of a version, and the page's program without the model's libraries."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from backbones.checkpoints import edit_config, save_transformers, tiny_vit
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

import hf_tl
from hf_tl.errors import SaveError
from hf_tl.predicting.predict import predict

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def quantized(timm_folder: Path, colors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "onnx"
    return hf_tl.export(timm_folder, "onnx", folder, dataset=str(colors), int8=True).output_dir


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "export.json").read_text(encoding="utf-8"))


def test_the_operators_are_of_the_asked_version(timm_folder: Path, colors: Path, tmp_path: Path) -> None:
    import onnx

    for opset in (18, 21):
        done = hf_tl.export(timm_folder, "onnx", tmp_path / str(opset), dataset=str(colors), opset=opset)
        assert [each.version for each in onnx.load(done.file).opset_import if not each.domain] == [opset]
        assert done.record["needs"] == {"onnx": "1.16.0"}
        assert f"a runtime for ONNX 1.16.0 (opset {opset}," in str(done)
    with pytest.raises(SaveError, match="opset 99 cannot be had"):
        hf_tl.export(timm_folder, "onnx", tmp_path / "99", dataset=str(colors), opset=99)
    assert not (tmp_path / "99").exists()


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
