"""Calibration on synthetic data with known overconfidence."""

import numpy as np
import pytest

from hf_tl.evaluation.calibration import MIN_WRONG, confidences, fit_temperature, reliability
from hf_tl.evaluation.metrics import MULTI_LABEL, SINGLE_LABEL, cross_entropy
from hf_tl.evaluation.multi_label import binary_cross_entropy


def calibrated(images: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw logits whose softmax is the distribution of the labels."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(images, classes)) * 2
    return logits, (logits + random.gumbel(size=logits.shape)).argmax(axis=1)


@pytest.mark.parametrize("too_sure", [0.5, 1.0, 2.5])
def test_the_temperature_of_scaled_logits_is_recovered(too_sure: float) -> None:
    logits, labels = calibrated(6000, 5)
    temperature, wrong = fit_temperature(SINGLE_LABEL, logits * too_sure, labels)
    assert wrong == (logits.argmax(axis=1) != labels).sum()
    assert temperature is not None
    assert temperature == pytest.approx(too_sure, rel=0.06)
    before, after = (
        reliability(*confidences(SINGLE_LABEL, scaled, labels)).ece
        for scaled in (logits * too_sure, logits * too_sure / temperature)
    )
    assert after < 0.02
    assert before > 0.05 or too_sure == 1.0
    assert cross_entropy(logits * too_sure / temperature, labels) <= cross_entropy(logits * too_sure, labels)


def test_the_temperature_of_any_number_of_classes() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(4000, 3)) * 2
    labels = (random.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    temperature, wrong = fit_temperature(MULTI_LABEL, logits * 3, labels)
    assert wrong == ((logits > 0) != labels).sum()
    assert temperature is not None
    assert temperature == pytest.approx(3, rel=0.06)
    probabilities, outcomes = confidences(MULTI_LABEL, logits, labels)
    assert probabilities.shape == outcomes.shape == (12000,)
    assert reliability(probabilities, outcomes).ece < 0.02
    assert binary_cross_entropy(logits * 3 / temperature, labels) < binary_cross_entropy(logits * 3, labels)


@pytest.mark.parametrize("wrong", [0, 1, MIN_WRONG - 1, MIN_WRONG])
def test_a_temperature_needs_at_least_ten_wrong_predictions(wrong: int) -> None:
    """Multi-label mistakes are counted by decision: one in each wrong image here."""
    labels = np.arange(30) % 3
    logits, flags = np.eye(3)[labels] * 4, np.eye(3)[labels]
    labels[:wrong] = (labels[:wrong] + 1) % 3
    flags[:wrong] = 0
    for problem, outcome, target in ((SINGLE_LABEL, logits, labels), (MULTI_LABEL, logits - 2, flags)):
        temperature, count = fit_temperature(problem, outcome, target)
        assert count == wrong
        assert (temperature is None) == (wrong < MIN_WRONG)


def test_the_error_is_the_mean_difference_weighted_by_cases() -> None:
    """Two bins: of three cases at 0.9 one is correct, the case at 0.3 is correct; by hand 3/4 * 0.567 + 1/4 * 0.7."""
    result = reliability(np.array([0.9, 0.9, 0.9, 0.3]), np.array([1, 0, 0, 1]), bins=10)
    assert result.ece == pytest.approx(0.75 * (0.9 - 1 / 3) + 0.25 * 0.7)
    assert result.counts == (0, 0, 1, 0, 0, 0, 0, 0, 3, 0)
    assert result.shares[8] == pytest.approx(1 / 3)
    assert result.probabilities[0] is None


def test_the_edges_belong_to_bins() -> None:
    assert reliability(np.array([0.0, 1.0, 0.1]), np.array([0, 1, 0]), bins=10).counts == (2, *[0] * 8, 1)
