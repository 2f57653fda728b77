"""The demo page of exported models: predictions of their own runtime, the training of their model, and no maps."""

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("gradio")
pytest.importorskip("onnxscript")

import httpx
from exporting.trained import INSTALLED, train_and_export
from PIL import Image
from publish.servers import PATIENCE, serving

import hf_tl
from hf_tl.demo.demo_exported import ExportedDemoModel, read_exported_record
from hf_tl.demo.demo_model import DemoModel
from hf_tl.demo.demo_page import build_page
from hf_tl.demo.uploads import read_image
from hf_tl.errors import ModelError, PublishError
from hf_tl.record import read_record
from hf_tl.runtime.runners import RUNTIMES

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_and_export(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("name", INSTALLED)
def test_the_page_predicts_as_that_of_the_model(model: Path, name: str) -> None:
    expected, exported = DemoModel(str(model)), ExportedDemoModel(model / name / RUNTIMES[name].file)
    assert exported.labels == expected.labels
    assert exported.problem is expected.problem
    for file in sorted((model.parent / "images").glob("*/1*.png"))[:6]:
        ours, true = (dict(each.rank(read_image(file))) for each in (exported, expected))
        assert list(ours) == list(true)
        assert ours == pytest.approx(true, abs=1e-5)


def test_a_page_without_maps_says_why(model: Path) -> None:
    exported = ExportedDemoModel(model / "onnx" / "model.onnx")
    assert "no activation maps" in exported.why_it_cannot_look()
    with pytest.raises(ModelError, match="no activation maps"):
        exported.look(Image.new("RGB", (8, 8)), 0)


def texts(model: Path) -> str:
    return str(build_page(str(model)).get_config_file()["components"])


def test_the_page_describes_the_training_of_these_weights_alone(model: Path) -> None:
    record = read_record(model)
    for each in (model / "onnx", model / "onnx" / "model.onnx"):
        page = build_page(str(each))
        assert page.title == f"{record.model.architecture} on {record.data.name}"
        assert "How the model was trained" in texts(each)
        assert "no activation maps" in texts(each)
    quantized = model / "onnx" / "model_int8.onnx"
    assert read_exported_record(quantized) is None, "the results of the record are those of other weights"
    assert build_page(str(quantized)).title == "model_int8.onnx"
    assert "How the model was trained" not in texts(quantized)
    assert "An image classification model for 3 classes." in texts(quantized)


def test_a_damaged_record_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    for file in (model / "onnx").iterdir():
        (tmp_path / "onnx" / file.name).write_bytes(b"{" if file.name == "run.json" else file.read_bytes())
    with pytest.raises(PublishError, match=r"run\.json of .* cannot be read"):
        build_page(str(tmp_path / "onnx"))


def test_the_command_serves_an_exported_file(model: Path, tmp_path: Path) -> None:
    image = model.parent / "images" / "red" / "0.png"
    (tmp_path / "uploads").mkdir()
    variables = {
        "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(tmp_path / "uploads")
    }  # fmt: skip
    with (
        serving(["-m", "hf_tl", "demo", str(model / "onnx")], os.environ | variables, tmp_path) as (url, _),
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        [path] = client.post("/gradio_api/upload", files={"files": ("0.png", image.read_bytes())}).json()
        upload = {"path": path, "meta": {"_type": "gradio.FileData"}}
        event = client.post("/gradio_api/call/classify", json={"data": [upload]}).json()["event_id"]
        answer = client.get(f"/gradio_api/call/classify/{event}").text
    assert "event: complete" in answer, answer
    bars, seen = json.loads(answer.split("data: ")[-1])[:2]
    [expected] = hf_tl.predict(model / "onnx", image)
    assert [bar["label"] for bar in bars["confidences"]] == list(expected.labels)
    shares = [bar["confidence"] for bar in bars["confidences"]]
    assert shares == pytest.approx(list(expected.probabilities), abs=1e-5)
    assert seen is None or "path" not in seen, "there is no map"
