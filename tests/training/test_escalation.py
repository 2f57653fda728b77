"""Decisions of a climb: which stage depths are kept, and when it ends, for any two sets of predictions."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tl.errors import ConfigError
from hf_tl.evaluation.paired import difference_p_value
from hf_tl.strategy import Strategy
from hf_tl.training.escalation import SIGNIFICANT, Escalation


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw the correctly classified images of a stage depth and its predecessor, with any difference."""
    both, new, old, neither = (draw(st.integers(0, 60)) for _ in range(4))
    counts = (both, new, old, neither + (both + new + old == 0))
    pairs = np.repeat([(True, True), (True, False), (False, True), (False, False)], counts, axis=0)
    return pairs[:, 0], pairs[:, 1]


@st.composite
def climbs(draw: st.DrawFn) -> tuple[Escalation, int]:
    """Draw a climb, and the number of a stage depth after the first."""
    rungs = draw(st.integers(2, 6))
    return Escalation(rungs, draw(st.integers(1, rungs))), draw(st.integers(2, rungs))


@settings(deadline=None)
@given(climbs(), answers())
def test_a_significant_difference_decides_and_otherwise_the_evidence(
    climb: tuple[Escalation, int], pair: tuple[np.ndarray, np.ndarray]
) -> None:
    (escalation, rung), (right, before) = climb, pair
    verdict = escalation.judge(rung, right, before)
    p_value = difference_p_value(before, right)
    is_significant = p_value < SIGNIFICANT / (escalation.rungs - 1)
    gain = int(right.sum()) - int(before.sum())
    assert verdict.is_kept == (gain > 0 if is_significant else rung <= escalation.expected)
    assert verdict.gain == pytest.approx(gain / len(right), abs=1e-12)
    assert verdict.p_value == p_value
    assert ("significantly" in verdict.why) == is_significant
    if is_significant:
        assert ("better" in verdict.why) == (gain > 0)


@settings(deadline=None)
@given(climbs(), answers())
def test_the_two_sets_swapped(climb: tuple[Escalation, int], pair: tuple[np.ndarray, np.ndarray]) -> None:
    """A significant gain becomes a significant loss; noise is noise both ways."""
    (escalation, rung), (right, before) = climb, pair
    verdict, swapped = escalation.judge(rung, right, before), escalation.judge(rung, before, right)
    assert verdict.p_value == swapped.p_value
    assert verdict.gain == pytest.approx(-(swapped.gain or 0), abs=1e-12)
    if "significantly" in verdict.why:
        assert verdict.is_kept is not swapped.is_kept
    else:
        assert verdict.why == swapped.why


@settings(deadline=None)
@given(climbs(), answers())
def test_more_stage_depths_need_stronger_evidence(
    climb: tuple[Escalation, int], pair: tuple[np.ndarray, np.ndarray]
) -> None:
    (escalation, rung), (right, before) = climb, pair
    longer = replace(escalation, rungs=escalation.rungs + 1)
    if "significantly" in longer.judge(rung, right, before).why:
        assert escalation.judge(rung, right, before).why == longer.judge(rung, right, before).why


@settings(deadline=None)
@given(climbs(), answers(), st.integers(2, 9))
def test_copies_of_the_images_change_no_decision(
    climb: tuple[Escalation, int], pair: tuple[np.ndarray, np.ndarray], copies: int
) -> None:
    """The images of a group count as one; taken for independent, copies would make any difference significant."""
    (escalation, rung), (right, before) = climb, pair
    groups = np.repeat(np.arange(len(right)), copies)
    verdict = escalation.judge(rung, np.repeat(right, copies), np.repeat(before, copies), groups)
    expected = escalation.judge(rung, right, before)
    assert (verdict.is_kept, verdict.why, verdict.p_value) == (expected.is_kept, expected.why, expected.p_value)


@settings(deadline=None)
@given(answers(), st.integers(1, 5))
def test_the_first_stage_depth_is_kept(pair: tuple[np.ndarray, np.ndarray], rungs: int) -> None:
    verdict = Escalation(rungs, 1).judge(1, pair[0], None)
    assert verdict.is_kept
    assert (verdict.gain, verdict.p_value) == (None, None)


def test_a_climb_of_many_seldom_mistakes_chance_for_a_gain() -> None:
    """Equally good stage depths: at most one climb in twenty finds a significant gain."""
    random = np.random.default_rng(0)
    escalation, mistaken, climbs = Escalation(4, 1), 0, 1_000
    for _ in range(climbs):
        rungs = random.random((4, 300)) < 0.8
        pairs = zip(rungs[1:], rungs[:-1], strict=True)
        mistaken += any("significantly" in escalation.judge(2, *pair).why for pair in pairs)
    assert mistaken <= 0.05 * climbs


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 1e4), max_size=4),
    st.none() | st.floats(1e-3, 1e5),
    st.floats(0, 1e5),
    st.floats(0, 1e5),
    st.integers(2, 5),
)
def test_time(seconds: list[float], budget: float | None, spent: float, more: float, rung: int) -> None:
    escalation = Escalation(5, 1, seconds, budget)
    expected = seconds[rung - 1] if rung <= len(seconds) else 0.0
    assert escalation.has_time(rung, spent) == (budget is None or spent + expected <= budget)
    if not escalation.has_time(rung, spent):
        assert not escalation.has_time(rung, spent + more)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (0, "^expected_rung takes an integer of at least 1, found 0"),
        (-1, "^expected_rung takes an integer of at least 1, found -1"),
        (5, "must lie between 1 and 4, found 5"),
    ],
)
def test_a_missing_stage_depth_cannot_be_expected(expected: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Strategy.auto(expected_rung=expected)
