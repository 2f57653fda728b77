"""Runs that start from a head from class names: zero-shot is measured, competes with training, and is recorded."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from backbones.two_towers import COLORS, PROMPT, colored, pixels_of, trained_towers, write_towers, zero_shot_logits
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoModelForImageClassification

import hf_tl
from hf_tl.backbones.text.text_head import head_layer
from hf_tl.card.summary import summarize
from hf_tl.cli import main
from hf_tl.data.datasets import ImageData
from hf_tl.errors import CheckpointError, ConfigError
from hf_tl.record import read_record
from hf_tl.strategy import Phase, Strategy
from hf_tl.tuning import LoRA

QUICK: dict[str, Any] = {"report_to": "none", "feature_cache": "off", "head_init": "text", "prompt": PROMPT}
HARM: dict[str, Any] = {"lr": 300.0, "head_penalty": 0.0, "epochs": 0.6}
"""Settings of a training that forgets what the text tower knows."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_towers(tmp_path_factory.mktemp("towers") / "tiny-clip", "clip"))


@pytest.fixture(scope="module")
def data() -> ImageData:
    return hf_tl.load_data(colored(100, spread=50), dataset_name="colors", validation_fraction=0.25)


def run(clip: str, data: Any, folder: Path, strategy: Any = "transfer", **settings: Any) -> hf_tl.RunResult:
    return hf_tl.train(clip, data, strategy, output_dir=str(folder), **{**QUICK, "epochs": 1, **settings})


def saved_head(folder: Path) -> torch.Tensor:
    return head_layer(AutoModelForImageClassification.from_pretrained(folder)).weight.detach()


def text_head(clip: str) -> torch.Tensor:
    model, _ = hf_tl.load_backbone(clip, list(COLORS), head_init="text", prompt=PROMPT)
    weight = head_layer(model).weight.detach()
    return weight / weight.norm()


@pytest.mark.parametrize("strategy", ["transfer", "finetune"])
def test_zero_shot_is_measured_and_recorded_for_every_strategy(
    clip: str, data: ImageData, tmp_path: Path, strategy: str
) -> None:
    result = run(clip, data, tmp_path / "run", strategy)
    head = result.record.text_head
    assert head is not None
    assert (head.source, head.prompts, head.revision) == ("tiny-clip", (PROMPT,), None)
    towers = trained_towers("clip")
    for split in ("validation", "test"):
        rows = data.splits[split]
        logits = zero_shot_logits(towers, pixels_of(list(rows["image"]), "clip"))
        accuracy = float((logits.argmax(1) == torch.tensor(rows["label"])).float().mean())
        assert head.zero_shot[split].metrics["accuracy"] == pytest.approx(accuracy)
        assert head.zero_shot[split].images == len(rows)
    assert {phase.recipe.head_penalty for phase in result.record.phases} == {1.0}
    card, summary = (tmp_path / "run" / "README.md").read_text(), summarize(result.record, tmp_path / "run")
    shown = f"{head.zero_shot['test'].metrics['accuracy']:.1%}"
    assert f"Zero-shot test accuracy, before training: {shown} ({len(data.splits['test'])} images" in card
    assert all(text in card for text in ("made from the class names", PROMPT, "`tiny-clip`", "head penalty 1"))
    assert f"Zero-shot test accuracy        {shown}" in summary
    assert read_record(tmp_path / "run").text_head == head


def test_training_continues_from_the_text_head(clip: str, data: ImageData, tmp_path: Path) -> None:
    """The penalty keeps the head nearer to its starting weights."""
    start, distances = text_head(clip), []
    for penalty in (0.0, 1.0):
        run(clip, data, tmp_path / str(penalty), epochs=4, head_penalty=penalty)
        weight = saved_head(tmp_path / str(penalty))
        distances.append(float((weight / weight.norm() - start).norm()))
    assert 0.2 > distances[0] > distances[1] > 0  # two random directions have a distance of 1.4


def test_zero_shot_is_kept_where_training_harms(clip: str, data: ImageData, tmp_path: Path) -> None:
    result = run(clip, data, tmp_path / "run", **HARM)
    record, head = result.record, result.record.text_head
    assert head is not None
    assert record.best is not None
    assert (record.best["epoch"], len(record.phases)) == (0.0, 1)
    assert result.test_accuracy == head.zero_shot["test"].metrics["accuracy"]
    weight = saved_head(tmp_path / "run")
    assert torch.allclose(weight / weight.norm(), text_head(clip), atol=1e-6)
    images = pixels_of(list(data.splits["test"]["image"]), "clip")
    plain = AutoModelForImageClassification.from_pretrained(tmp_path / "run").eval()
    network = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True).eval()
    expected = zero_shot_logits(trained_towers("clip"), images).argmax(1)
    with torch.inference_mode():
        assert torch.equal(plain(pixel_values=images).logits.argmax(1), expected)
        assert torch.equal(network(images).argmax(1), expected)
    assert "zero-shot head, before training" in summarize(record, tmp_path / "run")
    assert "the head from the class names, before training" in (tmp_path / "run" / "README.md").read_text()


def test_zero_shot_is_kept_where_adapters_harm(clip: str, data: ImageData, tmp_path: Path) -> None:
    phase = Phase("all", 0.6, 300.0, tuning=LoRA(rank=2), augmentation="none")
    model, transforms = hf_tl.load_backbone(clip, data.labels, head_init="text", prompt=PROMPT)
    quick = {"report_to": "none", "feature_cache": "off"}
    result = hf_tl.train(model, data, [phase], transforms=transforms, output_dir=str(tmp_path / "run"), **quick)
    assert result.record.text_head is not None
    assert result.test_accuracy == result.record.text_head.zero_shot["test"].metrics["accuracy"]
    assert not (tmp_path / "run" / "adapter").exists()


def test_zero_shot_is_the_stage_depth_0_of_a_search(clip: str, data: ImageData, tmp_path: Path) -> None:
    strategy = Strategy.auto(trainable_stages=("all",), epochs=1)
    model, transforms = hf_tl.load_backbone(clip, data.labels, head_init="text", prompt=PROMPT)
    quick = {"report_to": "none", "feature_cache": "off"}
    result = hf_tl.train(model, data, strategy, transforms=transforms, output_dir=str(tmp_path), **quick)
    record = result.record
    assert record.text_head is not None
    zero_shot = record.text_head.zero_shot["validation"].metrics["accuracy"]
    assert record.rungs[0]["gain"] == pytest.approx(record.rungs[0]["accuracy"] - zero_shot)
    card = (tmp_path / "README.md").read_text()
    assert f"| 0 | none: zero-shot | 0 | {zero_shot:.1%} (" in card
    assert "| 1 | `head` |" in card


def test_a_search_ends_at_zero_shot_where_training_the_head_harms(clip: str, data: ImageData, tmp_path: Path) -> None:
    strategy = Strategy.auto(trainable_stages=("all",), epochs=0.6, learning_rate=300.0, head_penalty=0.0)
    model, transforms = hf_tl.load_backbone(clip, data.labels, head_init="text", prompt=PROMPT)
    quick = {"report_to": "none", "feature_cache": "off"}
    result = hf_tl.train(model, data, strategy, transforms=transforms, output_dir=str(tmp_path), **quick)
    record = result.record
    assert record.text_head is not None
    assert [rung["is_kept"] for rung in record.rungs] == [False]
    assert record.stopped == "significantly worse than the stage depth before"
    assert record.refit is None  # nothing to retrain
    assert result.test_accuracy == record.text_head.zero_shot["test"].metrics["accuracy"]
    assert "| kept |" in (tmp_path / "README.md").read_text()


def test_the_command_line_and_python_train_to_the_same_weights(clip: str, tmp_path: Path) -> None:
    for number, row in enumerate(colored(60)):
        (folder := tmp_path / "data" / list(COLORS)[row["label"]]).mkdir(parents=True, exist_ok=True)
        row["image"].save(folder / f"{number}.png")
    result = run(clip, str(tmp_path / "data"), tmp_path / "python")
    words = ["--model", clip, "--dataset", str(tmp_path / "data"), "--epochs", "1", "-o", str(tmp_path / "command")]
    words += ["--head_init", "text", "--prompt", PROMPT, "--report_to", "none", "--feature_cache", "off"]
    main(["train", *words])
    record = read_record(tmp_path / "command")
    assert record.weights_digest == result.record.weights_digest
    assert record.command is not None
    assert "--model tiny-clip" in record.command
    assert "--head_init text --prompt 'a photo of {}'" in record.command


def interrupt(steps: int, train: Callable[[], Any]) -> None:
    """Start a run with SIGTERM after some steps."""
    count = [0]

    def stop(*_: object) -> None:
        count[0] += 1
        if count[0] == steps:
            os.kill(os.getpid(), signal.SIGTERM)

    hook = register_optimizer_step_post_hook(stop)
    try:
        with pytest.raises(SystemExit):
            train()
    finally:
        hook.remove()


@pytest.mark.parametrize("strategy", ["transfer", "finetune"])
def test_a_resumed_run_ends_with_the_same_weights_and_zero_shot_results(
    clip: str, data: ImageData, tmp_path: Path, strategy: str
) -> None:
    whole = run(clip, data, tmp_path / "whole", strategy, epochs=2).record
    interrupt(3, lambda: run(clip, data, tmp_path / "run", strategy, epochs=2))
    with pytest.raises(CheckpointError, match="text head was"):
        run(clip, data, tmp_path / "run", strategy, epochs=2, prompt="the {}", resume_from_checkpoint="auto")
    resumed = run(clip, data, tmp_path / "run", strategy, epochs=2, resume_from_checkpoint="auto").record
    assert resumed.weights_digest == whole.weights_digest
    assert resumed.text_head == whole.text_head


def test_settings_that_do_not_suit_a_text_head_are_refused(clip: str, data: ImageData, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='head_solver="lbfgs" fits it anew'):
        hf_tl.train(clip, data, output_dir=str(tmp_path), **QUICK, head_solver="lbfgs")
    with pytest.raises(ConfigError, match="needs pretrained weights"):
        run(clip, data, tmp_path, "scratch")
    with pytest.raises(ConfigError, match="class names in words, found 0, 1, 2, 3, 4"):
        run(clip, "digits", tmp_path)
    with pytest.raises(ConfigError, match="those of a new head are random"):
        hf_tl.train(clip, data, output_dir=str(tmp_path), head_penalty=1.0)
    model, transforms = hf_tl.load_backbone(clip, data.labels, head_init="text")
    for strategy in (Strategy.transfer(head_solver="lbfgs"), Strategy.scratch()):
        with pytest.raises(ConfigError, match="head_init"):
            hf_tl.train(model, data, strategy, transforms=transforms, output_dir=str(tmp_path))
    with pytest.raises(ConfigError, match="from_random_weights replaces"):
        Phase("all", 1, from_random_weights=True, head_penalty=1.0)


def tagged(images: int) -> Dataset:
    """Return images with the name of their color as one of several labels."""
    rows = colored(images)
    tags = [[list(COLORS)[row["label"]], *(["blue"] if row["label"] == 0 else [])] for row in rows]
    features = Features({"image": ImageFeature(), "label": List(Value("string"))})
    return Dataset.from_dict({"image": rows["image"], "label": tags}, features=features)


def test_several_labels_per_image_need_a_text_tower_with_a_bias(clip: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="such as SigLIP's, found"):
        run(clip, tagged(60), tmp_path / "clip")
    siglip = write_towers(tmp_path / "siglip", "siglip")
    record = run(str(siglip), tagged(60), tmp_path / "run").record
    assert record.text_head is not None
    assert 0 < record.text_head.zero_shot["test"].metrics["mean_average_precision"] <= 1
    assert record.text_head.zero_shot["test"].interval is None
