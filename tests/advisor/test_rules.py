"""Rules of the advisor: they cover the plane, and decide like the rule of thumb."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tl.advisor.deciding.decision import TRIALS, choose_backbone, decide
from hf_tl.advisor.deciding.plan import plan_climb
from hf_tl.advisor.deciding.rules import RULES, Rule, find_rule
from hf_tl.advisor.measuring.evidence import BackboneEvidence, DepthEvidence
from hf_tl.advisor.measuring.probes import Accuracy, Probe
from hf_tl.advisor.measuring.similarity import Similarity
from hf_tl.config import StrategyConfig

LABELS = np.arange(400) % 4


def probe(accuracy: float) -> Probe:
    return Probe(np.where(np.arange(400) < 400 * accuracy, LABELS, (LABELS + 1) % 4), LABELS)


def backbone(*accuracies: float, similarity: float = 0.5, parameters: int = 10, name: str = "net") -> BackboneEvidence:
    accuracy = Accuracy(1, 2)
    return BackboneEvidence(
        name, parameters, (3, 32, 32),
        tuple(
            DepthEvidence(f"stage{number}", 8, probe(accuracy), 0.1, probe(accuracy), 0.0, 0.0)
            for number, accuracy in enumerate(accuracies)
        ),
        Similarity(similarity, (similarity, similarity), accuracy, accuracy), None, None,
    )  # fmt: skip


@given(st.floats(0, 1e9), st.floats(-1, 1))
def test_one_rule_holds_everywhere(images: float, similarity: float) -> None:
    assert [rule for rule in RULES if rule.holds(images, similarity)] == [find_rule(images, similarity)]


@pytest.mark.parametrize(
    ("images", "similarity", "strategy"),
    [
        (5, 0.6, "full"),
        (5, 0.1, "full"),
        (300, 0.6, "full"),
        (300, 0.05, "full"),
        (5000, 0.2, "full"),
        (5000, 0.05, "scratch"),
    ],
)
def test_the_rule_of_thumb(images: int, similarity: float, strategy: str) -> None:
    decision = decide([backbone(0.5, 0.9, 0.7, 0.7, 0.7, similarity=similarity)], images)
    assert decision.settings is not None
    assert decision.settings.strategy == strategy
    assert decision.settings.build(1, 1000).name == strategy  # ready to train
    assert decision.reason.count(". ") == 1
    assert decision.reason.endswith(".")


@pytest.mark.parametrize(
    ("images", "similarity", "name", "advice"),
    [
        (1, 0.4, "similar", "fine-tune all stages"),
        (1e6, 0.4, "similar", "fine-tune all stages"),
        (1, 0.399, "different", "fine-tune all stages"),
        (1e6, 0.1, "different", "fine-tune all stages"),
        (999, 0.099, "very different", "fine-tune all stages"),
        (999, -0.3, "very different", "fine-tune all stages"),
        (1000, 0.099, "very many images, very different", "train from scratch"),
        (1e9, -0.3, "very many images, very different", "train from scratch"),
    ],
)
def test_the_borders_of_the_regions(images: float, similarity: float, name: str, advice: str) -> None:
    rule = find_rule(images, similarity)
    assert (rule.name, rule.advice) == (name, advice)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_explains_itself_in_a_sentence(rule: Rule) -> None:
    assert re.fullmatch(r"The( [a-z-]+,?)+ [a-z]+", rule.why)


def test_the_best_stage_has_a_p_value_against_the_last() -> None:
    assert backbone(0.5, 0.7, 0.7).best.stage == "stage2"
    unsure, sure = backbone(0.5, 0.705, 0.7), backbone(0.5, 0.9, 0.7)
    assert unsure.best.stage == sure.best.stage == "stage1"
    assert unsure.best_p_value > 0.5
    assert sure.best_p_value < 1e-6


def test_a_head_that_is_right_is_enough() -> None:
    decision = decide([backbone(0.8, 0.9975, similarity=0.05)], 5000)
    assert decision.settings is not None
    assert decision.settings.strategy == "transfer"


def test_nothing_is_recommended_where_nothing_can_be_learned() -> None:
    decision = decide([backbone(0.25, 0.27), backbone(0.24, 0.26)], 5000)
    assert decision.settings is None
    assert "nothing can be learned" in decision.reason
    assert decide([backbone(0.25, 0.4)], 5000).settings is not None


def test_the_smallest_of_the_equals_is_chosen() -> None:
    large, small = backbone(0.5, 0.82, parameters=20, name="large"), backbone(0.5, 0.81, parameters=5, name="small")
    weak = backbone(0.5, 0.6, parameters=1, name="weak")
    assert choose_backbone([large, weak, small]) is small
    assert choose_backbone([large, weak]) is large


def test_noise_and_too_small_a_sample_are_different_reasons() -> None:
    labels = np.arange(8) % 4

    def small(right: int) -> Any:
        answers = Probe(np.where(np.arange(8) < right, labels, (labels + 1) % 4), labels)
        depth = DepthEvidence("last", 8, answers, 0.1, answers, 0.0, 0.0)
        return BackboneEvidence("net", 1, (3, 8, 8), (depth,), backbone(0.5).similarity, None, None)

    decision = decide([small(3)], 2)
    assert decision.settings is None
    assert "too few to decide" in decision.reason
    assert decide([small(8)], 2).settings is not None


@settings(deadline=None)
@given(st.integers(1, 40), st.floats(0, 1), st.floats(1, 1e6), st.sampled_from([0.6, 0.9975]))
def test_a_climb_ends_at_the_depth_that_the_rule_recommends(
    depths: int, similarity: float, images: float, accuracy: float
) -> None:
    """It starts at the head; random weights come last, and must beat the training of all stages significantly."""
    decision = decide([backbone(*[accuracy] * depths, similarity=similarity)], images)
    assert decision.settings is not None
    strategy = StrategyConfig(strategy="auto").build(climb=plan_climb(decision))
    rungs = [(phase.trainable_stages, phase.from_random_weights) for phase in strategy.phases]
    expected = {
        "transfer": [(1, False)],
        "full": [(1, False), ("all", False)],
        "scratch": [(1, False), ("all", False), ("all", True)],
    }[decision.settings.strategy]
    assert rungs == expected
    assert strategy.expected_rung == min(2, len(rungs))
    if decision.settings.strategy == "scratch":
        assert strategy.phases[-1] == decision.settings.build().phases[0]


@pytest.mark.parametrize(
    ("settings", "rungs"),
    [
        (StrategyConfig(strategy="transfer"), [(1, False)]),
        (StrategyConfig(strategy="finetune", trainable_stages=4), [(1, False), (4, False)]),
        (StrategyConfig(strategy="lora"), [(1, False), ("all", False)]),
        (StrategyConfig(strategy="full"), [(1, False), ("all", False)]),
        (StrategyConfig(strategy="scratch"), [(1, False), ("all", True)]),
    ],
    ids=lambda value: value.strategy if isinstance(value, StrategyConfig) else "",
)
def test_after_trials_a_climb_leaves_no_choice_to_the_validation_images(
    settings: StrategyConfig, rungs: list[tuple[object, bool]]
) -> None:
    """No depth is tried that the trials did not choose, and the chosen one is kept unless it is significantly worse."""
    decision = replace(decide([backbone(0.5, 0.6)], 20), name=TRIALS, settings=settings)
    strategy = StrategyConfig(strategy="auto").build(climb=plan_climb(decision))
    assert [(phase.trainable_stages, phase.from_random_weights) for phase in strategy.phases] == rungs
    assert strategy.expected_rung == len(rungs)
    assert strategy.phases[-1].is_adapted is (settings.strategy == "lora")
