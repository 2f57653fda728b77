"""Trials: strategies compared by cross-validated training."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from advisor.colored_images import colored

import hf_tl
from hf_tl.advisor.trials.results import Trial, choose_trial, gain_p_value
from hf_tl.config import StrategyConfig
from hf_tl.errors import ConfigError
from hf_tl.strategy_config import Preference


def trial(strategy: str, right: np.ndarray, seconds: float, groups: np.ndarray | None = None) -> Trial:
    groups = np.arange(len(right)) if groups is None else groups
    settings = StrategyConfig(strategy=strategy)  # type: ignore[arg-type]
    return Trial(settings, strategy, right, np.ones(len(right), bool), groups, groups, seconds, 10, True)


def with_right(count: int, images: int = 100) -> np.ndarray:
    return np.arange(images) < count


@pytest.mark.parametrize(
    ("quick", "slow", "chosen"),
    [
        (80, 81, {"accuracy": "full", "balance": "transfer", "speed": "transfer"}),
        (80, 84, {"accuracy": "full", "balance": "full", "speed": "transfer"}),
        (70, 90, {"accuracy": "full", "balance": "full", "speed": "full"}),
        (80, 80, {"accuracy": "transfer", "balance": "transfer", "speed": "transfer"}),
        (90, 70, {"accuracy": "transfer", "balance": "transfer", "speed": "transfer"}),
    ],
)
def test_the_preference_decides(quick: int, slow: int, chosen: dict[str, str]) -> None:
    trials = [trial("transfer", with_right(quick), 2), trial("full", with_right(slow), 60)]
    for prefer, strategy in chosen.items():
        assert choose_trial(trials, prefer).settings.strategy == strategy, prefer  # type: ignore[arg-type]


def test_a_head_that_is_better_by_chance_is_not_preferred() -> None:
    quick, slow = with_right(32, 50), with_right(32, 50)
    slow[:6], slow[-5:] = False, True
    trials = [trial("transfer", quick, 4), trial("full", slow, 83)]
    chosen = [choose_trial(trials, prefer).settings.strategy for prefer in get_args(Preference)]
    assert dict(zip(get_args(Preference), chosen, strict=True)) == {
        "accuracy": "full", "balance": "transfer", "speed": "transfer"
    }  # fmt: skip


def test_a_gain_on_two_series_is_no_significant_one() -> None:
    groups = np.repeat(np.arange(10), 10)
    trials = [trial("transfer", with_right(70), 2, groups), trial("full", with_right(90), 60, groups)]
    assert choose_trial(trials, "balance").settings.strategy == "full"
    assert choose_trial(trials, "speed").settings.strategy == "transfer"
    assert gain_p_value(*trials) == 0.5
    assert trials[0].accuracy.independent == 10


def test_strategies_are_tried_and_the_better_is_recommended(backbone: str, tmp_path: Path) -> None:
    recommendation = hf_tl.recommend(colored(np.arange(60) % 3), backbone, output_dir=tmp_path)
    results = {trial.settings.strategy: trial for trial in recommendation.trials.results}
    assert {"transfer", "lora", "finetune", "full"} <= set(results)
    assert [trial.is_finalist for trial in results.values()].count(True) == 2
    assert results["transfer"].is_finalist  # costs little
    assert {trial.judged.sum() for trial in results.values() if trial.is_finalist} == {48}
    assert {trial.judged.sum() for trial in results.values() if not trial.is_finalist} == {16}
    best = max(
        (trial for trial in results.values() if trial.is_finalist),
        key=lambda trial: (trial.accuracy.value, -trial.seconds),
    )
    assert recommendation.strategy is not None
    assert recommendation.strategy.name == best.settings.strategy
    assert recommendation.rule == "trials"
    assert f"{best.accuracy}" in recommendation.reason
    assert str(recommendation).count("held-out images") >= 4
    record = json.loads((tmp_path / "recommendation.json").read_text())
    assert len(record["trials"]["results"]) == len(results)
    low, high = record["expected"]["low"], record["expected"]["high"]
    assert low <= best.accuracy.value <= high


def test_trials_beyond_the_budget_are_left_out_with_the_flag_that_allows_them(backbone: str) -> None:
    recommendation = hf_tl.recommend(colored(np.arange(60) % 3), backbone, trial_budget=1e-6)
    assert not recommendation.trials.results
    assert any(
        "raise trial_budget" in warning or "raise --trial_budget" in warning for warning in recommendation.warnings
    )


def test_no_training_is_tried_where_nothing_can_be_learned(backbone: str) -> None:
    labels = np.random.default_rng(0).permutation(np.arange(240) % 3)
    recommendation = hf_tl.recommend(colored(labels, shown=np.arange(240) % 3), backbone)
    assert recommendation.strategy is None
    assert not recommendation.trials.results


@pytest.mark.parametrize("settings", [{"trial_budget": -1}, {"prefer": "cheap"}])
def test_wrong_settings_are_refused(backbone: str, settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="trial_budget from 0 on"):
        hf_tl.recommend(colored(np.arange(60) % 3), backbone, **settings)  # type: ignore[arg-type]


def test_they_belong_to_auto() -> None:
    with pytest.raises(ConfigError, match=r"prefer needs .*auto"):
        StrategyConfig(strategy="full", prefer="speed").build()
