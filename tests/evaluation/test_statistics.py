"""Resamples, intervals and p-values by hand: sizes, units, bounds and undefined values."""

import math
import warnings

import numpy as np
import pytest
from scipy.stats import t as student

from hf_tl.evaluation.intervals import RESAMPLES, f1_intervals, share_interval, wilson_interval
from hf_tl.evaluation.paired import (
    Difference,
    corrected,
    difference_p_value,
    paired_interval,
    precision_differences,
    share_difference,
)
from hf_tl.evaluation.resampling import (
    average_precisions,
    bias_corrected_interval,
    draw_average_precisions,
    draw_means,
    mean_average_precision_interval,
    mean_of_classes,
    quantile_interval,
)


def noisy(images: int = 120, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, images)
    return np.where(random.random(images) < 0.3, random.integers(0, classes, images), labels), labels


def flags(images: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, (images, 3))
    return np.where(random.random(labels.shape) < 0.2, 1 - labels, labels), labels


def width(interval: tuple[float, float] | None) -> float:
    assert interval is not None
    return interval[1] - interval[0]


@pytest.mark.parametrize(("predictions", "labels"), [noisy(), flags()])
def test_fewer_independent_images_widen_the_intervals_of_f1(predictions: np.ndarray, labels: np.ndarray) -> None:
    """An interval is as wide as the inverse square root of the number of independent images."""
    images = len(labels)
    full = f1_intervals(predictions, labels)
    assert f1_intervals(predictions, labels, independent=images) == full
    for name, interval in full.items():
        fewer = f1_intervals(predictions, labels, independent=images // 4)[name]
        assert 1.6 < width(fewer) / width(interval) < 2.5
        copies = f1_intervals(np.repeat(predictions, 4, axis=0), np.repeat(labels, 4, axis=0), independent=images)
        assert copies[name] == pytest.approx(interval, abs=0.02)
    assert f1_intervals(predictions, labels, seed=1) != full
    single = f1_intervals(predictions, labels, independent=0)
    assert width(single["micro_f1"]) > 0.5


@pytest.mark.parametrize(("predictions", "labels"), [noisy(), flags()])
def test_f1_is_drawn_in_parts(predictions: np.ndarray, labels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = f1_intervals(predictions, labels)
    for size in (1, 120 * 300):
        monkeypatch.setattr("hf_tl.evaluation.intervals.DRAWN_AT_ONCE", size)
        assert f1_intervals(predictions, labels) == whole


def test_resamples_without_any_class_do_not_count() -> None:
    predictions, labels = np.zeros((6, 2), int), np.zeros((6, 2), int)
    predictions[0, 0] = labels[0, 0] = labels[1, 1] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        intervals = f1_intervals(predictions, labels)
    assert intervals == {"macro_f1": (0.0, 1.0), "micro_f1": (0.0, 1.0)}


def test_shares_of_groups_are_rounded_to_whole_trials() -> None:
    assert share_interval(0.66, 10) == wilson_interval(7, 10)
    assert share_interval(0.64, 10) == wilson_interval(6, 10)
    assert share_interval(1 + 1e-9, 1) == wilson_interval(1, 1)
    low, high = wilson_interval(0, 9)
    assert (low, 1 - high) == (0.0, pytest.approx(wilson_interval(9, 9)[0]))
    assert wilson_interval(9, 9)[1] == 1.0


def test_means_are_drawn_for_all_rows_together(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(2, 50))
    draws = draw_means(np.stack([values[0], 2 * values[0] + 1, values[1]]))
    assert draws.shape == (3, RESAMPLES)
    np.testing.assert_allclose(draws[1], 2 * draws[0] + 1)
    assert draws[0].mean() == pytest.approx(values[0].mean(), abs=0.02)
    assert draws[0].std() == pytest.approx(values[0].std() / math.sqrt(50), rel=0.1)
    assert abs(np.corrcoef(draws[0], draws[2])[0, 1] - np.corrcoef(values)[0, 1]) < 0.1
    assert not np.allclose(draw_means(values, seed=1), draws[[0, 2]])
    for size in (1, 50 * 300):
        monkeypatch.setattr("hf_tl.evaluation.resampling.DRAWN_AT_ONCE", size)
        np.testing.assert_allclose(draw_means(values), draws[[0, 2]])


def test_quantiles_of_draws() -> None:
    assert quantile_interval(np.linspace(0, 1, 1001)) == pytest.approx((0.025, 0.975))
    assert quantile_interval(np.full(100, 0.3)) is None
    assert quantile_interval(np.array([0.3, 0.3 + 1e-7])) is None
    assert quantile_interval(np.array([0.3, 0.31] * 50)) == pytest.approx((0.3, 0.31))


def test_the_bias_of_draws_is_corrected() -> None:
    draws = np.linspace(0, 1, 1001)
    assert bias_corrected_interval(0.5, draws) == pytest.approx((0.025, 0.975), abs=2e-3)
    low, high = bias_corrected_interval(0.4, draws) or (0, 0)  # the draws are too high: the interval moves down
    assert (low, high) == pytest.approx((0.0070, 0.9268), abs=3e-3)
    mirrored = bias_corrected_interval(0.6, draws)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=3e-3)
    assert bias_corrected_interval(0.5, np.append(draws, np.nan)) == bias_corrected_interval(0.5, draws)
    assert bias_corrected_interval(0.3, np.full(100, 0.3)) is None
    for value in (-1.0, 2.0):
        low, high = bias_corrected_interval(value, draws) or (9, 9)
        assert 0 <= low <= high <= 1
    # half of the draws that equal the value count as below
    even = bias_corrected_interval(0.5, np.repeat([0.0, 0.5, 1.0], [100, 800, 100]))
    assert even == pytest.approx((0.0, 1.0))


def test_means_over_the_classes_that_are_defined() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        means = mean_of_classes(np.array([[0.2, np.nan, 0.6], [np.nan] * 3, [0.0, 0.3, 0.3]]))
    assert means[[0, 2]].tolist() == pytest.approx([0.4, 0.2])
    assert np.isnan(means[1])


def test_seeds_of_average_precisions() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (60, 2))
    scores = labels + random.normal(size=labels.shape)
    first = mean_average_precision_interval(scores, labels)
    assert mean_average_precision_interval(scores, labels, seed=0) == first
    assert mean_average_precision_interval(scores, labels, seed=1) != first
    draws = draw_average_precisions([scores, scores], labels)
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.allclose(draw_average_precisions([scores], labels, seed=1)[0], draws[0])


def test_groups_count_for_the_model_that_is_right_on_more_of_their_images() -> None:
    first = np.array([1, 1, 0, 0, 0, 1, 1, 0, 1, 0], bool)
    second = np.array([1, 0, 1, 1, 0, 0, 1, 1, 1, 1], bool)
    assert difference_p_value(first, second) == pytest.approx(2 * (1 + 6 + 15) / 2**6)
    groups = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 3])  # ties; second; ties; second
    assert difference_p_value(first, second, groups) == pytest.approx(2 / 2**2)
    assert difference_p_value(second, first, groups) == pytest.approx(2 / 2**2)
    assert difference_p_value(first, second, np.arange(10)) == difference_p_value(first, second)


def test_bounds_of_paired_shares() -> None:
    low, high = paired_interval(5, 0, 5)
    assert low == -1
    assert -1 < high < 0
    low, high = paired_interval(0, 5, 5)
    assert high == 1
    assert 0 < low < 1
    low, high = paired_interval(0, 0, 50)
    assert (low, high) == (pytest.approx(-high), pytest.approx(1.96**2 / (50 + 1.96**2), abs=1e-3))
    assert width(paired_interval(3, 7, 50, together=10)) > 1.2 * width(paired_interval(3, 7, 50))


def test_differences_of_shares() -> None:
    first, second = np.arange(50) < 20, (np.arange(50) >= 5) & (np.arange(50) < 37)
    difference = share_difference(first, second, together=3)
    assert difference == Difference(
        0.4, 0.64, paired_interval(5, 17, 50, 3), difference_p_value(first, second), wilson_interval(20, 50),
        wilson_interval(32, 50),
    )  # fmt: skip
    assert difference.value == pytest.approx(0.24)
    assert share_difference(first, second).interval == paired_interval(5, 17, 50)


def test_differences_of_precision_are_those_of_students_t() -> None:
    random = np.random.default_rng(0)
    labels = (random.random((70, 3)) < 0.3).astype(int)
    labels[:, 2] = 0
    labels[:2, 2] = 1
    first, second = (quality * labels + random.normal(size=labels.shape) for quality in (1.0, 2.0))
    overall, classes = precision_differences(first, second, labels, seed=4)
    draws = draw_average_precisions((first, second), labels, seed=4)
    values = [average_precisions(scores, labels) for scores in (first, second)]
    positives = labels.sum(axis=0)

    def expected(value: float, drawn: np.ndarray, freedom: int, together: int) -> tuple[tuple[float, float], float]:
        error = np.nanstd(drawn, ddof=1)
        half = error * student.ppf(1 - 0.025 / together, freedom)
        return (max(-1, value - half), min(1, value + half)), 2 * student.sf(abs(value) / error, freedom)

    means = [float(np.mean(precisions)) for precisions in values]
    assert (overall.first, overall.second) == pytest.approx(tuple(means))
    interval, p_value = expected(
        means[1] - means[0], mean_of_classes(draws[1]) - mean_of_classes(draws[0]), positives.sum() - 1, 1
    )
    assert overall.interval == pytest.approx(interval)
    assert overall.p_value == pytest.approx(p_value)
    assert overall.first_interval == bias_corrected_interval(means[0], mean_of_classes(draws[0]))
    assert overall.second_interval == bias_corrected_interval(means[1], mean_of_classes(draws[1]))
    for name, difference in enumerate(classes):
        assert difference is not None
        assert (difference.first, difference.second) == pytest.approx((values[0][name], values[1][name]))
        interval, p_value = expected(
            values[1][name] - values[0][name], draws[1, :, name] - draws[0, :, name], positives[name] - 1, 3
        )
        assert difference.interval == pytest.approx(interval)
        assert difference.p_value == pytest.approx(p_value)
        assert difference.first_interval is difference.second_interval is None
    assert classes[2] is not None
    assert classes[2].interval is not None
    assert -1 in classes[2].interval or 1 in classes[2].interval  # one degree of freedom: wider than all differences
    assert precision_differences(first, second, labels, seed=5)[0] != overall
    assert precision_differences(first, second, labels)[0] == precision_differences(first, second, labels, seed=0)[0]


def test_holms_correction_by_hand() -> None:
    assert corrected([0.04, 0.01, None, 0.03]) == pytest.approx([0.06, 0.03, None, 0.06])
    assert corrected([0.9, 0.8, 0.0]) == pytest.approx([1.0, 1.0, 0.0])
    assert corrected([]) == []
    assert corrected([None, 0.2]) == [None, 0.2]
