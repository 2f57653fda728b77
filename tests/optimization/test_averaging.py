"""Weight averaging: closed form, excluded tensors, and resume."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from training import small_runs
from training.small_runs import Run, StoppedError, differences, result_of, train

from hf_tl.backbones.stages.freezing import freeze, frozen_tensors
from hf_tl.optimization.averaging import WeightAverage
from hf_tl.strategy import Phase


@pytest.mark.parametrize("decay", [0.1, 0.5, 0.9])
def test_the_average_is_the_closed_form(decay: float) -> None:
    """a_t = d_t a_{t-1} + (1 - d_t) w_t, with d_t = min(decay, (1 + t) / (10 + t))."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    average, expected = WeightAverage(model, decay), 0.0
    for step in range(1, 40):
        nn.init.constant_(model.weight, float(step % 7))
        average.update(step)
        factor = min(decay, (1 + step) / (10 + step))
        expected = factor * expected + (1 - factor) * (step % 7)
        assert average.state_dict()["weight"].item() == pytest.approx(expected, rel=1e-5)
        assert model.weight.item() == step % 7
    with average.applied():
        assert model.weight.item() == pytest.approx(expected, rel=1e-5)
    assert model.weight.item() == 39 % 7
    average.apply()
    assert model.weight.item() == pytest.approx(expected, rel=1e-5)


def test_only_what_is_not_frozen_is_averaged() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    freeze(model, 2)
    names = set(WeightAverage(model, 0.9).state_dict())
    assert names.isdisjoint(frozen_tensors(model))
    assert "fc.weight" in names
    assert any(name.startswith("layer4") and name.endswith("running_mean") for name in names)
    freeze(model, 2, batch_norm="keep")
    assert not any("running" in name for name in WeightAverage(model, 0.9).state_dict())


def test_the_average_is_restored_from_its_state() -> None:
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.5)
    nn.init.ones_(model.weight)
    average.update(1)
    other = WeightAverage(model, 0.5)
    other.load_state_dict({name: tensor.clone() for name, tensor in average.state_dict().items()})
    assert torch.equal(other.state_dict()["weight"], average.state_dict()["weight"])
    assert not torch.equal(other.state_dict()["weight"], model.weight)


AVERAGED = (
    Phase(1, 1, 0.05, ema_decay=0.9),
    Phase(2, 2, 0.02, ema_decay=0.9, mixup=0.4, cutmix=1.0, class_weights="balanced", balanced_sampling=True),
)


@pytest.fixture
def averaged(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(small_runs.PHASES, "averaged", AVERAGED)
    return "averaged"


def test_a_resumed_run_with_average_and_mixing_is_bit_identical(averaged: str, tmp_path: Path) -> None:
    whole = result_of(train(Run(str(tmp_path / "whole"), averaged)))
    run = Run(str(tmp_path / "stopped"), averaged, config={"save_steps": 1})
    for stop in (2, 4, 6, 7):  # the first phase ends after step 4
        with pytest.raises(StoppedError):
            train(run, stop)
        run = Run(run.output, averaged, {**run.config, "resume_from_checkpoint": "auto"}, seed=run.seed + 1)
    assert not differences(whole, result_of(train(run)))


def test_a_run_without_the_restored_average_differs(
    averaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = result_of(train(Run(str(tmp_path / "whole"), averaged)))
    run = Run(str(tmp_path / "stopped"), averaged, config={"save_steps": 1})
    with pytest.raises(StoppedError):
        train(run, 6)
    monkeypatch.setattr(WeightAverage, "load_state_dict", lambda *_: None)
    run = Run(run.output, averaged, {**run.config, "resume_from_checkpoint": "auto"}, seed=1)
    assert differences(whole, result_of(train(run)))


def test_evaluations_and_the_next_phase_use_the_average(averaged: str, tmp_path: Path) -> None:
    """The selected weights are the average, computed here from the weights after each step."""
    training = train(Run(str(tmp_path), averaged))
    name, first_phase = "timm_model.fc.weight", 4
    best = training.state.log.best
    assert best is not None
    best_step = round(best["epoch"] * small_runs.IMAGES / 4)
    average = training.weights[0][name]
    for step in range(1, best_step + 1):
        factor = min(0.9, (1 + (t := step - first_phase * (step > first_phase))) / (10 + t))
        average = factor * average + (1 - factor) * training.weights[step][name]
    torch.testing.assert_close(training.model.state_dict()[name], average)
    assert not torch.equal(training.weights[best_step][name], training.model.state_dict()[name])
