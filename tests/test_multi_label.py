"""Multi-label images, from the data to a saved model that plain transformers reads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from backbones.checkpoints import tiny_vit
from cli.printed import as_printed, metrics_of
from datasets import Dataset, List, Value
from datasets import Image as ImageFeature
from hub.client import run_python
from PIL import Image
from transformers import Trainer, TrainingArguments

import hf_tl
from hf_tl.backbones.load import load_backbone, set_problem_type
from hf_tl.cli import ERROR_STATUS, main
from hf_tl.data.datasets import load_data
from hf_tl.data.decoding.images import collate
from hf_tl.errors import ConfigError
from hf_tl.evaluation.measure import measure
from hf_tl.evaluation.metrics import trainer_metrics
from hf_tl.record import read_record
from hf_tl.strategy import Phase, Strategy
from hf_tl.trainer.callback import StrategyCallback

NAMES = ["red", "green", "blue"]
SIDE = 32
TINY = ["--model", "timm:test_resnet", "--no_pretrained", "--image_size", "32", "--report_to", "none"]
TINY += ["--cpu_threads", "1", "--augmentation", "none", "--per_device_train_batch_size", "8"]
RECIPE = ["--strategy", "full", "--learning_rate", "0.01", "--backbone_learning_rate", "0.01", "--batch_norm", "update"]


def make_images(count: int, seed: int) -> tuple[list[Image.Image], np.ndarray]:
    """Draw noise with a stripe in the color of each class of the image."""
    random = np.random.default_rng(seed)
    flags = random.integers(0, 2, (count, 3))
    images = []
    for seen in flags:
        pixels = random.integers(0, 60, (SIDE, SIDE, 3))
        for color in np.flatnonzero(seen):
            pixels[:, color * 10 + 1 : color * 10 + 9, color] += 170
        images.append(Image.fromarray(pixels.astype(np.uint8)))
    return images, flags


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write parquet files with a column of zeros and ones for each class."""
    folder = tmp_path_factory.mktemp("data") / "stripes"
    folder.mkdir()
    for split, count in (("train", 96), ("test", 24)):
        images, flags = make_images(count, seed=count)
        columns = {name: flags[:, number].tolist() for number, name in enumerate(NAMES)}
        rows = Dataset.from_dict({"image": images, **columns}).cast_column("image", ImageFeature())
        rows.to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def trained(stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    more = ["--num_train_epochs", "5", "--mixup", "0.2", "--cutmix", "1.0", "--class_weights", "balanced"]
    data = ["--dataset", str(stripes), "--label_column", "red,green,blue"]
    main(["train", *TINY, *RECIPE, *more, *data, "--output_dir", str(folder)])
    return folder


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == ERROR_STATUS
    return capsys.readouterr().err


def test_a_run_learns_and_keeps_the_best_epoch(trained: Path) -> None:
    record = read_record(trained)
    test = record.measured["test"].metrics
    assert test["mean_average_precision"] > 0.9  # chance is the share of positives, one half
    assert test["micro_f1"] > 0.8
    best = max(entry["validation"]["mean_average_precision"] for entry in record.history)
    assert record.best is not None
    assert record.best["validation"]["mean_average_precision"] == best
    assert list(record.data.labels) == NAMES
    assert json.loads((trained / "config.json").read_text())["problem_type"] == "multi_label_classification"
    card = (trained / "README.md").read_text()
    assert "An image classification model for 3 labels, any number of them per image" in card
    assert f"{100 * test['mean_average_precision']:.1f}%" in card
    assert hf_tl.RunResult(trained, record).test_accuracy == test["subset_accuracy"]


def test_plain_transformers_gives_a_sigmoid_for_each_class(trained: Path, tmp_path: Path) -> None:
    images, flags = make_images(8, seed=7)
    files = [str(tmp_path / f"{number}.png") for number in range(8)]
    for image, file in zip(images, files, strict=True):
        image.save(file)
    code = f"""
import json
from transformers import pipeline
classify = pipeline("image-classification", model={str(trained)!r})
print(json.dumps([{{answer["label"]: answer["score"] for answer in answers}} for answers in classify({files!r})]))
"""
    scores = json.loads(run_python(code, "http://127.0.0.1:9", tmp_path).splitlines()[-1])
    probabilities = np.array([[score[name] for name in NAMES] for score in scores])
    model, transforms = hf_tl.load(trained)
    with torch.inference_mode():
        logits = model(pixel_values=torch.stack([transforms.eval(image) for image in images])).logits
    np.testing.assert_allclose(probabilities, logits.sigmoid().numpy(), atol=1e-4)
    assert ((probabilities > 0.5) == flags).mean() > 0.8
    assert abs(probabilities.sum(1) - 1).max() > 0.5


def test_predict_shows_a_sigmoid_for_each_class(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = make_images(1, seed=3)[0][0]
    image.save(tmp_path / "stripes.png")
    main(["predict", str(trained), str(tmp_path / "stripes.png")])
    _, *lines = capsys.readouterr().out.splitlines()
    model, transforms = hf_tl.load(trained)
    with torch.inference_mode():
        scores = model(pixel_values=transforms.eval(image)[None]).logits.sigmoid()[0]
    assert {line.split()[1]: line.split()[0] for line in lines} == {
        name: f"{score:.2%}" for name, score in zip(NAMES, scores.tolist(), strict=True)
    }


def test_evaluate_finds_what_was_recorded(trained: Path, stripes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = read_record(trained).measured["test"].metrics
    evaluation = ["evaluate", str(trained), "--dataset", str(stripes)]
    main([*evaluation, "--label_column", "blue,red,green"])  # matched by name
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "test: 24 images"
    assert metrics_of(lines) == as_printed(recorded)
    assert "the model is for multi_label_classification" in fails([*evaluation, "--label_column", "red"], capsys)


def test_flags_for_single_label_images_are_refused(
    stripes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["train", *TINY, "--dataset", str(stripes), "--label_column", "red,green,blue", "--balanced_sampling"]
    assert "--balanced_sampling needs a single-label dataset" in fails(
        [*run, "--output_dir", str(tmp_path / "out")], capsys
    )
    assert not (tmp_path / "out").exists()


def test_a_single_label_run_of_a_multi_label_model_is_single_label(
    trained: Path, stripes: Path, tmp_path: Path
) -> None:
    """The data set the problem type, for any checkpoint; the learning rate sweep runs for both."""
    short = ["--num_train_epochs", "1", "--find_learning_rate", "--report_to", "none", "--cpu_threads", "1"]
    for column, kind in (("red", "single_label"), ("red,blue", "multi_label")):
        folder = tmp_path / kind
        data = ["--dataset", str(stripes), "--label_column", column]
        main(["train", "--model", str(trained), *data, *short, "--output_dir", str(folder)])
        assert json.loads((folder / "config.json").read_text())["problem_type"] == f"{kind}_classification"
        assert json.loads((folder / "run.json").read_text())["hyperparameters"]["learning rate of the head"]


def trainer_of(model: Any, folder: Path, phases: tuple[Phase, ...], **arguments: Any) -> Trainer:
    images, flags = make_images(32, seed=5)
    rows = Dataset.from_dict({"image": images, "label": flags.tolist()}).cast_column("image", ImageFeature())
    data = load_data(rows.cast_column("label", List(Value("int64"), length=3)))
    transforms = hf_tl.load_backbone("timm:test_resnet", NAMES, pretrained=False, image_size=SIDE)[1]
    train, validation = (data.splits[split].with_transform(transforms.eval) for split in ("train", "validation"))
    defaults = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}
    args = TrainingArguments(str(folder), **{**defaults, "per_device_train_batch_size": 4, **arguments})
    return Trainer(
        model, args, collate, train, validation,
        compute_metrics=trainer_metrics, callbacks=[StrategyCallback(Strategy("test", phases))],
    )  # fmt: skip


def make_model() -> Any:
    torch.manual_seed(0)
    kind = "multi_label_classification"
    return load_backbone("timm:test_resnet", NAMES, pretrained=False, image_size=SIDE, problem_type=kind)[0]


def test_trainer_uses_the_binary_loss_and_the_same_metrics(tmp_path: Path) -> None:
    trainer = trainer_of(make_model(), tmp_path, (Phase("all", 4, 0.01),))
    trainer.train()
    metrics = trainer.evaluate()
    expected = measure(Accelerator(cpu=True), trainer.model, trainer.eval_dataset, batch_size=3)
    assert metrics["eval_loss"] == pytest.approx(expected.pop("loss"), abs=1e-5)
    assert {name: metrics[f"eval_{name}"] for name in expected} == pytest.approx(expected)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    trainer.save_model()
    assert json.loads((tmp_path / "config.json").read_text())["problem_type"] == "multi_label_classification"


@pytest.mark.filterwarnings("ignore:Label smoothing is not compatible")
def test_trainer_may_not_smooth_labels_as_if_they_were_of_one_class(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Trainer smooths single-label classes only"):
        trainer_of(make_model(), tmp_path, (Phase(1, 1, label_smoothing=0.1),), label_smoothing_factor=0.1)


def test_accumulated_batches_have_the_loss_of_one(tmp_path: Path) -> None:
    """transformers' own models accept keyword arguments of the loss, which its binary loss ignores."""
    losses = []
    for batch, accumulated in ((4, 1), (2, 2)):
        model = tiny_vit()
        set_problem_type(model, "multi_label_classification")
        sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
        trainer = trainer_of(model, tmp_path, (Phase(1, 1, 0.01),), **sizes)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
