"""Prediction sets hold the class of the wanted share of images of each class, also where images come in groups."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from hf_tl.abstention.prediction_sets import prediction_sets, quantile, set_thresholds

CLASSES = 4


def draw(random: np.random.Generator, groups: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return probabilities, labels and groups: the images of a group are alike."""
    labels = np.repeat(random.integers(CLASSES, size=groups), size)
    logits = np.eye(CLASSES)[labels] + np.repeat(random.normal(size=(groups, CLASSES)), size, axis=0)
    logits += 0.1 * random.normal(size=logits.shape)
    return softmax(logits, axis=1), labels, np.repeat(np.arange(groups), size)


@pytest.mark.parametrize(("groups", "size"), [(200, 1), (120, 5)])
@pytest.mark.parametrize("coverage", [0.7, 0.9])
def test_sets_have_the_wanted_coverage_in_each_class(groups: int, size: int, coverage: float) -> None:
    random, shares = np.random.default_rng(0), []
    for _ in range(60):
        probabilities, labels, names = draw(random, groups, size)
        thresholds = set_thresholds(probabilities, labels, coverage, names)
        others, of_others, _ = draw(random, 500, 1)
        sets = prediction_sets(others, thresholds)
        is_covered = sets[np.arange(len(sets)), of_others]
        shares.append([is_covered[of_others == label].mean() for label in range(CLASSES)])
    np.testing.assert_allclose(np.mean(shares, axis=0), coverage, atol=0.02)


def test_images_of_a_group_count_as_one() -> None:
    """A group of many alike images does not set the threshold alone."""
    values = np.concatenate([np.arange(19.0), np.full(100, 18.5)])
    groups = np.concatenate([np.arange(19), np.full(100, 19)])
    assert quantile(values, 0.5) == 18.5
    assert quantile(values, 0.5, groups) == pytest.approx(9.5)


@given(st.integers(1, 40), st.floats(0.05, 0.95))
def test_too_few_values_give_no_quantile(count: int, level: float) -> None:
    value = quantile(np.arange(float(count)), level)
    assert (value is None) == (level * (count + 1) > count + 1e-9)
    assert value is None or 0 <= value <= count - 1


def test_a_class_with_few_images_has_the_threshold_of_all() -> None:
    random = np.random.default_rng(4)
    probabilities, labels, _ = draw(random, 100, 1)
    rows = np.flatnonzero(labels == 0)[:3]
    kept = np.sort(np.concatenate([rows, np.flatnonzero(labels != 0)]))
    thresholds = set_thresholds(probabilities[kept], labels[kept], 0.9)
    shortfall = 1 - probabilities[kept, labels[kept]]
    limit = quantile(shortfall, 0.9)
    assert limit is not None
    assert thresholds[0] == pytest.approx(1 - limit)
    assert thresholds[1] != thresholds[0]


def test_too_few_images_for_any_threshold_put_every_class_in_the_sets() -> None:
    probabilities = np.array([[0.7, 0.3], [0.4, 0.6]])
    thresholds = set_thresholds(probabilities, np.array([0, 1]), 0.9)
    assert prediction_sets(probabilities, thresholds).all()


@given(st.lists(st.floats(0, 1), min_size=CLASSES, max_size=CLASSES), st.integers(0, 10**6))
def test_sets_hold_the_most_probable_class(thresholds: list[float], seed: int) -> None:
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(CLASSES), size=5)
    sets = prediction_sets(probabilities, np.array(thresholds))
    assert sets[np.arange(5), probabilities.argmax(axis=1)].all()
