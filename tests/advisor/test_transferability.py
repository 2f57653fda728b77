"""Transferability scores, against closed forms and the definitions of their papers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize
from scipy.stats import f_oneway, multivariate_normal
from sklearn.metrics import mutual_info_score

from hf_tl.advisor.measuring.transferability import h_score, leep, logme, nce


def clusters(images: int, values: int, classes: int = 3, spread: float = 1.0, seed: int = 0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    return random.normal(size=(classes, values))[labels] + spread * random.normal(size=(images, values)), labels


@pytest.mark.parametrize(("images", "values"), [(60, 5), (20, 30)])
@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_logme_is_the_largest_density_of_the_labels(images: int, values: int, spread: float) -> None:
    """Maximize the density itself with a general optimizer: y is normal with covariance F F' / alpha + I / beta."""
    features, labels = clusters(images, values, spread=spread)
    expected = []
    for label in range(3):
        target = (labels == label).astype(float)

        def negative_log_density(logs: Any, target: Any = target) -> float:
            alpha, beta = np.exp(logs)
            covariance = features @ features.T / alpha + np.eye(images) / beta
            return float(-multivariate_normal.logpdf(target, cov=covariance))

        starts = [(0, 0), (2, 2), (4, 1)]
        fit = min(
            (minimize(negative_log_density, start, method="Nelder-Mead") for start in starts), key=lambda r: r.fun
        )
        expected.append(-fit.fun / images)
    assert logme(features, labels) == pytest.approx(np.mean(expected), abs=1e-5)


def test_logme_ranks_informative_features_first() -> None:
    scores = [logme(*clusters(200, 20, spread=spread)) for spread in (0.3, 1, 3, 30)]
    assert scores == sorted(scores, reverse=True)


def test_scores_stay_finite_at_the_ends() -> None:
    labels = np.arange(12) % 3
    assert np.isfinite(logme(np.eye(3)[labels], labels))  # fitted exactly
    assert np.isfinite(logme(np.zeros((12, 4)), labels))  # no information in the features
    assert h_score(np.zeros((12, 4)), labels) == 0


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_scores_follow_neither_the_order_of_images_nor_the_numbers_of_classes(seed: int) -> None:
    features, labels = clusters(30, 4, seed=seed)
    order = np.random.default_rng(seed).permutation(30)
    renumbered = np.array([7, 2, 4])[labels]
    for score in (logme, h_score):
        assert score(features[order], renumbered[order]) == pytest.approx(score(features, labels), rel=1e-6)


def test_h_score_of_one_value_is_the_correlation_ratio() -> None:
    """The correlation ratio, the share of the variance between classes, follows from the F statistic of ANOVA."""
    features, labels = clusters(60, 1)
    statistic = f_oneway(*(features[labels == label, 0] for label in range(3))).statistic
    ratio = statistic * 2 / (statistic * 2 + 57)
    assert h_score(features, labels, shrinkage=0) == pytest.approx(ratio)


def test_h_score_is_that_of_its_paper() -> None:
    features, labels = clusters(200, 6)
    means = np.stack([features[labels == label].mean(0) for label in range(3)])[labels]
    expected = np.trace(np.linalg.inv(np.cov(features.T, bias=True)) @ np.cov(means.T, bias=True))
    assert h_score(features, labels, shrinkage=0) == pytest.approx(expected)


def test_h_score_of_separated_classes_is_their_number_minus_one() -> None:
    features, labels = clusters(300, 5, classes=4, spread=1e-4)
    assert h_score(features, labels, shrinkage=0) == pytest.approx(3, abs=1e-3)


def test_shrinkage_keeps_noise_from_looking_explained() -> None:
    """More values than images explain any labels, unless the covariance is shrunk."""
    noise = np.random.default_rng(0).normal(size=(40, 200))
    labels = np.arange(40) % 4
    assert h_score(noise, labels, shrinkage=0) == pytest.approx(3, abs=1e-5)
    assert h_score(noise, labels) < 0.5
    assert h_score(*clusters(40, 200, classes=4, spread=0.3)) > 1


sources = st.integers(2, 6).flatmap(
    lambda classes: st.tuples(
        arrays(float, (25, classes), elements=st.floats(-8, 8)), arrays(int, 25, elements=st.integers(0, 3))
    )
)


@given(sources)
def test_nce_is_mutual_information_less_the_labels_entropy(case: tuple[Any, Any]) -> None:
    logits, labels = case
    predictions = logits.argmax(1)
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    entropy = -(shares * np.log(shares)).sum()
    assert nce(predictions, labels) == pytest.approx(mutual_info_score(predictions, labels) - entropy, abs=1e-9)
    assert -entropy - 1e-9 <= nce(predictions, labels) <= 1e-12


@given(sources)
def test_leep_is_that_of_its_paper(case: tuple[Any, Any]) -> None:
    """The paper's definition: joint distribution, conditional one, mean log of the empirical prediction."""
    logits, labels = case
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    joint = np.array([p[labels == label].sum(0) for label in range(4)]) / len(labels)
    conditional = joint / joint.sum(0)
    expected = np.mean([np.log((conditional[label] * row).sum()) for row, label in zip(p, labels, strict=True)])
    score = leep(np.log(p), labels)
    assert score == pytest.approx(expected, abs=1e-9)
    # property 2 of the paper: at least NCE plus the mean log probability of the source classes
    assert score >= nce(p.argmax(1), labels) + np.log(p.max(1)).mean() - 1e-9


def test_leep_of_a_sure_source_is_nce() -> None:
    random = np.random.default_rng(0)
    source, labels = random.integers(0, 5, 100), random.integers(0, 3, 100)
    with np.errstate(divide="ignore"):
        sure = np.log(np.eye(7)[source])  # two classes without images
    assert leep(sure, labels) == pytest.approx(nce(source, labels))
