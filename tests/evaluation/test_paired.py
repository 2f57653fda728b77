"""Paired differences: against published numbers, the likelihood and brute force, and their coverage."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, multinomial

from hf_tl.evaluation.paired import (
    corrected,
    difference_p_value,
    paired_interval,
    precision_differences,
    share_difference,
)
from hf_tl.evaluation.resampling import average_precisions


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int, int]:
    """Draw the numbers of images on which only the first, only the second model is correct, and of all images."""
    only_first, only_second, others = (draw(st.integers(0, 60)) for _ in range(3))
    return only_first, only_second, max(1, only_first + only_second + others)


def test_two_classifiers_differ_by_the_images_on_which_they_do() -> None:
    """McNemar: 9 images that only one model classifies correctly against 1 of the other, whatever they agree on."""
    first, second = np.ones(1000, bool), np.ones(1000, bool)
    second[:9], first[9] = False, False
    assert difference_p_value(first, second) == pytest.approx(2 * 11 / 2**10)
    assert difference_p_value(first, second) == pytest.approx(binomtest(1, 10).pvalue)
    assert difference_p_value(first, first) == 1


def test_the_interval_is_the_published_one() -> None:
    """Airway hyper-responsiveness before and after stem cell transplantation (Fagerland et al. 2014, table 1 and 7)."""
    assert paired_interval(7, 1, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@given(counts())
@settings(max_examples=60, deadline=None)
def test_the_bounds_are_where_the_score_test_turns(outcome: tuple[int, int, int]) -> None:
    """The most likely shares under the bound are searched for, instead of computed by the closed form."""
    only_first, only_second, images = outcome
    for bound, expected in zip(paired_interval(*outcome), (1.96, -1.96), strict=True):
        if abs(bound) > 1 - 1e-9:
            continue
        both = images - only_first - only_second

        def surprise(share: float, bound: float = bound, both: int = both) -> float:
            shares = np.array([share, share + bound, 1 - 2 * share - bound])
            seen = np.array([only_first, only_second, both])
            return -float((seen * np.log(np.maximum(shares, 1e-300))).sum())

        limits = (max(0.0, -bound), (1 - bound) / 2)
        share = minimize_scalar(surprise, bounds=limits, method="bounded", options={"xatol": 1e-12}).x
        spread = np.sqrt(images * (2 * share + bound - bound**2))
        assert (only_second - only_first - images * bound) / spread == pytest.approx(expected, abs=5e-3)


@given(counts(), st.integers(2, 50))
@settings(deadline=None)
def test_the_interval_holds_the_difference_and_swaps_with_the_models(
    outcome: tuple[int, int, int], together: int
) -> None:
    only_first, only_second, images = outcome
    low, high = paired_interval(only_first, only_second, images)
    assert -1 <= low <= (only_second - only_first) / images <= high <= 1
    assert low < high
    assert paired_interval(only_second, only_first, images) == (-high, -low)
    wider = paired_interval(only_first, only_second, images, together)
    assert wider[0] <= low
    assert wider[1] >= high


@pytest.mark.parametrize("shares", [(0.05, 0.15), (0.1, 0.1), (0.02, 0.3)])
def test_the_interval_has_its_nominal_coverage(shares: tuple[float, float]) -> None:
    """Sum over all outcomes of 40 images, weighted by their probability."""
    truth, images, held = shares[1] - shares[0], 40, 0.0
    for only_first in range(images + 1):
        for only_second in range(images + 1 - only_first):
            low, high = paired_interval(only_first, only_second, images)
            if low <= truth <= high:
                seen = [only_first, only_second, images - only_first - only_second]
                held += multinomial.pmf(seen, images, [*shares, 1 - sum(shares)])
    assert 0.93 < held < 0.985


def test_shares_have_their_own_intervals_too() -> None:
    first, second = np.arange(100) < 80, np.arange(100) < 90
    difference = share_difference(first, second)
    assert (difference.first, difference.second, difference.value) == (0.8, 0.9, pytest.approx(0.1))
    assert difference.first_interval == pytest.approx((0.7112, 0.8666), abs=1e-3)
    assert difference.p_value == pytest.approx(2 / 2**10)


@given(st.lists(st.none() | st.floats(0, 1), max_size=6))
@settings(deadline=None)
def test_the_correction_is_that_of_closed_testing(p_values: list[float | None]) -> None:
    """A hypothesis is rejected if Bonferroni rejects every set of hypotheses that contains it."""
    present = [index for index, p_value in enumerate(p_values) if p_value is not None]
    for index, result in enumerate(corrected(p_values)):
        if p_values[index] is None:
            assert result is None
            continue
        sets = [each for size in range(1, len(present) + 1) for each in combinations(present, size) if index in each]
        expected = max(min(1.0, len(each) * min(p_values[member] or 0 for member in each)) for each in sets)
        assert result == pytest.approx(expected)


def scores(
    images: int, share: float, quality: tuple[float, float], random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores of two models with errors on the same images, and the labels of four classes."""
    labels = (random.random((images, 4)) < share).astype(int)
    shared, *own = random.normal(size=(3, images, 4))
    first, second = (signal * labels + 0.8 * shared + 0.6 * noise for signal, noise in zip(quality, own, strict=True))
    return first, second, labels


def test_precision_of_one_model_against_itself_and_of_two_swapped() -> None:
    first, second, labels = scores(80, 0.3, (1.0, 2.0), np.random.default_rng(0))
    itself, classes = precision_differences(first, first, labels)
    assert (itself.value, itself.interval, itself.p_value) == (0, None, 1)
    assert {(each.value, each.interval, each.p_value) for each in classes if each} == {(0, None, 1)}
    there, back = precision_differences(first, second, labels)[0], precision_differences(second, first, labels)[0]
    assert there.value == pytest.approx(-back.value)
    assert there.p_value == pytest.approx(back.p_value)
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]))
    assert there.first_interval == back.second_interval


def test_a_class_of_one_image_has_no_difference() -> None:
    first, second, labels = scores(60, 0.3, (1.0, 2.0), np.random.default_rng(1))
    labels[:, 0], labels[:, 1] = 0, 0
    labels[7, 1] = 1
    _, classes = precision_differences(first, second, labels)
    assert [difference is None for difference in classes] == [True, True, False, False]


def test_intervals_of_precision_differences_have_their_nominal_coverage() -> None:
    """Draw samples of 60 images, a dozen per class, from a known distribution."""
    random, quality = np.random.default_rng(2), (1.2, 1.6)
    first, second, labels = scores(100_000, 0.2, quality, random)
    truth = average_precisions(second, labels) - average_precisions(first, labels)
    held, together = [], []
    for _ in range(80):
        overall, classes = precision_differences(*scores(60, 0.2, quality, random))
        assert overall.interval is not None
        held.append(overall.interval[0] <= truth.mean() <= overall.interval[1])
        intervals = [each.interval for each in classes if each and each.interval]
        together.append(all(low <= value <= high for (low, high), value in zip(intervals, truth, strict=True)))
    assert np.mean(held) > 0.9
    assert np.mean(together) > 0.9
