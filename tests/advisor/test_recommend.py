"""`hf_tl.recommend` and `hf-tl recommend` end to end, on small real networks and images."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from advisor.colored_images import NAMES, colored
from datasets import DatasetDict
from PIL import Image as Pillow

import hf_tl
from hf_tl.advisor.recommendation import FIGURE, RECORD
from hf_tl.config import RECOMMENDED_STRATEGY as STRATEGY
from hf_tl.config import StrategyConfig
from hf_tl.data.datasets import load_data
from hf_tl.errors import ModelError
from hf_tl.reporting.numbers import with_interval

pytestmark = pytest.mark.long


def test_a_recommendation_holds_what_it_promises(backbone: str, tmp_path: Path) -> None:
    recommendation = hf_tl.recommend(colored(np.arange(240) % 3), backbone, output_dir=tmp_path, trial_budget=0)
    assert recommendation.backbone == backbone
    assert recommendation.strategy is not None
    assert recommendation.cost is not None
    assert recommendation.cost.seconds > 0
    assert recommendation.cost.parameters_trained <= recommendation.cost.parameters
    [evidence] = recommendation.evidence
    assert [depth.stage for depth in evidence.depths][:2] == ["stem", "encoder.stages.0"]
    assert evidence.source is not None
    assert evidence.curve is not None
    assert evidence.p_value < 1e-6
    record = json.loads((tmp_path / RECORD).read_text())
    assert record == json.loads(json.dumps(recommendation.to_record()))
    assert hf_tl.Strategy.from_yaml(tmp_path / STRATEGY) == recommendation.strategy
    assert Pillow.open(tmp_path / FIGURE).width > 1000
    text = str(recommendation)
    for word in (
        "linear probe (95% CI)",
        f"error of the last linear probe: {with_interval(evidence.curve.errors[0], evidence.curve.intervals[0])} with",
        "LogME",
        "similarity to the pretraining data",
        "LEEP",
        "Reason",
        recommendation.reason,
    ):
        assert word in text


@pytest.mark.parametrize(("spread", "name"), [(1, "transfer"), (30, "full")])
def test_the_strategy_is_what_a_climb_would_end_with(backbone: str, spread: float, name: str) -> None:
    data = load_data(colored(np.arange(450) % 3, spread))
    recommendation = hf_tl.recommend(data, backbone, trial_budget=0)
    images = {split: len(rows) for split, rows in data.splits.items()}
    climb = StrategyConfig(strategy="auto").build(images=images["train"], climb=recommendation.climb)
    assert recommendation.strategy is not None
    assert recommendation.cost is not None
    assert climb.expected_rung is not None
    assert recommendation.strategy.name == name
    [phase], [expected] = recommendation.strategy.phases, climb.done(climb.expected_rung).at_once().phases
    if name == "transfer":  # only the climb has these; a head has neither earlier stages nor statistics
        expected = replace(expected, layer_decay=1.0, batch_norm="update")
    assert phase == expected
    assert recommendation.strategy.refit
    assert "; then retrain from scratch on train + validation" in str(recommendation)
    passes = 2 + images["validation"] / images["train"]
    assert recommendation.cost.seconds == pytest.approx(passes * sum(recommendation.cost.phase_seconds))


def test_a_validation_split_of_the_data_stays_one(backbone: str) -> None:
    rows = colored(np.arange(150) % 3)
    recommendation = hf_tl.recommend(
        DatasetDict(train=rows, validation=rows.select(range(60)), test=rows), backbone, trial_budget=0
    )
    assert recommendation.strategy is not None
    assert recommendation.cost is not None
    assert not recommendation.strategy.refit
    assert recommendation.cost.seconds == pytest.approx(sum(recommendation.cost.phase_seconds))


@pytest.mark.slow
def test_the_recommended_strategy_trains(backbone: str, tmp_path: Path) -> None:
    data = colored(np.arange(60) % 3)
    recommendation = hf_tl.recommend(data, backbone, trial_budget=0)
    assert recommendation.backbone is not None
    assert recommendation.strategy is not None
    model, transforms = hf_tl.load_backbone(recommendation.backbone, NAMES, recommendation.strategy)
    settings = {"output_dir": str(tmp_path / "out"), "report_to": "none", "cpu_threads": 1}
    assert hf_tl.train(model, data, recommendation.strategy, transforms=transforms, **settings).test_accuracy > 0.4


def test_shuffled_labels_cannot_be_learned(backbone: str, tmp_path: Path) -> None:
    labels = np.arange(300) % 3
    shuffled = np.random.default_rng(0).permutation(labels)
    recommendation = hf_tl.recommend(colored(labels, shown=shuffled), backbone, output_dir=tmp_path, trial_budget=0)
    assert recommendation.rule == "nothing can be learned"
    assert (recommendation.backbone, recommendation.strategy, recommendation.cost, recommendation.command) == (
        None,
        None,
        None,
        None,
    )
    assert "nothing can be learned" in str(recommendation)
    assert not (tmp_path / STRATEGY).exists()
    assert json.loads((tmp_path / RECORD).read_text())["strategy"] is None


def test_noise_cannot_be_learned(backbone: str) -> None:
    """Also with unequal classes, where a constant prediction of the largest one has a high accuracy."""
    labels = np.array([0] * 200 + [1] * 60 + [2] * 40)
    recommendation = hf_tl.recommend(colored(labels, shown=np.zeros(300, int)), backbone, trial_budget=0)
    assert recommendation.strategy is None
    assert recommendation.rule == "nothing can be learned"


def test_a_candidate_that_cannot_be_loaded_is_named(backbone: str) -> None:
    data = colored(np.arange(60) % 3)
    recommendation = hf_tl.recommend(data, ["timm:resnet999", backbone], trial_budget=0)
    assert recommendation.backbone == backbone
    assert "no architecture" in recommendation.unavailable["timm:resnet999"]
    assert "timm:resnet999" in str(recommendation)
    with pytest.raises(ModelError, match="no backbone can be measured"):
        hf_tl.recommend(data, "timm:resnet999", trial_budget=0)


def test_backbones_are_ranked(backbone: str, tmp_path: Path) -> None:
    """A backbone with constant features is significantly worse; of two equal ones the first is chosen."""
    blind = hf_tl.load_backbone(backbone, None)[0]
    for parameter in blind.parameters():
        parameter.detach().zero_()
    blind.save_pretrained(tmp_path / "blind")
    shutil.copy(Path(backbone, "preprocessor_config.json"), tmp_path / "blind")
    shutil.copytree(backbone, tmp_path / "twin")
    names = [str(tmp_path / "blind"), backbone, str(tmp_path / "twin")]
    recommendation = hf_tl.recommend(colored(np.arange(90) % 3), names, trial_budget=0)
    assert recommendation.backbone == backbone
    record = recommendation.to_record()
    assert record["ranking"] == [*names[1:], names[0]]
    assert record["leading"] == names[1:]
    first, second, third, last = str(recommendation).split("Ranking")[1].splitlines()[:4]
    assert first.strip().startswith(f"1. {backbone}: ")
    assert second.strip().startswith(f"2. {names[2]}: ")
    assert second.endswith("(difference from the first not significant)")
    assert third.strip().startswith(f"3. {names[0]}: ")
    assert "significant" not in third
    assert "the smallest of the 2 without a significant difference" in last


def test_random_numbers_of_the_user_stay(backbone: str) -> None:
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again = (hf_tl.recommend(colored(np.arange(30) % 3, spread=5), backbone, trial_budget=0) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert again.to_record()["evidence"] == first.to_record()["evidence"]
