"""ONNX with preprocessing inside: pixels of Pillow, probabilities of the model, classes in the file itself."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backbones.checkpoints import save_timm, timm_network
from exporting.test_exported_models import LIBRARIES, run
from pages import blocks
from PIL import Image

import hf_tl
from hf_tl.cli import main
from hf_tl.demo.demo_exported import ExportedDemoModel
from hf_tl.errors import ConfigError, ModelError, SaveError
from hf_tl.exporting.whole import FILE, PIXELS_FILE, check_whole, verify_whole, write_whole
from hf_tl.runtime.preprocessing import apply
from hf_tl.runtime.runners import open_session, run_session
from hf_tl.runtime.whole import IMAGE, PROBABILITIES, WholeModel, open_exported

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
PAGE = Path(__file__).parents[2] / "hf_tl" / "exporting" / "README.md"
SIZES = ((300, 200), (61, 149), (40, 40), (33, 32), (640, 427))
STEPS: dict[str, Any] = {
    "mode": "RGB",
    "channel_order": "RGB",
    "resize": {"shortest_edge": 37},
    "interpolation": "bicubic",
    "center_crop": {"height": 32, "width": 30, "offset": "round"},
    "rescale_factor": 1 / 255,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "size": {"height": 32, "width": 30},
    "scores": "softmax",
    "labels": ["ant", "moth", "zebra"],
}
GRAY = {"mode": "L", "channel_order": "L", "mean": [0.5], "std": [0.25], "labels": ["dark"]}
SQUASHED = {"resize": {"height": 32, "width": 30}, "center_crop": None}


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    random = np.random.default_rng(0)
    noise = [Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)) for width, height in SIZES]
    return [*noise, *(image.resize((9, 7)).resize(image.size, Image.Resampling.BICUBIC) for image in noise)]


def average(folder: Path, channels: int) -> Path:
    """Write a network whose logits are the means of the channels."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixel_values"], ["means"]),
        helper.make_node("Flatten", ["means"], ["logits"]),
    ]
    pixels = helper.make_tensor_value_info("pixel_values", kind, ["batch", channels, 32, 30])
    logits = helper.make_tensor_value_info("logits", kind, ["batch", channels])
    model = helper.make_model(
        helper.make_graph(nodes, "average", [pixels], [logits]), opset_imports=[helper.make_opsetid("", 20)]
    )
    model.ir_version = 10
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"interpolation": "bilinear"},
        {"center_crop": {"height": 32, "width": 30, "offset": "truncate"}},
        SQUASHED,
        {"channel_order": "BGR", "rescale_factor": 1.0, "mean": [104.0, 117.0, 123.0], "std": [1.0, 1.0, 1.0]},
        GRAY,
        GRAY | SQUASHED | {"interpolation": "bilinear", "scores": "sigmoid"},
    ],
    ids=["bicubic", "bilinear", "truncated", "squashed", "BGR", "gray", "gray squashed"],
)
def test_the_operators_make_the_pixels_of_the_steps(
    tmp_path: Path, images: list[Image.Image], changes: dict[str, Any]
) -> None:
    steps = STEPS | changes
    check_whole(steps)
    whole = write_whole(average(tmp_path, len(steps["mean"])), steps)
    onnx.checker.check_model(onnx.load(whole), full_check=True)
    session = open_session(tmp_path / PIXELS_FILE)
    shares = []
    for image in images:
        pixels, expected = run_session(session, IMAGE, np.asarray(image), ["pixel_values"])[0][0], apply(steps, image)
        assert pixels.shape == expected.shape
        levels = np.abs(pixels - expected) * np.reshape(steps["std"], (-1, 1, 1)) / steps["rescale_factor"]
        assert levels.max() < 1.01, "no pixel differs by more than a level"
        shares.append((levels > 0.5).mean())
        logits = pixels.mean(axis=(1, 2), dtype=np.float64)
        weights = np.exp(logits - logits.max())
        scores = weights / weights.sum() if steps["scores"] == "softmax" else 1 / (1 + np.exp(-logits))
        model = WholeModel(whole, open_session(whole))
        assert model.outputs([np.asarray(image)]).probabilities[0] == pytest.approx(scores, abs=1e-5)
    assert np.mean(shares) < 0.01, "and few pixels do"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"interpolation": "lanczos"}, "found lanczos"),
        ({"resize": None}, "found no resize"),
        ({"resize": {"max_height": 32, "max_width": 30, "rounding": "round"}}, "found another resize"),
        ({"resize": {"shortest_edge": 31}}, "found a crop that is larger"),
        ({"resize": {"height": 40, "width": 29}}, "found a crop that is larger"),
    ],
)
def test_other_preprocessings_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=rf"{reason}: leave out --with_preprocessing|{reason}: leave out with_pre"):
        check_whole(STEPS | changes)


@pytest.fixture(scope="module", params=["timm", "transformers", "multi-label"])
def models(
    request: pytest.FixtureRequest,
    timm_folder: Path,
    vit_folder: Path,
    colors: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """Return a model, and its export."""
    folder = tmp_path_factory.mktemp("whole")
    model = {"timm": timm_folder, "transformers": vit_folder}.get(request.param)
    if model is None:
        model = save_timm(timm_network(), folder / "model", problem_type="multi_label_classification")
    return model, Path(hf_tl.export(model, "onnx", folder / "onnx", dataset=colors, with_preprocessing=True))


def test_the_program_of_the_page_names_the_class(models: tuple[Path, Path], colors: Path) -> None:
    model, exported = models
    [code] = [code for code in blocks(PAGE, "python") if "DIR/onnx/model_with_preprocessing.onnx" in code]
    for image in sorted(colors.glob("test/*/0.png")):
        program = code.replace('"DIR/onnx', f'"{exported}').replace('"IMAGE"', repr(str(image)))
        done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True)
        assert done.stdout.strip() == hf_tl.predict(model, image)[0].label, done.stderr


def test_the_file_alone_predicts_as_the_model(
    models: tuple[Path, Path], images: list[Image.Image], tmp_path: Path
) -> None:
    model, exported = models
    report = json.loads((exported / "export.json").read_text())["with_preprocessing"]
    assert not (exported / PIXELS_FILE).exists()
    assert report["same_prediction"] == 1
    assert report["probabilities"] < 0.01
    assert report["pixel_levels"]["mean"] < 0.2  # 0.15 with torchvision 0.22
    alone = Path(shutil.copyfile(exported / FILE, tmp_path / "any name.onnx"))
    expected = hf_tl.predict(model, images)
    for ours, true in zip(hf_tl.predict(alone, images), expected, strict=True):
        assert dict(zip(ours.labels, ours.probabilities, strict=True)) == pytest.approx(
            dict(zip(true.labels, true.probabilities, strict=True)), abs=2e-3
        )
    is_multi_label = json.loads((exported / "export.json").read_text())["model"]["problem_type"].startswith("multi")
    assert open_exported(alone).is_multi_label == is_multi_label
    page = ExportedDemoModel(alone)
    [best, *_] = page.rank(images[0])
    assert page.labels[best[0]] == expected[0].labels[0]


def test_the_file_needs_none_of_the_libraries(models: tuple[Path, Path], colors: Path, tmp_path: Path) -> None:
    model, exported = models
    done = run(LIBRARIES, "predict", str(exported / FILE), str(colors / "test"), "-o", "table.csv", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    hf_tl.predict(model, str(colors / "test")).save(tmp_path / "expected.csv")
    ours, true = (
        [line.split(",")[:2] for line in (tmp_path / name).read_text().splitlines()]
        for name in ("table.csv", "expected.csv")
    )
    assert ours == true


def test_logits_are_asked_for_where_metrics_need_them(models: tuple[Path, Path], colors: Path) -> None:
    model, exported = models
    for call in (
        lambda: hf_tl.evaluate(exported / FILE, colors),
        lambda: hf_tl.compare(model, exported / FILE, colors),
    ):
        with pytest.raises(ModelError, match=r"found probabilities in .*; name the file of the same export without"):
            call()


def test_an_option_of_onnx_is_refused_for_other_formats(timm_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"with_preprocessing.* needs .*onnx"):
        hf_tl.export(timm_folder, "torch_export", tmp_path / "out", with_preprocessing=True)
    assert not (tmp_path / "out").exists()


def test_the_command_says_how_much_differs(
    timm_folder: Path, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--with_preprocessing", "--dataset", str(colors), "--output_dir", str(tmp_path / "out")]
    main(["export", str(timm_folder), *flags])
    text = capsys.readouterr().out
    assert f"{FILE} (" in text.splitlines()[0]
    assert "with preprocessing inside, by ONNX Runtime: " in text
    assert "predictions agree on 100.0%" in text


@pytest.mark.parametrize("changes", ["pixels", "probabilities"])
def test_a_file_that_differs_from_the_model_is_refused(tmp_path: Path, images: list[Image.Image], changes: str) -> None:
    whole = write_whole(average(tmp_path, 3), STEPS)
    pixels = np.stack([apply(STEPS, image) for image in images])
    expected = open_exported(whole).outputs([np.asarray(image) for image in images]).probabilities
    if changes == "pixels":
        pixels = pixels + 2 / 255 / 0.224
    else:
        expected = expected + 0.02
    with pytest.raises(SaveError, match="must give the pixels of the model"):
        verify_whole(whole, images, pixels, expected, STEPS["std"])


@pytest.mark.parametrize(
    "metadata",
    [{}, {"scores": "softmax"}, {"scores": "other", "labels": '["a"]'}, {"scores": "softmax", "labels": "{"}],
)
def test_a_file_without_its_classes_is_refused(tmp_path: Path, metadata: dict[str, str]) -> None:
    whole = write_whole(average(tmp_path, 3), STEPS)
    model = onnx.load(whole)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, whole)
    with pytest.raises(ModelError, match=f"expected class names in the metadata of .*{FILE}"):
        hf_tl.predict(whole, Image.new("RGB", (8, 8)))


def test_other_class_names_than_probabilities_are_an_error(tmp_path: Path) -> None:
    whole = write_whole(average(tmp_path, 3), STEPS)
    model = onnx.load(whole)
    onnx.helper.set_model_props(model, {"scores": "softmax", "labels": '["a", "b"]'})
    onnx.save(model, whole)
    with pytest.raises(ModelError, match="expected 2 probabilities"):
        hf_tl.predict(whole, Image.new("RGB", (8, 8)))
    assert model.graph.output[0].name == PROBABILITIES
