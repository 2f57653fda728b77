"""Cached features are reused where nothing that they depend on changed, and are never stale or damaged."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli.runs import TINY, write_images
from features.cached_runs import assert_close, cached, entries, losses, uncached, uses_features
from torchvision.transforms import v2
from training.small_runs import IMAGES, SIDE, RecordedTraining, Run, differences, make_training, result_of, train

from hf_tl.record import read_record


def test_a_second_run_uses_the_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = cached(Run(str(tmp_path), "finetune", {"save_total_limit": 0}), tmp_path / "features")
    first = train(run)
    before = entries(tmp_path / "features")
    assert "Caching features of 28 images before head" in capsys.readouterr().out
    for again in (run, replace(run, config={**run.config, "feature_cache": "auto"})):
        second = train(again)
        printed = capsys.readouterr().out
        assert printed.count("Using features of 28 images before") == 2
        assert "Caching features" not in printed
        assert not differences(first.weights, second.weights)
    assert {key: value for key, value in entries(tmp_path / "features").items() if key in before} == before
    assert not list((tmp_path / "features").glob(".partial-*"))


def another_head(training: RecordedTraining) -> None:
    with torch.no_grad():
        training.model.timm_model.fc.weight.add_(1)


def other_weights(training: RecordedTraining) -> None:
    with torch.no_grad():
        training.model.timm_model.layer4[0].conv1.weight[0, 0, 0, 0] += 1e-3


def other_statistics(training: RecordedTraining) -> None:
    training.model.timm_model.layer1[0].bn1.running_mean[0] += 1e-3


def other_order(training: RecordedTraining) -> None:
    training.data.train_images = training.data.validation_images = training.data.train_images.select(
        range(IMAGES)[::-1]
    )


def other_image(training: RecordedTraining) -> None:
    pixels = [np.asarray(image) for image in training.data.train_images["image"]]
    pixels[3] = 255 - pixels[3]
    rows = training.data.train_images.to_dict() | {"image": pixels}
    features = training.data.train_images.features
    training.data.train_images = training.data.validation_images = type(training.data.train_images).from_dict(
        rows, features=features
    )


def other_transforms(training: RecordedTraining) -> None:
    original = training.data.transforms_of

    def darker(phase: Any) -> Any:
        transforms = original(phase)
        transforms.eval.pipeline.transforms.append(torch.nn.ReLU())
        transforms.train.pipeline.transforms.append(torch.nn.ReLU())
        return transforms

    training.data.transforms_of = darker


def other_pooling(training: RecordedTraining) -> None:
    """Change the settings of the network, and keep its weights."""
    training.model.timm_model.reset_classifier(3, "max")
    training.model.config.model_args = {"global_pool": "max"}


@pytest.mark.parametrize(
    "change",
    [another_head, other_weights, other_statistics, other_order, other_image, other_transforms, other_pooling],
    ids=lambda change: change.__name__,
)
def test_everything_that_features_depend_on_changes_the_entry(
    tmp_path: Path, change: Callable[[RecordedTraining], None]
) -> None:
    run = Run(str(tmp_path), "transfer", {"save_total_limit": 0})
    train(cached(run, tmp_path / "features"))
    before = entries(tmp_path / "features")
    results = []
    for other in (cached(run, tmp_path / "features"), uncached(run)):
        training = make_training(other)
        torch.manual_seed(1)
        change(training)
        torch.manual_seed(0)
        training.run()
        results.append(training)
    is_new = len(entries(tmp_path / "features")) > len(before)
    assert is_new == (change is not another_head)
    assert_close(*results)


def large_jpegs(training: RecordedTraining) -> None:
    """Use images eight times as large as the input."""
    files = []
    for image in training.data.train_images["image"]:
        image.resize((8 * SIDE, 8 * SIDE)).save(stream := io.BytesIO(), "JPEG", quality=95)
        files.append({"bytes": stream.getvalue(), "path": None})
    rows = {"image": files, "label": training.data.train_images["label"]}
    features = training.data.train_images.features
    training.data.train_images = training.data.validation_images = type(training.data.train_images).from_dict(
        rows, features=features
    )
    original = training.data.transforms_of

    def resized(phase: Any) -> Any:
        transforms = original(phase)
        for transform in {id(t): t for t in (transforms.train, transforms.eval)}.values():
            transform.pipeline.transforms.insert(0, v2.Resize(SIDE))
        return transforms

    training.data.transforms_of = resized


def test_only_training_images_are_decoded_at_a_reduced_size(tmp_path: Path) -> None:
    """Evaluated images have the features of whole images, with or without the flag."""
    run = Run(str(tmp_path), "transfer", {"save_total_limit": 0})
    stored, results = [], []
    for flags in ({}, {"decode_reduced": True}):
        training = make_training(cached(run, tmp_path / "features", **flags))
        large_jpegs(training)
        torch.manual_seed(0)
        training.run()
        stored.append(entries(tmp_path / "features"))
        results.append(training)
    assert len(stored[0]) == 1, "training and validation have the same images, and share an entry"
    assert len(stored[1]) == 2
    assert stored[0].items() < stored[1].items()
    whole, reduced = (losses(training) for training in results)
    assert whole != reduced
    assert reduced == pytest.approx(whole, rel=0.05)


def test_damaged_features_are_reported_and_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = cached(Run(str(tmp_path), "transfer", {"save_total_limit": 0}), tmp_path / "features")
    expected = train(run)
    (file, *_) = (tmp_path / "features").glob("*/0.bin")
    content = bytearray(file.read_bytes())
    content[10] ^= 64
    file.write_bytes(content)
    again = train(run)
    assert "is incomplete or damaged (damaged: 0.bin)" in capsys.readouterr().out
    assert not differences(expected.weights, again.weights)
    assert uses_features(again) == [True]


@pytest.fixture(params=["no folder", "full", "read-only"])
def unwritable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Return a folder that features cannot be written to."""
    folder = tmp_path / "disk"
    if request.param == "no folder":
        folder.write_text("a file")
        yield folder / "features"
        return
    folder.mkdir()
    options = "size=4k" if request.param == "full" else "ro"
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]).returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_run_without_a_writable_cache_trains_on_images(
    tmp_path: Path, unwritable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(str(tmp_path / "run"), "finetune", {"save_total_limit": 0})
    training = train(cached(run, unwritable))
    printed = capsys.readouterr().out
    assert printed.count(f"Training on images, without cached features: cannot write to {unwritable}") == 2
    assert uses_features(training) == [False, False]
    assert differences(result_of(train(uncached(run))), result_of(training)) == []
    names = [path.name for path in unwritable.iterdir()] if unwritable.is_dir() else []
    assert not [name for name in names if not name.endswith(".lock")]


def test_more_features_than_the_limit_are_not_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each set alone would fit: the second would evict the first."""
    run = Run(str(tmp_path / "run"), "transfer", {"save_total_limit": 0})
    entry_bytes = IMAGES * 96 * 4
    training = train(cached(run, tmp_path / "features", feature_cache_gb=1.5 * entry_bytes / 1e9))
    assert uses_features(training) == [False]
    assert "exceed feature_cache_gb=" in capsys.readouterr().out
    assert entries(tmp_path / "features") == {}


@pytest.mark.slow
def test_the_command_line_finds_its_features_again(tmp_path: Path) -> None:
    write_images(tmp_path / "colors" / "train", 24)
    command = [sys.executable, "-m", "hf_tl", "train", *TINY, "--dataset", str(tmp_path / "colors")]
    command += ["--strategy", "transfer", "--num_train_epochs", "4", "--learning_rate", "0.03"]
    command += ["--feature_cache_dir", str(tmp_path / "features")]
    outputs, records, made = {}, {}, {}
    for name, cache in (("images", "off"), ("first", "on"), ("second", "auto")):
        output = ["--output_dir", str(tmp_path / name), "--feature_cache", cache]
        process = subprocess.run(
            [*command, *output],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "ACCELERATE_USE_CPU": "true"},
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr[-3000:]
        outputs[name] = process.stdout + process.stderr
        records[name] = read_record(tmp_path / name)
        made[name] = entries(tmp_path / "features")
    assert made["images"] == {}
    assert len(made["first"]) >= 2
    assert made["first"] == made["second"]
    assert "Features of" in outputs["first"]
    assert "Features of" not in outputs["second"]
    assert "from the cache" in outputs["second"]
    histories = [
        [(entry["train_loss"], entry["validation"]["loss"]) for entry in record.history] for record in records.values()
    ]
    assert histories[1] == histories[2]
    assert histories[1] == [pytest.approx(pair, rel=1e-3) for pair in histories[0]]
    # images with cached features are not decoded to check them; a changed one is
    next((tmp_path / "colors").rglob("*.png")).write_bytes(b"no image")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.run([*command, "--output_dir", str(tmp_path / "last")], env=environment, capture_output=True)
    assert process.returncode == 2
    assert b"1 images cannot be used" in process.stderr
