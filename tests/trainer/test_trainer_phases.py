"""Phases under transformers' Trainer: what is frozen, and the learning rates."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from trainer.recorded_trainer import (
    DEEP,
    HEAD,
    REFREEZING,
    TWO_PHASES,
    Recorder,
    make_trainer,
    module_of,
    moved,
    snapshot,
)

from hf_tl.strategy import Phase
from hf_tl.trainer.callback import StrategyCallback


@pytest.mark.parametrize("optimizer", ["adamw_torch_fused", "rmsprop"])
def test_frozen_tensors_stand_still_and_unfrozen_ones_move(tmp_path: Path, images: Dataset, optimizer: str) -> None:
    recorder = Recorder()
    make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES), recorder], optim=optimizer).train()
    start, *steps = recorder.weights
    assert len(steps) == 10
    for step in steps[:4]:
        assert {module_of(name) for name in moved(start, step)} <= {"fc"}
    # at the last step the head has changed, then layer3 and layer4: every tensor, including BatchNorm's statistics
    assert moved(start, steps[3]) == {name for name in start if module_of(name) == "fc"}
    trained = {name for name in start if module_of(name) in ("layer3", "layer4", "fc")}
    for step in steps[4:]:
        assert moved(steps[3], step) <= trained
    assert moved(steps[3], steps[9]) == trained
    assert any("running_var" in name for name in trained)
    assert recorder.frozen == [set(start) - {n for n in start if module_of(n) == "fc"}] * 4 + [set(start) - trained] * 6


def test_stages_can_be_frozen_again(tmp_path: Path, images: Dataset) -> None:
    recorder = Recorder()
    make_trainer(tmp_path, images, [StrategyCallback(REFREEZING), recorder], gradient_accumulation_steps=2).train()
    ends = [0, 3, 5, 6, 7]
    weights = recorder.weights
    phases = [moved(weights[start], weights[end]) for start, end in itertools.pairwise(ends)]
    assert {module_of(name) for name in phases[0]} == {"layer3", "layer4", "fc"}
    assert {module_of(name) for name in phases[1]} == {"fc"}
    assert {module_of(name) for name in phases[2]} == {"layer2", "fc"}
    adapted = {name for name in phases[3] if module_of(name) != "fc"}
    assert any(name.startswith("timm_model.bn1.running_mean") for name in adapted)
    assert all(weights[0][name].ndim <= 1 for name in adapted)
    for step, frozen in enumerate(recorder.frozen):
        assert frozen.isdisjoint(moved(weights[step], weights[step + 1])), step


def expected_rate(phase: Phase, peak: float, step: int, steps: int) -> float:
    rising = int(phase.warmup_ratio * steps)
    if step < rising:
        return peak * step / rising
    return peak * (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2


def test_rates_follow_each_phase(tmp_path: Path, images: Dataset) -> None:
    recorder = Recorder()
    trainer = make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES), recorder])
    trainer.train()
    head = [expected_rate(HEAD, 0.05, step, 4) for step in range(4)]
    head += [expected_rate(DEEP, 0.02, step, 6) for step in range(6)]
    logged = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert logged == pytest.approx(head)
    assert [rates["head"] for rates in recorder.rates] == pytest.approx(head)
    assert [sorted(rates) for rates in recorder.rates] == [["head"]] * 4 + [["head", "layer3", "layer4"]] * 6
    for step in range(6):
        assert recorder.rates[4 + step]["layer4"] == pytest.approx(expected_rate(DEEP, 0.01, step, 6))
        assert recorder.rates[4 + step]["layer3"] == pytest.approx(expected_rate(DEEP, 0.005, step, 6))
    assert recorder.decays[0] == {"head/decay": HEAD.weight_decay, "head/no_decay": 0.0}
    assert recorder.decays[4]["layer3/decay"] == DEEP.weight_decay


def test_the_optimizer_holds_no_state_of_frozen_parameters(tmp_path: Path, images: Dataset) -> None:
    trainer = make_trainer(tmp_path, images, [StrategyCallback(TWO_PHASES)], save_strategy="steps", save_steps=1)
    trainer.train()
    states = [
        torch.load(tmp_path / f"checkpoint-{step}" / "optimizer.pt", weights_only=True)["state"] for step in (4, 5)
    ]
    trained = sum(p.requires_grad for p in trainer.model.parameters())
    assert [len(state) for state in states] == [2, trained]
    assert {int(entry["step"]) for entry in states[1].values()} == {1}  # a new phase begins with empty moments


def test_without_the_callback_frozen_batchnorm_drifts(tmp_path: Path, images: Dataset) -> None:
    """Control: disabled gradients and eval() alone are not sufficient with Trainer."""
    trainer = make_trainer(tmp_path, images, [], remove_unused_columns=False, num_train_epochs=1)
    network = trainer.model
    for module in network.modules():
        module.__dict__.pop("train", None)
    network.eval()
    start = snapshot(network)
    assert {module_of(name) for name, p in network.named_parameters() if p.requires_grad} == {"fc"}
    trainer.train()
    drifted = {name for name in moved(start, snapshot(network)) if module_of(name) != "fc"}
    assert any(name.endswith("running_mean") for name in drifted)


def test_without_the_callback_trainer_drops_the_image(tmp_path: Path, images: Dataset) -> None:
    """Control: the other tests pass `remove_unused_columns` at its default."""
    with pytest.raises(KeyError, match="image"):
        make_trainer(tmp_path, images, []).train()
