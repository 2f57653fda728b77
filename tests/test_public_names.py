"""Public names: typed, with one word for one meaning, and results that are shown in a few lines."""

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

import hf_tl
from hf_tl.backbones.load import preprocessing_of

LABELS = ("ant", "moth")
FUNCTIONS = [name for name in hf_tl.__all__ if inspect.isfunction(getattr(hf_tl, name))]
WORDS = {
    *("model", "dataset", "images", "first", "second", "labels", "strategy", "trainable_stages", "output_dir"),
    *("repo_id", "transforms", "examples", "reading", "settings"),
    *("name",),  # of a backbone: a Hub id or timm:ARCH, which is not a trained model
}
"""Arguments that a caller must give: each word has one meaning in all functions."""
FAR = 1000


def parameters(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(getattr(hf_tl, name)).parameters)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_needed_arguments_have_the_common_words(name: str) -> None:
    needed = {key for key, each in parameters(name).items() if each.default is each.empty}
    assert needed <= WORDS


def test_arguments_of_one_name_have_one_type() -> None:
    """`batch_size`, `split`, `seed`, … mean the same wherever they occur."""
    kinds: dict[str, set[str]] = {}
    for name in FUNCTIONS:
        for key, each in parameters(name).items():
            kinds.setdefault(key, set()).add(str(each.annotation).replace(" | None", ""))
    for key in ("split", "seed", "batch_size", "include_training_images", "revision", "token", "max_images"):
        assert len(kinds[key]) == 1, key


@pytest.mark.parametrize(
    ("name", "old", "new", "required"),
    [
        ("load", "name", "model", []),
        ("export", "model_name", "model", []),
        ("load_data", "name", "dataset", []),
        ("push", "output_dir", "model", ["repo_id"]),
        ("load_data", "config_name", "dataset_config", ["dataset"]),
        ("load_data", "revision", "dataset_revision", ["dataset"]),
        ("inspect", "revision", "dataset_revision", ["dataset"]),
        ("recommend", "config_name", "dataset_config", ["dataset"]),
        ("evaluate", "revision", "dataset_revision", ["model"]),
        ("compare", "config_name", "dataset_config", ["first", "second"]),
        ("export", "revision", "dataset_revision", ["model"]),
    ],
)
def test_an_old_keyword_works_with_a_warning(
    name: str, old: str, new: str, required: list[str], tmp_path: Path
) -> None:
    function, missing = getattr(hf_tl, name), str(tmp_path / "missing")
    others = dict.fromkeys(required, missing)
    with (
        pytest.warns(FutureWarning, match=rf"{name}\({old}=\.\.\.\) is deprecated: write {new}="),
        pytest.raises(hf_tl.HfTlError),
    ):
        function(**{old: missing}, **others)
    with pytest.raises(TypeError, match=f"got {new} twice"):
        function(**{old: missing, new: missing}, **others)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return an instance of each public class that people look at, made by the public functions."""
    folder = tmp_path_factory.mktemp("shown")
    random = np.random.default_rng(0)
    for label, brightness in zip(LABELS, (60, 160), strict=True):
        (folder / "pets" / label).mkdir(parents=True)
        for number in range(12):
            pixels = random.normal(brightness, 60, (24, 24, 3)).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "pets" / label / f"{number}.png")
    pets = str(folder / "pets")
    untrained, _ = hf_tl.load_backbone("timm:test_resnet", LABELS, pretrained=False, image_size=32)
    del untrained.config.hf_tl
    untrained.save_pretrained(backbone := str(folder / "backbone"))
    strategy = hf_tl.Strategy.transfer(epochs=1)
    model, transforms = hf_tl.load_backbone(backbone, LABELS, strategy)
    run = hf_tl.train(model, pets, strategy, transforms=transforms, output_dir=str(folder / "run"), report_to="none")
    stages = hf_tl.list_stages(model)
    return {
        "Backbone": hf_tl.Backbone(backbone, image_size=64),
        "Comparison": hf_tl.compare(run, backbone, pets),
        "Evaluation": hf_tl.evaluate(run, pets),
        "ExportResult": hf_tl.export(run, "torchscript", dataset=pets),
        "ImageData": hf_tl.load_data(pets),
        "Inspection": hf_tl.inspect(pets, backbone),
        "PredictionResult": hf_tl.predict(run, pets),
        "Preprocessing": preprocessing_of(model),
        "Recommendation": hf_tl.recommend(pets, backbone, max_images=20, trial_budget=0),
        "RunResult": run,
        "Stage": stages[0],
        "Stages": stages,
        "Transforms": transforms,
    }


NAMES = (
    "Backbone", "Comparison", "Evaluation", "ExportResult", "ImageData", "Inspection", "PredictionResult",
    "Preprocessing", "Recommendation", "RunResult", "Stage", "Stages", "Transforms",
)  # fmt: skip
NOT_SHOWN = {"HfTlError", "StrategyCallback", "StrategyTrainer", "TrainingViews", "Phase", "Strategy", "LoRA"}
"""Classes of which people look at no instance; phases and strategies are tested in `strategy/`."""


def test_every_public_class_is_among_them() -> None:
    classes = {name for name in hf_tl.__all__ if inspect.isclass(getattr(hf_tl, name))}
    assert classes - NOT_SHOWN <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_value_prints_in_a_few_lines(name: str, shown: dict[str, Any]) -> None:
    text = repr(shown[name])
    assert len(text.splitlines()) <= 8
    assert len(text) <= 800


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("Backbone", "Stage")])
def test_a_notebook_shows_text_that_loads_nothing(name: str, shown: dict[str, Any]) -> None:
    html = shown[name]._repr_html_()
    assert not re.search(r"<(script|link|iframe|object)|https?://|url\(", html)
    pictures = re.findall(r'<img alt="([^"]+)"[^>]*src="data:image/png;base64,', html)
    assert len(pictures) == (name in ("Comparison", "Evaluation", "Recommendation", "RunResult"))
    assert html.count("<img") == len(pictures)
    assert html.count("text-align:") == len(re.findall(r"<t[dh]\b", html))  # notebooks align cells to the right


ROWS: dict[str, tuple[int, set[str]]] = {
    "Comparison": (2, {"class", "A", "B", "difference", "p_value"}),
    "Evaluation": (2, {"class", "images", "precision", "recall", "recall_low", "recall_high"}),
    "Inspection": (FAR, {"finding", "file", "split", "label", "detail"}),
    "PredictionResult": (24, {"image", "label", "probability", "error"}),
    "Recommendation": (1, {"backbone", "is_recommended", "accuracy", "low", "high"}),
    "RunResult": (1, {"phase", "epoch", "train_loss", "validation_accuracy"}),
    "Stages": (6, {"stage", "parameters"}),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_become_a_table_of_pandas(name: str, shown: dict[str, Any]) -> None:
    count, columns = ROWS[name]
    table = shown[name].to_pandas()
    assert columns <= set(table.columns)
    assert len(table) == count or count == FAR


def test_a_missing_pandas_is_named(shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    for name in ROWS:
        with pytest.raises(hf_tl.HfTlError, match="pip install pandas"):
            shown[name].to_pandas()


def test_the_numbers_that_people_want_are_shown(shown: dict[str, Any]) -> None:
    accuracy = f"{shown['RunResult'].test_accuracy:.1%}"
    assert re.search(rf"Test accuracy +{accuracy} \(\d images, 95% CI ", repr(shown["RunResult"]))
    assert re.search(rf"accuracy +{accuracy} \(95% CI ", repr(shown["Evaluation"]))
    assert re.search(rf"A +run: {accuracy} \(95% CI ", repr(shown["Comparison"]))
    assert str(shown["RunResult"].output_dir) in repr(shown["RunResult"])
    assert sum(stage.parameters for stage in shown["Stages"]) == sum(
        parameter.numel() for parameter in hf_tl.load(shown["RunResult"])[0].parameters()
    )


def test_names_from_strangers_stay_text(tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>\n\x1b[31mred"
    labels = [hostile, "b"]
    torch.manual_seed(0)
    model, _ = hf_tl.load_backbone("timm:test_resnet", labels, pretrained=False, image_size=32)
    result = hf_tl.predict(model, [Image.new("RGB", (40, 40))])
    rows = {"image": [str(save_image(tmp_path / f"{number}.png")) for number in range(4)], "label": [0, 1, 0, 1]}
    features = Features(image=ImageFeature(), label=ClassLabel(names=labels))
    evaluation = hf_tl.evaluate(model, Dataset.from_dict(rows, features=features))
    for value in (result, evaluation):
        assert "<img src=x" not in value._repr_html_()
        assert "\x1b" not in repr(value) + repr(result[0])
        assert len(repr(value).splitlines()) <= 8


def save_image(path: Path) -> Path:
    Image.fromarray(np.random.default_rng(len(path.name)).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)
    return path


WRONG: dict[str, tuple[Callable[[Any, str], Any], str]] = {
    "a missing folder": (lambda run, data: hf_tl.predict(run, "no/folder"), "no/folder: the image cannot be read"),
    "a missing model": (lambda run, data: hf_tl.evaluate("no/such/model", data), "no model 'no/such/model'"),
    "all that load returns": (lambda run, data: hf_tl.evaluate(hf_tl.load(run), data), "give the first of them"),
    "a wrong order": (lambda run, data: hf_tl.evaluate(hf_tl.load_data(data).splits["test"], run), "comes first"),
    "a misspelt split": (
        lambda run, data: hf_tl.evaluate(run, hf_tl.load_data(data), split="tset"), r"did you mean test\?"
    ),
    "a split of data without": (lambda run, data: hf_tl.evaluate(run, data, split="dev"), "the splits train"),
    "a misspelt format": (lambda run, data: hf_tl.export(run, "onx", dataset=data), r"one of onnx, openvino"),
    "a missing column": (
        lambda run, data: hf_tl.evaluate(run, hf_tl.load_data(data), label_column="x"), "no column 'x': .* image, label"
    ),
    "a misspelt keyword": (
        lambda run, data: hf_tl.compare(run, run, data, labl_column="x"), r"did you mean label_column\?"
    ),
    "no class asked for": (lambda run, data: hf_tl.predict(run, data, top_k=0), "top_k takes an integer of at least 1"),
    "a number as data": (lambda run, data: hf_tl.recommend(3, "x"), r"expected a dataset \(a name, .* found int"),
    "an empty batch": (lambda run, data: hf_tl.evaluate(run, data, batch_size=0), "batch_size takes an integer"),
    "a threshold for one class": (lambda run, data: hf_tl.predict(run, data, threshold=0.5), "for multi-label models"),
    "splits given twice": (
        lambda run, data: hf_tl.load_data(hf_tl.load_data(data), label_column="x"), "already split .*pass label_column"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_call_says_in_a_line_what_to_write(
    call: Callable[[Any, str], Any], message: str, shown: dict[str, Any]
) -> None:
    run = shown["RunResult"]
    with pytest.raises(hf_tl.HfTlError) as refused:
        call(run, str(run.output_dir.parent / "pets"))
    assert re.search(message, str(refused.value))
    assert len(str(refused.value).splitlines()) <= 3
