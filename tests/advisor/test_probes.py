"""Probes: accuracy on learnable and random labels, and their confidence intervals."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.preprocessing import StandardScaler

from hf_tl.advisor.measuring.probes import (
    Accuracy,
    Probe,
    fit_power_law,
    learning_curve,
    linear_probe,
    nearest_neighbors,
)
from hf_tl.advisor.measuring.similarity import similarity_of
from hf_tl.head.head_solver import FOLDS


def clusters(images: int, values: int = 12, classes: int = 4, spread: float = 1.5, seed: int = 0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    features = random.normal(size=(classes, values))[labels] + spread * random.normal(size=(images, values))
    return features.astype(np.float32), labels


@given(st.integers(1, 500).flatmap(lambda images: st.tuples(st.integers(0, images), st.just(images))))
def test_the_interval_is_wilsons(counts: tuple[int, int]) -> None:
    correct, images = counts
    p, z = correct / images, 1.959963984540054
    center = (p + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z * np.sqrt(p * (1 - p) / images + z**2 / (4 * images**2)) / (1 + z**2 / images)
    low, high = Accuracy(correct, images).interval
    assert (low, high) == pytest.approx((center - half, center + half), abs=1e-9)
    assert 0 <= low <= p + 1e-12
    assert p - 1e-12 <= high <= 1


def test_the_linear_probe_holds_out_what_it_judges() -> None:
    """Compare with scikit-learn's logistic regression of the same strength in the same folds."""
    features, labels = clusters(200)
    probe, strength = linear_probe(features, labels, 4, seed=3)
    model = LogisticRegression(C=1 / (strength * len(labels) * (1 - 1 / FOLDS)), tol=1e-8, max_iter=10_000)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=3)
    expected = cross_val_predict(model, StandardScaler().fit_transform(features), labels, cv=folds)
    assert (probe.predictions == expected).mean() > 0.98
    assert 0.6 < probe.accuracy.value < 0.98


@pytest.mark.parametrize("probe_of", [lambda *a: linear_probe(*a, 4)[0], nearest_neighbors])
def test_what_cannot_be_learned_is_not(probe_of: Any) -> None:
    """More values than images: training images are fitted exactly, and held-out accuracy is at chance."""
    features, labels = clusters(160, values=300)
    shuffled = np.random.default_rng(1).permutation(labels)
    assert probe_of(features, labels).p_value < 1e-6
    chance = probe_of(features, shuffled)
    assert chance.p_value > 0.01
    assert chance.accuracy.interval[0] < 0.25 < chance.accuracy.interval[1]


@pytest.mark.parametrize("probe_of", [lambda *a: linear_probe(*a, 4)[0], nearest_neighbors])
def test_the_only_image_of_a_class_is_not_judged(probe_of: Any) -> None:
    features, labels = clusters(40)
    labels = np.where(labels == 3, 2, labels)
    labels[7] = 3
    probe = probe_of(features, labels)
    assert probe.predictions[7] == -1
    assert probe.accuracy.images == 39
    assert (np.delete(probe.predictions, 7) >= 0).all()


def test_chance_is_what_the_shares_give() -> None:
    """A constant prediction of the larger class (90% of the images): its accuracy equals chance."""
    labels = np.array([0] * 90 + [1] * 10)
    probe = Probe(np.zeros(100, int), labels)
    assert probe.accuracy.value == probe.chance == 0.9
    assert probe.p_value > 0.4
    assert Probe(labels, labels).p_value < 1e-6


def test_the_curve_falls_and_foretells() -> None:
    """The power law fitted on 400 images predicts the error with 1,600 better than the error with 400 does."""
    features, labels = clusters(2000, values=40, classes=4, spread=3.0)
    probe, strength = linear_probe(features[:400], labels[:400], 4)
    curve = learning_curve(features[:400], probe, 4, strength)
    assert curve is not None
    assert curve.sizes == (40, 80, 160, 320)
    assert curve.errors[0] > curve.errors[-1]
    assert curve.images == 240
    many = 1 - linear_probe(features, labels, 4)[0].accuracy.value
    assert abs(curve.error_at(1600) - many) < abs(curve.errors[-1] - many)


def test_too_small_a_sample_has_no_learning_curve() -> None:
    features, labels = clusters(40)
    probe, strength = linear_probe(features, labels, 4)
    assert learning_curve(features, probe, 4, strength) is None


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_any_errors_have_a_law_between_none_and_all(errors: list[float]) -> None:
    floor, scale, rate = fit_power_law([10, 20, 40, 80], errors, 100)
    assert 0 <= floor <= 1
    assert scale >= 0
    assert 0.1 <= rate <= 1


def test_similarity_is_the_share_of_errors_that_pretraining_removes() -> None:
    labels = np.zeros(100, int)

    def probe(wrong: int) -> Probe:
        return Probe((np.arange(100) < wrong).astype(int), labels)

    assert similarity_of(probe(19), probe(79)).value == pytest.approx(1 - 20 / 80)
    assert similarity_of(probe(50), probe(50)).value == 0
    assert similarity_of(probe(60), probe(40)).value == 0  # worse than random weights is clipped to 0
    similarity = similarity_of(probe(19), probe(79))
    assert similarity.interval[0] < similarity.value < similarity.interval[1]
    assert similarity_of(probe(0), probe(0)).value == 0  # no errors, so none are removed
