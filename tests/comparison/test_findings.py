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
    first, second = (
        Predictions(factor * (2 * one_hot - 1) + random.normal(size=(images, 4)), labels) for factor in quality
    )
    return problem, first, second


def classes_of(findings: Findings) -> dict[str, tuple[int, float | None, float | None]]:
    return {
        finding.label: (finding.images, finding.difference and finding.difference.value, finding.p_value)
        for finding in findings.classes
    }


@given(pairs())
@settings(max_examples=15, deadline=None)
def test_a_model_is_like_itself(pair: tuple[ProblemType, Predictions, Predictions]) -> None:
    problem, first, _ = pair
    findings = find_differences(problem, LABELS, first, first)
    assert {(metric.value, metric.p_value) for metric in findings.metrics.values()} == {(0, 1)}
    assert all(row.difference is None or (row.difference.value, row.p_value) == (0, 1) for row in findings.classes)
    assert findings.is_same.all()
    assert not len(findings.rows_right(True, False))
    assert conclude(findings, problem) == "A and B make the same predictions for all images."


@given(pairs())
@settings(max_examples=15, deadline=None)
def test_swapping_the_models_swaps_the_signs(pair: tuple[ProblemType, Predictions, Predictions]) -> None:
    problem, first, second = pair
    there, back = (find_differences(problem, LABELS, *two) for two in ((first, second), (second, first)))
    for key, metric in there.metrics.items():
        other = back.metrics[key]
        assert (metric.value, metric.p_value) == (pytest.approx(-other.value), pytest.approx(other.p_value))
        assert (metric.first, metric.second_interval) == (other.second, other.first_interval)
        assert metric.interval == (other.interval and pytest.approx((-other.interval[1], -other.interval[0])))
    for (label, (images, value, p_value)), mirrored in zip(
        classes_of(there).items(), classes_of(back).items(), strict=True
    ):
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
        Predictions(model.logits[:, order], model.labels[:, order] if problem is MULTI_LABEL else place[model.labels])
        for model in both
    ]
    findings = find_differences(problem, LABELS, *both)
    again = find_differences(problem, [LABELS[index] for index in order], *moved)
    assert set(classes_of(again)) == set(classes_of(findings))
    assert "yak" not in classes_of(findings)  # no image shows it
    for label, (images, value, p_value) in classes_of(findings).items():
        assert classes_of(again)[label] == (images, value and pytest.approx(value), p_value and pytest.approx(p_value))
    assert again.is_right.tolist() == findings.is_right.tolist()
    for key, metric in findings.metrics.items():
        assert again.metrics[key].p_value == pytest.approx(metric.p_value, abs=1e-4)


def test_classes_with_a_significant_difference_are_marked() -> None:
    truth = np.repeat([0, 1, 2], 40)
    right = np.eye(3)[truth]
    worse = right.copy()
    worse[:12] = [0, 1, 0]  # 12 of 40
    worse[40:43] = [1, 0, 0]  # 3 of 40
    findings = find_differences(SINGLE_LABEL, LABELS[:3], Predictions(worse, truth), Predictions(right, truth))
    assert [finding.is_significant for finding in findings.classes] == [True, False, False]
    assert findings.classes[0].p_value == pytest.approx(3 * 2 / 2**12)
    assert findings.rows_right(False, True).tolist() == [*range(12), 40, 41, 42]
    sentence = conclude(findings, SINGLE_LABEL)
    assert sentence.startswith("B is significantly better, by 12.5 points (95% CI ")
    assert sentence.endswith("p < 0.0001).")


def test_a_difference_that_is_not_significant_is_stated_as_such() -> None:
    truth = np.zeros(50, dtype=int)
    first, second = (np.tile([1.0, 0.0], (50, 1)) for _ in range(2))
    first[0], second[1:4] = [0, 1], [0, 1]
    findings = find_differences(SINGLE_LABEL, LABELS[:2], Predictions(first, truth), Predictions(second, truth))
    assert conclude(findings, SINGLE_LABEL) == (
        "A is better by 4.0 points (95% CI −5.4 to 14.6, p = 0.62), which is not significant."
    )
    second[:4] = [[1, 0], [0, 1], [1, 0], [1, 0]]
    findings = find_differences(SINGLE_LABEL, LABELS[:2], Predictions(first, truth), Predictions(second, truth))
    assert conclude(findings, SINGLE_LABEL).startswith("A and B do not differ significantly: 0.0 points (")


def test_multi_label_models_are_compared_by_ranking_and_by_decisions() -> None:
    """Both models rank alike, but all scores of one are below the threshold."""
    random = np.random.default_rng(0)
    labels = (random.random((100, 3)) < 0.4).astype(np.float32)
    logits = 3 * (2 * labels - 1) + random.normal(size=labels.shape)
    findings = find_differences(MULTI_LABEL, LABELS[:3], Predictions(logits - 9, labels), Predictions(logits, labels))
    sentence = conclude(findings, MULTI_LABEL)
    level, better = sentence.split("; ")
    assert level == "A and B do not differ significantly: 0.0 points of mean average precision (p = 1)"
    assert better.startswith("B is significantly better, by ")
    assert better.endswith(" points of exact-match accuracy (95% CI 62.5 to 79.9, p < 0.0001).")
