"""Training on cached features equals training on images."""

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from features.cached_runs import IMAGE, assert_close, cached, entries, inputs_of, losses, uncached, uses_features
from training.launched_runs import launch, read_result, result_path
from training.small_runs import (
    IMAGES,
    Run,
    differences,
    make_images,
    make_transforms,
    result_of,
    resumed,
    stopped_at,
    train,
)

from hf_tl.backbones.prefix.search import find_boundary
from hf_tl.views.views import TrainingViews

ACCUMULATED = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}


@pytest.mark.parametrize(
    ("phases", "config", "accelerator", "expected"),
    [
        ("transfer", {}, {}, [True]),
        ("finetune", {}, {}, [True, True]),
        ("unfreezing", {}, {}, [True, True, True, False]),
        ("balanced", {}, {}, [True]),
        ("finetune", ACCUMULATED, {}, [True, True]),
        ("finetune", {"gradient_checkpointing": True}, {}, [True, True]),
    ],
    ids=["transfer", "finetune", "unfreezing", "balanced", "accumulated", "checkpointed"],
)
def test_losses_and_weights_equal_training_on_images(
    tmp_path: Path, phases: str, config: dict[str, Any], accelerator: dict[str, Any], expected: list[bool]
) -> None:
    run = Run(str(tmp_path), phases, {**config, "save_total_limit": 0}, accelerator=accelerator)
    images, features = train(uncached(run)), train(cached(run, tmp_path / "features"))
    assert uses_features(images) == [False] * len(expected)
    assert uses_features(features) == expected
    assert_close(features, images, 0.01 if phases == "finetune" else 1e-3)
    assert not differences(images.frozen, features.frozen)


@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
def test_half_precision_is_close_and_takes_half(tmp_path: Path, mixed_precision: str) -> None:
    run = Run(str(tmp_path), "finetune", {"save_total_limit": 0}, accelerator={"mixed_precision": mixed_precision})
    images = train(uncached(run))
    features = train(cached(run, tmp_path / "features", feature_dtype="bfloat16"))
    assert uses_features(features) == [True, True]
    assert losses(features) == pytest.approx(losses(images), rel=0.05)
    if mixed_precision == "no":
        train(cached(run, tmp_path / "whole"))
        sizes = [
            sorted(file.stat().st_size for file in (tmp_path / name).glob("*/0.bin")) for name in ("features", "whole")
        ]
        assert [2 * size for size in sizes[0]] == sizes[1]
        assert len(sizes[0]) == 2, "training and validation have the same images, and share an entry"


def test_a_resumed_run_on_features_is_bit_identical(tmp_path: Path) -> None:
    """The second time `auto` would not compute them: one epoch costs one pass, and the cache was emptied."""
    run = cached(Run(str(tmp_path / "a"), "short", {"save_steps": 1}), tmp_path / "features")
    expected = train(run)
    assert uses_features(expected) == [True, True]
    for stop in (2, 6):
        run = cached(Run(str(tmp_path / str(stop)), "short", {"save_steps": 1}), tmp_path / f"features-{stop}")
        stopped_at(run, stop)
        for entry in entries(tmp_path / f"features-{stop}"):
            subprocess.run(["rm", "-r", tmp_path / f"features-{stop}" / entry], check=True)
        resumed_training = train(resumed(run, feature_cache="auto" if stop == 6 else "on"))
        assert differences(result_of(expected), result_of(resumed_training)) == []


def test_a_phase_resumed_on_images_stays_with_images(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "a"), "short", {"save_steps": 1, "feature_cache_dir": str(tmp_path / "features")})
    expected = train(run)
    before = entries(tmp_path / "features")
    assert uses_features(expected)[1] is False, "one epoch is not worth a pass"
    run = replace(run, output=str(tmp_path / "b"))
    stopped_at(run, 6)
    resumed_training = train(resumed(run, feature_cache="on"))
    assert uses_features(resumed_training)[1] is False
    assert differences(result_of(expected)["weights"], result_of(resumed_training)["weights"]) == []
    assert entries(tmp_path / "features") == before


def test_epochs_cycle_through_the_cached_views(tmp_path: Path) -> None:
    run = cached(Run(str(tmp_path), "views"), tmp_path / "features", cached_views=3)
    training, inputs = inputs_of(run)
    assert len(entries(tmp_path / "features")) == 4
    boundary = find_boundary(training.model, IMAGE)
    views = TrainingViews(make_images(run), make_transforms(run).train, 0)
    with torch.inference_mode():
        for epoch in range(6):
            expected = boundary.features(
                training.model, torch.stack([views[epoch % 3, index]["pixel_values"] for index in range(IMAGES)])
            )
            batch = inputs.train.__getitems__([(epoch, index) for index in range(IMAGES)])
            assert torch.allclose(batch["features"][0], expected[0], rtol=1e-3, atol=1e-4 * float(expected[0].max()))
            assert batch["labels"].tolist() == [index % 3 for index in range(IMAGES)]
            assert batch["index"].tolist() == list(range(IMAGES))
    mixed = inputs.train.__getitems__([(2, 13), (3, 4), (4, 4)])["features"][0]
    single = [inputs.train[key]["features"][0] for key in ((2, 13), (0, 4), (1, 4))]
    assert torch.equal(mixed, torch.cat(single))
    assert not torch.equal(single[1], single[2])


def test_with_a_view_per_epoch_training_equals_augmented_images(tmp_path: Path) -> None:
    run = Run(str(tmp_path), "views", {"save_total_limit": 0})
    images = train(run)
    assert uses_features(images) == [False, False]
    features = train(cached(run, tmp_path / "features", cached_views=4))
    assert uses_features(features) == [True, True]
    assert_close(features, images, 0.01)


@pytest.mark.parametrize(
    ("phases", "config", "reason"),
    [
        ("gradual", {}, "light augmentation changes images in each epoch"),
        ("averaged", {}, "images are mixed"),
        ("transfer", {"test_time_flip": True}, "test_time_flip=True measures with mirrored images too"),
    ],
)
def test_phases_that_need_images_say_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], phases: str, config: dict[str, Any], reason: str
) -> None:
    _, inputs = inputs_of(cached(Run(str(tmp_path), phases, config), tmp_path / "features"))
    assert f"Training on images, without cached features: {reason}" in capsys.readouterr().out
    assert isinstance(inputs.train, TrainingViews)


@pytest.mark.slow
def test_two_processes_share_the_pass_and_train_like_one(tmp_path: Path) -> None:
    """Nothing depends on how a batch is split: the norms freeze their statistics."""
    config = {"save_steps": 1}
    alone = cached(Run(str(tmp_path / "one"), "kept", config, dropout=0), tmp_path / "features-one")
    split = {**config, "per_device_train_batch_size": 2}
    two = cached(Run(str(tmp_path / "two"), "kept", split, dropout=0), tmp_path / "features-two")
    images = uncached(replace(two, output=str(tmp_path / "images")))
    again = replace(two, output=str(tmp_path / "again"))
    for run, processes in ((alone, 1), (two, 2), (again, 2), (images, 2)):
        Path(run.output).mkdir()
        process = launch(run, processes)
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-3000:]
        if run is again:
            assert "from the cache" in output
            assert "Features of" not in errors
    single, first, second, plain = (
        torch.load(result_path(run, rank)) for run, rank in ((alone, 0), (two, 0), (two, 1), (images, 0))
    )
    assert [phase["uses_features"] for phase in first["log"]["phases"]] == [True, True]
    assert entries(tmp_path / "features-one").keys() == entries(tmp_path / "features-two").keys()
    for step, weights in single["by step"]["weights"].items():
        for other in (first, second, plain):
            for name, tensor in weights.items():
                assert torch.allclose(other["by step"]["weights"][step][name], tensor, rtol=1e-3, atol=1e-5), name
    assert not differences(read_result(two), read_result(again))
