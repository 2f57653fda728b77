"""The programs of hf_tl/evaluation/README.md: metrics in `Trainer` and in `evaluate.evaluator`, without the network."""

from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from backbones.checkpoints import save_transformers, tiny_vit
from exporting.models import write_images
from pages import blocks

import hf_tl
from hf_tl.evaluation.measure import measure

pytestmark = pytest.mark.long

PAGE = Path(__file__).parents[2] / "hf_tl" / "evaluation" / "README.md"
BACKBONE = '"timm/tf_efficientnet_lite0.in1k"'


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the names after the page's programs on a small folder and backbone, with a model in `photos-model`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_images(tmp_path / "photos")
    backbone = save_transformers(tiny_vit(), tmp_path / "backbone")
    hf_tl.train(
        hf_tl.load_backbone(str(backbone), ["ant", "moth", "zebra"])[0], "photos", hf_tl.Strategy.full(epochs=4),
        output_dir="photos-model", report_to="none",
    )  # fmt: skip
    training, *others = blocks(PAGE, "python")
    assert training.count(BACKBONE) == 1
    names: dict[str, Any] = {"outputs": []}
    names["print"] = names["outputs"].append
    for code in (training.replace(BACKBONE, repr(str(backbone))), *others):
        exec(code, names)
    return names


def test_trainer_and_evaluator_have_the_metrics_of_the_training_loop(run: dict[str, Any]) -> None:
    accuracy, macro_f1, evaluated = run["outputs"]
    data, transforms = run["data"], run["transforms"]
    validation = data.splits["validation"].with_transform(transforms.eval)
    expected = measure(Accelerator(), run["model"], validation, 8)
    assert accuracy == pytest.approx(expected["accuracy"])
    assert macro_f1 == pytest.approx(expected["macro_f1"])
    model, transforms = hf_tl.load("photos-model")
    expected = measure(Accelerator(), model, data.splits["test"].with_transform(transforms.eval), 8)
    assert {name: evaluated[name] for name in ("accuracy", "macro_f1")} == {
        name: pytest.approx(expected[name]) for name in ("accuracy", "macro_f1")
    }
    assert evaluated["accuracy"] > 1 / 3
