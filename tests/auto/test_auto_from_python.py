"""Climbs without evidence, and strategies of `hf_tl.train` that `Trainer` cannot follow."""

from dataclasses import replace
from pathlib import Path

import pytest
from auto.inputs import Inputs, colored
from cli.runs import COLORS
from transformers import Trainer, TrainingArguments

import hf_tl
from hf_tl.data.datasets import load_data
from hf_tl.errors import ConfigError


def test_a_climb_that_ends_with_random_weights(inputs: Inputs, tmp_path: Path) -> None:
    """Selected random weights leave nothing of the pretrained ones, and the card says so."""
    anew = hf_tl.Phase("all", 8, 0.01, augmentation="none")
    short = {"epochs": 1, "learning_rate": 1e-5, "backbone_learning_rate": 1e-5, "augmentation": "none"}
    strategy = hf_tl.Strategy.auto(trainable_stages=("all",), scratch=anew, expected_rung=3, **short)
    data = load_data(colored(several=False))
    model, transforms = hf_tl.load_backbone(inputs.models[0], data.labels, strategy)
    settings = {
        "output_dir": str(tmp_path / "out"),
        "report_to": "none",
        "cpu_threads": 1,
        "per_device_train_batch_size": 8,
    }
    record = hf_tl.train(model, data, strategy, transforms=transforms, **settings).record
    assert [rung["is_kept"] for rung in record.rungs] == [True, True, True]
    assert record.start.kind == "random"
    card = (tmp_path / "out" / "README.md").read_text()
    for text in (", from random weights | ", ", but the last from random weights, and was", "\n- from-scratch\n"):
        assert text in card
    assert "base_model:" not in card


@pytest.mark.parametrize("several", [False, True], ids=["one label", "several labels"])
def test_a_climb_from_python_without_evidence(inputs: Inputs, tmp_path: Path, several: bool) -> None:
    rows = colored(several)
    data = load_data(rows, label_column="red,blue" if several else None)
    strategy = hf_tl.Strategy.auto(trainable_stages=(2, "all"), epochs=1, learning_rate=0.03, augmentation="none")
    model, transforms = hf_tl.load_backbone(inputs.models[0], data.labels, strategy)
    settings = {
        "output_dir": str(tmp_path / "out"),
        "report_to": "none",
        "cpu_threads": 1,
        "per_device_train_batch_size": 8,
    }
    result = hf_tl.train(model, data, strategy, transforms=transforms, **settings)
    assert result.record.recommendation is None
    rungs = result.record.rungs
    assert len(rungs) >= 2
    for rung in rungs[1:]:  # so few validation images only stop it where they show a loss
        assert rung["is_kept"] or rung["why"].startswith("significantly worse")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| Stage depth | Stages trained |" in card
    assert "advisor" not in card


def test_trainer_has_no_place_for_a_climb(inputs: Inputs, tmp_path: Path) -> None:
    strategy = hf_tl.Strategy.auto()
    model, _ = hf_tl.load_backbone(inputs.models[0], list(COLORS), strategy)
    args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(ConfigError, match="the strategy auto is not supported under Trainer"):
        Trainer(model, args, callbacks=[hf_tl.StrategyCallback(strategy)])


def test_trainer_trains_once(inputs: Inputs, tmp_path: Path) -> None:
    strategy = replace(hf_tl.Strategy.full(), refit=True)
    model, _ = hf_tl.load_backbone(inputs.models[0], list(COLORS), strategy)
    args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(ConfigError, match=r"Pass dataclasses.replace\(strategy, refit=False\)"):
        Trainer(model, args, callbacks=[hf_tl.StrategyCallback(strategy)])
