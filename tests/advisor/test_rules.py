"""Rules of the advisor: they cover the plane, and decide like the rule of thumb."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tl.advisor.deciding.decision import choose_backbone, decide
from hf_tl.advisor.deciding.plan import plan_climb
from hf_tl.advisor.deciding.rules import RULES, find_rule
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


@given(st.floats(1, 1e9), st.floats(0, 1))
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
@given(st.integers(1, 40), st.integers(0, 39), st.booleans(), st.floats(0, 1), st.floats(1, 1e6))
def test_the_stage_depths_of_a_climb_include_the_recommended_depth(
    depths: int, best: int, is_better: bool, similarity: float, images: float
) -> None:
    """The last stage depth trains everything, the expected one what the rule recommends; then follows scratch."""
    accuracies = [0.95 if is_better and number == best else 0.6 for number in range(depths)]
    decision = decide([backbone(*accuracies, similarity=similarity)], images)
    assert decision.settings is not None
    climb = plan_climb(decision.backbone, decision.settings)
    strategy = StrategyConfig(strategy="auto").build(climb=climb)
    scratch = strategy.phases[-1] if strategy.phases[-1].from_random_weights else None
    assert (scratch is not None) == (decision.settings.strategy == "scratch")
    if scratch is not None:
        assert scratch == decision.settings.build().phases[0]
        strategy = strategy.done(len(strategy.phases) - 1)
    rungs = [depths + 1 if phase.trainable_stages == "all" else phase.trainable_stages for phase in strategy.phases]
    assert rungs == sorted(set(rungs))
    assert (rungs[0], strategy.phases[-1].trainable_stages) == (1, "all")
    assert len(rungs) <= 4
    advised = decision.settings.build()
    assert strategy.expected_rung is not None
    expected = strategy.phases[strategy.expected_rung - 1].trainable_stages
    if advised.phases[-1].trainable_stages in ("all", depths + 1):
        assert expected == "all"
    else:
        assert expected == advised.phases[-1].trainable_stages
