"""Statements about the difference of two models, for any predictions."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tl.comparison.findings import Findings, find_differences
from hf_tl.comparison.record import conclude
from hf_tl.evaluation.measure import Predictions
from hf_tl.evaluation.metrics import MULTI_LABEL, SINGLE_LABEL, ProblemType

LABELS = ["cat", "dog", "owl", "yak"]
PROBLEMS = st.sampled_from([SINGLE_LABEL, MULTI_LABEL])


@st.composite
def pairs(draw: st.DrawFn) -> tuple[ProblemType, Predictions, Predictions]:
    """Draw predictions of two models with any accuracies, on images of classes some of which are rare or missing."""
    problem, seed, images = draw(PROBLEMS), draw(st.integers(0, 99)), draw(st.integers(2, 60))
    random = np.random.default_rng(seed)
    truth = random.choice(4, images, p=[0.6, 0.3, 0.1, 0.0])
    one_hot = np.eye(4)[truth]
    if problem is MULTI_LABEL:
        one_hot = np.maximum(one_hot, random.random((images, 4)) < [0.2, 0.1, 0.1, 0.0])
    labels = one_hot.astype(np.float32) if problem is MULTI_LABEL else truth
    quality = draw(st.sampled_from([(0.0, 0.0), (1.0, 2.0), (4.0, 1.0)]))
    first, second = (Predictions(one * (2 * one_hot - 1) + random.normal(size=(images, 4)), labels) for one in quality)
    return problem, first, second


def told(findings: Findings) -> dict[str, tuple[int, float | None, float | None]]:
    return {one.label: (one.images, one.difference and one.difference.value, one.p_value) for one in findings.classes}


@given(pairs())
@settings(max_examples=15, deadline=None)
def test_a_model_is_like_itself(pair: tuple[ProblemType, Predictions, Predictions]) -> None:
    problem, first, _ = pair
    found = find_differences(problem, LABELS, first, first)
    assert {(one.value, one.p_value) for one in found.metrics.values()} == {(0, 1)}
    assert all(one.difference is None or (one.difference.value, one.p_value) == (0, 1) for one in found.classes)
    assert found.is_same.all()
    assert not len(found.rows_right(True, False))
    assert conclude(found, problem) == "A and B say the same of all images."


@given(pairs())
@settings(max_examples=15, deadline=None)
def test_swapping_the_models_swaps_the_signs(pair: tuple[ProblemType, Predictions, Predictions]) -> None:
    problem, first, second = pair
    there, back = (find_differences(problem, LABELS, *two) for two in ((first, second), (second, first)))
    for key, one in there.metrics.items():
        other = back.metrics[key]
        assert (one.value, one.p_value) == (pytest.approx(-other.value), pytest.approx(other.p_value))
        assert (one.first, one.second_interval) == (other.second, other.first_interval)
        assert one.interval == (other.interval and pytest.approx((-other.interval[1], -other.interval[0])))
    for (label, (images, value, p_value)), mirrored in zip(told(there).items(), told(back).items(), strict=True):
        assert mirrored == (label, (images, value and pytest.approx(-value), p_value and pytest.approx(p_value)))
    assert there.rows_right(True, False).tolist() == back.rows_right(False, True).tolist()
    swapped = re.sub(r"\b[AB](?= is )", lambda name: {"A": "B", "B": "A"}[name[0]], conclude(there, problem))
    assert swapped == conclude(back, problem)


@given(pairs(), st.permutations(range(4)))
@settings(max_examples=15, deadline=None)
def test_the_order_of_the_classes_says_nothing(
    pair: tuple[ProblemType, Predictions, Predictions], order: list[int]
) -> None:
    problem, *both = pair
    place = np.argsort(order)
    moved = [
        Predictions(one.logits[:, order], one.labels[:, order] if problem is MULTI_LABEL else place[one.labels])
        for one in both
    ]
    found = find_differences(problem, LABELS, *both)
    again = find_differences(problem, [LABELS[index] for index in order], *moved)
    assert set(told(again)) == set(told(found))
    assert "yak" not in told(found)  # no image shows it
    for label, (images, value, p_value) in told(found).items():
        assert told(again)[label] == (images, value and pytest.approx(value), p_value and pytest.approx(p_value))
    assert again.is_right.tolist() == found.is_right.tolist()
    for key, one in found.metrics.items():
        assert again.metrics[key].p_value == pytest.approx(one.p_value, abs=1e-4)


def test_a_class_is_marked_where_it_differs_by_more_than_chance() -> None:
    truth = np.repeat([0, 1, 2], 40)
    right = np.eye(3)[truth]
    worse = right.copy()
    worse[:12] = [0, 1, 0]  # 12 of 40
    worse[40:43] = [1, 0, 0]  # 3 of 40
    found = find_differences(SINGLE_LABEL, LABELS[:3], Predictions(worse, truth), Predictions(right, truth))
    assert [one.is_significant for one in found.classes] == [True, False, False]
    assert found.classes[0].p_value == pytest.approx(3 * 2 / 2**12)
    assert found.rows_right(False, True).tolist() == [*range(12), 40, 41, 42]
    sentence = conclude(found, SINGLE_LABEL)
    assert sentence.startswith("B is better by 12.5 points (")
    assert sentence.endswith("p < 0.0001), which is hardly chance.")


def test_what_may_be_chance_is_said_to_be() -> None:
    truth = np.zeros(50, dtype=int)
    one, other = (np.tile([1.0, 0.0], (50, 1)) for _ in range(2))
    one[0], other[1:4] = [0, 1], [0, 1]
    found = find_differences(SINGLE_LABEL, LABELS[:2], Predictions(one, truth), Predictions(other, truth))
    assert conclude(found, SINGLE_LABEL) == (
        "A is ahead by 4.0 points (−5.4 to 14.6, p = 0.62), which may be chance: "
        "these images do not tell which is better."
    )
    other[:4] = [[1, 0], [0, 1], [1, 0], [1, 0]]
    found = find_differences(SINGLE_LABEL, LABELS[:2], Predictions(one, truth), Predictions(other, truth))
    assert conclude(found, SINGLE_LABEL).startswith("A and B are level, 0.0 points (")


def test_multi_label_models_are_told_by_ranking_and_by_decisions() -> None:
    """Both models rank alike, but all scores of one are below the threshold."""
    random = np.random.default_rng(0)
    labels = (random.random((100, 3)) < 0.4).astype(np.float32)
    logits = 3 * (2 * labels - 1) + random.normal(size=labels.shape)
    found = find_differences(MULTI_LABEL, LABELS[:3], Predictions(logits - 9, labels), Predictions(logits, labels))
    sentence = conclude(found, MULTI_LABEL)
    assert sentence.startswith("A and B are level, 0.0 points of mean average precision (p = 1); B is better by ")
    assert sentence.endswith(" points of exact-match accuracy (62.5 to 79.9, p < 0.0001), which is hardly chance.")
