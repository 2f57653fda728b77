"""Out-of-distribution scores against reference implementations."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.covariance import ledoit_wolf

from hf_tl.abstention.scores import NEIGHBORS, SCORES, WIDEST, Energy, Mahalanobis, NearestNeighbors, Score


def clusters(random: np.random.Generator, images: int, classes: int = 3, width: int = 8) -> tuple[np.ndarray, ...]:
    labels = np.arange(images) % classes
    return 4 * np.eye(classes, width)[labels] + random.normal(size=(images, width)), labels


def test_distances_are_those_of_the_sphere() -> None:
    random = np.random.default_rng(0)
    train, labels = clusters(random, 60)
    images = random.normal(size=(7, 8))
    unit_train, unit = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (train, images))
    expected = np.sort(cdist(unit, unit_train), axis=1)[:, NEIGHBORS - 1]
    score = NearestNeighbors.fit(train, labels)
    np.testing.assert_allclose(score(images, np.zeros((7, 3))), expected, atol=2e-3)


def test_distances_with_few_training_images_and_features_of_zero() -> None:
    score = NearestNeighbors.fit(np.eye(2), np.zeros(2))
    np.testing.assert_allclose(score(np.array([[1.0, 0], [0, 0]]), np.zeros((2, 1))), [2**0.5, 2**0.5], atol=1e-3)


def test_mahalanobis_distances_are_those_of_the_nearest_class() -> None:
    random = np.random.default_rng(1)
    train, labels = clusters(random, 90)
    images = random.normal(size=(6, 8))
    means = np.stack([train[labels == label].mean(axis=0) for label in range(3)])
    covariance, _ = ledoit_wolf(train - means[labels], assume_centered=True)
    expected = cdist(images, means, "mahalanobis", VI=np.linalg.inv(covariance)).min(axis=1) ** 2
    score = Mahalanobis.fit(train, labels)
    assert score is not None
    np.testing.assert_allclose(score(images, np.zeros((6, 3))), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("train", "labels"),
    [
        (np.ones((3, 4)), np.arange(3)),
        (np.ones((6, 4)), np.arange(6) % 2),
        (np.zeros((4, WIDEST + 1)), np.arange(4) % 2),
    ],
    ids=["one image of each class", "equal images", "many features"],
)
def test_a_covariance_needs_images_that_differ(train: np.ndarray, labels: np.ndarray) -> None:
    assert Mahalanobis.fit(train, labels) is None


def test_energy_is_the_log_of_the_summed_exponentials() -> None:
    logits = np.random.default_rng(2).normal(scale=300, size=(5, 4))
    np.testing.assert_allclose(Energy()(np.zeros((5, 1)), logits), -logsumexp(logits, axis=1))


@pytest.mark.parametrize("kind", SCORES.values(), ids=list(SCORES))
def test_images_far_from_all_classes_score_higher(kind: type[Score]) -> None:
    random = np.random.default_rng(3)
    train, labels = clusters(random, 120)
    own, _ = clusters(random, 60)
    foreign = 4 * np.eye(8)[np.full(60, 7)] + random.normal(size=(60, 8))
    score = kind.fit(train, labels)
    assert score is not None
    head = np.eye(8)[:, :3]
    assert np.median(score(foreign, foreign @ head)) > np.quantile(score(own, own @ head), 0.9)
