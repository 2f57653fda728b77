"""Confidence intervals: against scipy and scikit-learn, and their coverage."""

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import f1_score

from hf_tl.evaluation.intervals import f1_intervals, share_interval, wilson_interval


@pytest.mark.parametrize(("hits", "trials"), [(10, 10), (0, 7), (1, 1), (3, 8), (355, 360), (9_471, 10_000)])
def test_wilson_is_that_of_scipy(hits: int, trials: int) -> None:
    expected = binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    assert wilson_interval(hits, trials) == pytest.approx((expected.low, expected.high))
    assert share_interval(hits / trials, trials) == wilson_interval(hits, trials)


def noisy(images: int, classes: int, wrong: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, images)
    return np.where(random.random(images) < wrong, random.integers(0, classes, images), labels), labels


def test_the_bootstrap_of_pairs_is_that_of_images() -> None:
    """scipy resamples the images themselves, and scikit-learn computes F1 of each resample."""
    predictions, labels = noisy(200, 4, 0.3, seed=1)

    def macro_f1(predicted: np.ndarray, true: np.ndarray) -> float:
        return float(f1_score(true, predicted, average="macro"))

    expected = bootstrap(
        (predictions, labels),
        macro_f1,
        paired=True,
        vectorized=False,
        n_resamples=600,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    intervals = f1_intervals(predictions, labels)
    assert intervals["macro_f1"] == pytest.approx((expected.low, expected.high), abs=0.012)
    accuracy = (predictions == labels).mean()
    assert intervals["micro_f1"] == pytest.approx(share_interval(accuracy, 200), abs=0.015)


def test_multi_label_images_are_resampled_whole() -> None:
    random = np.random.default_rng(2)
    labels = random.integers(0, 2, (150, 3))
    predictions = np.where(random.random(labels.shape) < 0.2, 1 - labels, labels)
    intervals = f1_intervals(predictions, labels)
    for average in ("macro", "micro"):

        def score(rows: np.ndarray, average: str = average) -> float:
            return float(f1_score(labels[rows], predictions[rows], average=average))

        draws = [score(random.integers(0, 150, 150)) for _ in range(400)]
        assert intervals[f"{average}_f1"] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.015)


def test_intervals_have_their_nominal_coverage() -> None:
    """95% of the intervals of samples of 200 from a known distribution contain its macro F1."""
    predictions, labels = noisy(200_000, 4, 0.3, seed=3)
    truth = f1_score(labels, predictions, average="macro")
    held = 0
    for sample in range(120):
        rows = slice(200 * sample, 200 * (sample + 1))
        low, high = f1_intervals(predictions[rows], labels[rows])["macro_f1"]
        held += low <= truth <= high
    assert 0.88 < held / 120 <= 1


def test_no_mistake_gives_no_interval_and_the_same_seed_the_same_interval() -> None:
    labels = np.arange(12) % 3
    assert f1_intervals(labels, labels) == {}
    predictions = np.where(np.arange(12) == 0, 1, labels)
    assert f1_intervals(predictions, labels) == f1_intervals(predictions, labels)


def test_a_class_that_is_predicted_and_never_true_counts_as_in_the_metric() -> None:
    predictions, labels = np.array([0, 0, 2, 1] * 30), np.array([0, 0, 0, 1] * 30)
    low, high = f1_intervals(predictions, labels)["macro_f1"]
    assert low < f1_score(labels, predictions, average="macro", zero_division=0) < high < 0.7
