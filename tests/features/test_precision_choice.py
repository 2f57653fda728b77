"""Precision of the frozen part and of training steps: measured, recorded, kept by a resumed run."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from features.cached_runs import cached, entries, uncached
from hypothesis import given
from hypothesis import strategies as draws
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from training.small_runs import RecordedTraining, Run, stopped_at, train

import hf_tl
from hf_tl.backbones.prefix.fast import FastPrefix
from hf_tl.backbones.prefix.search import find_boundary
from hf_tl.config import TrainingConfig
from hf_tl.evaluation.paired import difference_p_value
from hf_tl.features import precision as frozen
from hf_tl.features.precision import MAX_NOISE, choose_precision, noise
from hf_tl.processes import precision as processes
from hf_tl.processes.precision import BFLOAT16, FLOAT32, precise
from hf_tl.record.parts import PhaseRecord, PrecisionRecord
from hf_tl.training import step_precision as steps

CPU = torch.device("cpu")


@pytest.fixture
def always_measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Measure short phases too, and take bfloat16 also where it is slower, as on a machine that computes it fast."""
    monkeypatch.setattr(frozen, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(steps, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(processes, "MIN_SPEEDUP", 0.0)
    monkeypatch.setattr(processes, "MIN_RUNS", 0)
    return


def phases_of(training: RecordedTraining) -> list[PhaseRecord]:
    return list(training.state.log.phases)


@given(draws.integers(-20, 20), draws.sampled_from([0.5, 1.0, 2.0]), draws.integers(2, 9))
def test_noise_is_relative_to_the_distance_between_images(exponent: int, error: float, images: int) -> None:
    """Compare with the mean over all pairs of images, on numbers that bfloat16 holds exactly."""
    features = torch.arange(images * 3, dtype=torch.float64).reshape(images, 3)
    pairs = [float((a - b).square().sum()) for a in features for b in features if not torch.equal(a, b)]
    expected = 3 * error**2 / (sum(pairs) / len(pairs))
    scaled, moved = features * 2.0**exponent, (features + error) * 2.0**exponent
    assert noise([scaled], [moved]) == pytest.approx(expected)
    assert noise([scaled], [scaled]) == 0


def test_noise_of_features_that_are_not_finite_or_constant() -> None:
    features = torch.tensor([[1.0], [2.0]])
    assert noise([features], [torch.tensor([[1.0], [float("nan")]])]) == float("inf")
    assert noise([features.new_ones(2, 1)], [features.new_ones(2, 1)]) == 0
    assert noise([features.new_ones(2, 1)], [features.new_full((2, 1), 2.0)]) == float("inf")
    assert noise([features, features], [features, features + 1]) == 1, "the largest of all leaves"


def test_features_that_agree_predict_the_same() -> None:
    """The criterion on a pretrained network and real images: heads on both differ by no more than noise."""
    data = hf_tl.load_data("digits")
    model, transforms = hf_tl.load_backbone("demo", data.labels, image_size=64)
    hf_tl.freeze(model, 1)
    boundary = find_boundary(model, (3, 64, 64))
    features: dict[str, dict[str, Tensor]] = {FLOAT32: {}, BFLOAT16: {}}
    labels: dict[str, np.ndarray] = {}
    for split, count in (("train", 300), ("test", 360)):
        rows = data.splits[split].select(range(count))
        labels[split] = np.array(rows["label"])
        pixels = torch.stack([transforms.eval(image) for image in rows["image"]])
        for name in features:
            prefix = FastPrefix(model, boundary, pixels[:2], lambda name=name: precise(name, CPU))
            features[name][split] = prefix(pixels)[0].flatten(1).float()
    measured = noise([features[FLOAT32]["test"]], [features[BFLOAT16]["test"]])
    assert 0 < measured <= MAX_NOISE
    right = {
        name: LogisticRegression(max_iter=300).fit(parts["train"], labels["train"]).predict(parts["test"])
        == labels["test"]
        for name, parts in features.items()
    }
    assert right[FLOAT32].mean() > 0.8
    assert difference_p_value(right[FLOAT32], right[BFLOAT16]) > 0.05


@pytest.mark.parametrize("asked", [FLOAT32, BFLOAT16])
def test_a_precision_that_is_asked_for_is_taken_unmeasured(asked: Any) -> None:
    def refused(_: Tensor) -> list[Tensor]:
        raise AssertionError

    config = TrainingConfig(feature_dtype=asked)
    assert choose_precision(Accelerator(), config, refused, torch.zeros(4, 3, 8, 8), 1e9) == PrecisionRecord(asked)


@pytest.mark.parametrize(("images", "runs"), [(100, 0), (1000, 1)])
def test_short_work_is_not_measured(images: int, runs: int) -> None:
    """100 images are 25 times the sample: a measurement would take too large a part of the time."""
    calls = []

    def features_of(pixel_values: Tensor) -> list[Tensor]:
        calls.append(len(pixel_values))
        return [pixel_values]

    chosen = choose_precision(Accelerator(), TrainingConfig(), features_of, torch.randn(4, 3, 8, 8), images)
    assert chosen == PrecisionRecord(FLOAT32)
    assert calls == [4] * runs


@pytest.mark.usefixtures("always_measured")
@pytest.mark.parametrize(("error", "chosen"), [(0.01, BFLOAT16), (1.0, FLOAT32), (float("nan"), FLOAT32)])
def test_features_that_differ_are_computed_in_float32(error: float, chosen: str) -> None:
    def features_of(pixel_values: Tensor) -> list[Tensor]:
        return [pixel_values + error * torch.is_autocast_enabled("cpu")]

    record = choose_precision(Accelerator(), TrainingConfig(), features_of, torch.randn(8, 3, 8, 8), 100)
    assert record.precision == chosen
    assert record.images_per_second.keys() == {FLOAT32, BFLOAT16}


def test_bfloat16_must_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(processes, "MIN_RUNS", 0)
    monkeypatch.setattr(processes, "MIN_SPEEDUP", 1e9)
    record = choose_precision(
        Accelerator(), TrainingConfig(), lambda pixels: [pixels.flatten(1) @ torch.eye(192)], torch.randn(8, 3, 8, 8), 1
    )
    assert record.precision == FLOAT32
    assert record.images_per_second


@pytest.mark.usefixtures("always_measured")
@pytest.mark.parametrize("way", ["features", "images"])
def test_a_resumed_run_keeps_what_was_chosen(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(str(tmp_path / "whole"), "transfer" if way == "features" else "patient", {"save_steps": 1})
    run = cached(run, tmp_path / "features") if way == "features" else uncached(run)
    whole = train(run)
    first, *_ = phases_of(whole)
    assert first.frozen_precision is not None
    assert first.step_precision is not None
    assert {first.frozen_precision.precision, first.step_precision.precision} == {BFLOAT16}
    assert first.uses_features is (way == "features")
    part = replace(run, output=str(tmp_path / "part"))
    stopped_at(part, 2)
    for module in (frozen, steps):
        monkeypatch.setattr(module, "MIN_SECONDS", float("inf"))  # a new measurement would choose float32
    resumed = train(replace(part, config={**part.config, "resume_from_checkpoint": "auto"}))
    kept, *_ = phases_of(resumed)
    assert kept.frozen_precision is not None
    assert kept.step_precision is not None
    assert {kept.frozen_precision.precision, kept.step_precision.precision} == {BFLOAT16}
    last = max(whole.weights)
    assert all(torch.equal(resumed.weights[last][name], tensor) for name, tensor in whole.weights[last].items())


@pytest.mark.usefixtures("always_measured")
def test_features_in_the_cache_are_used_in_their_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = cached(Run(str(tmp_path / "first"), "transfer", {"save_total_limit": 0}), tmp_path / "features")
    train(run)
    before = entries(tmp_path / "features")
    monkeypatch.setattr(processes, "MIN_SPEEDUP", 1e9)  # a new measurement would choose float32
    again = train(replace(run, output=str(tmp_path / "again")))
    assert entries(tmp_path / "features") == before
    assert phases_of(again)[0].reuses_features
    assert phases_of(again)[0].frozen_precision == PrecisionRecord(BFLOAT16)


@pytest.mark.usefixtures("always_measured")
@pytest.mark.parametrize("asked", ["no", "bf16"])
def test_a_launcher_or_a_setting_comes_before_a_measurement(tmp_path: Path, asked: str) -> None:
    run = uncached(Run(str(tmp_path), "norms frozen", {"save_total_limit": 0, "mixed_precision": asked}))
    first, *_ = phases_of(train(run))
    assert first.step_precision == PrecisionRecord(BFLOAT16 if asked == "bf16" else FLOAT32)


@pytest.mark.usefixtures("always_measured")
def test_a_measurement_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights after training in float32 are the same with and without measurements before it."""
    monkeypatch.setattr(processes, "MIN_SPEEDUP", 1e9)
    run = uncached(Run(str(tmp_path / "a"), "averaged", {"save_total_limit": 0}))
    measured = train(run)
    settings = {**run.config, "mixed_precision": "no", "feature_dtype": "float32"}
    plain = train(replace(run, output=str(tmp_path / "b"), config=settings))
    assert phases_of(measured)[-1].step_precision.images_per_second
    assert measured.weights.keys() == plain.weights.keys()
    for step, weights in plain.weights.items():
        assert all(torch.equal(tensor, measured.weights[step][name]) for name, tensor in weights.items())
