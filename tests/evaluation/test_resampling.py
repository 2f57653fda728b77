"""Bootstrap of average precision: against scikit-learn on the same resamples, scipy's BCa, and the known truth."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import bootstrap
from sklearn.metrics import average_precision_score

from hf_tl.evaluation.intervals import RESAMPLES
from hf_tl.evaluation.multi_label import mean_average_precision
from hf_tl.evaluation.report import measure_split
from hf_tl.evaluation.resampling import (
    average_precisions,
    draw_average_precisions,
    draw_means,
    mean_average_precision_interval,
    mean_of_classes,
    quantile_interval,
)


def noisy(images: int, share: float, quality: float, seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = (random.random((images, classes)) < share).astype(int)
    return quality * labels + random.normal(size=labels.shape), labels


@given(
    arrays(np.float64, (12, 2), elements=st.sampled_from([-2.0, 0.0, 0.5, 3.0, np.nan])),
    arrays(np.int64, (12, 2), elements=st.integers(0, 1)),
)
@settings(max_examples=60, deadline=None)
def test_each_class_is_that_of_scikit_learn_whatever_ties(scores: np.ndarray, labels: np.ndarray) -> None:
    precisions = average_precisions(scores, labels)
    ranked = np.nan_to_num(scores, nan=-9.0)
    for index in range(2):
        if labels[:, index].any():
            assert precisions[index] == pytest.approx(average_precision_score(labels[:, index], ranked[:, index]))
        else:
            assert np.isnan(precisions[index])
    if labels.any():
        assert np.nanmean(precisions) == pytest.approx(mean_average_precision(scores, labels))


def test_a_draw_is_what_scikit_learn_makes_of_its_images() -> None:
    scores, labels = noisy(40, 0.3, 1.0, seed=1)
    scores = scores.round(1)  # with ties
    draws = draw_average_precisions([scores, -scores], labels, seed=5)
    assert draws.shape == (2, RESAMPLES, 3)
    rows = np.random.default_rng(5).integers(0, 40, (RESAMPLES, 40))
    for draw in range(0, RESAMPLES, 100):
        for model, sign in enumerate((1, -1)):
            drawn = [
                average_precision_score(labels[rows[draw], name], sign * scores[rows[draw], name]) for name in range(3)
            ]
            assert draws[model, draw] == pytest.approx(drawn, abs=1e-5)


def test_many_images_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = noisy(50, 0.3, 1.0, seed=2)
    whole = draw_average_precisions([scores], labels)
    monkeypatch.setattr("hf_tl.evaluation.resampling.DRAWN_AT_ONCE", 50 * 300)
    np.testing.assert_array_equal(draw_average_precisions([scores], labels), whole)


def test_the_interval_is_near_scipys_bca() -> None:
    scores, labels = noisy(150, 0.3, 1.5, seed=3)

    def statistic(rows: np.ndarray) -> float:
        return mean_average_precision(scores[rows], labels[rows])

    expected = bootstrap(
        (np.arange(150),),
        statistic,
        vectorized=False,
        n_resamples=400,
        method="BCa",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    assert mean_average_precision_interval(scores, labels) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_intervals_have_better_coverage_than_plain_quantiles() -> None:
    """Samples of 200 images, ten per class: average precision on so few images is biased upwards."""
    scores, labels = noisy(16_000, 0.05, 1.5, seed=4, classes=6)
    truth = mean_average_precision(scores, labels)
    held, plain = [], []
    for sample in range(80):
        rows = slice(200 * sample, 200 * (sample + 1))
        interval = mean_average_precision_interval(scores[rows], labels[rows])
        draws = mean_of_classes(draw_average_precisions([scores[rows]], labels[rows])[0])
        for low, high, into in ((*(interval or (0, 0)), held), (*np.quantile(draws, [0.025, 0.975]), plain)):
            into.append(low <= truth <= high)
    assert np.mean(held) > 0.88
    assert np.mean(plain) < 0.85


def test_draws_without_a_rare_class_ignore_it() -> None:
    scores, labels = noisy(40, 0.4, 1.0, seed=6)
    labels[:, 0], labels[:, 1], labels[3, 1] = 0, 0, 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draws = draw_average_precisions([scores], labels)[0]
        low, high = mean_average_precision_interval(scores, labels)
    without = np.isnan(draws).mean(axis=0)
    assert without[0] == 1
    assert 0.3 < without[1] < 0.45  # one image of 40 is missing from all of 40 resamples
    assert 0 < low < high <= 1


def test_a_perfect_ranking_has_no_interval_and_the_same_seed_the_same_interval() -> None:
    _, labels = noisy(40, 0.3, 1.0, seed=7)
    assert mean_average_precision_interval(labels.astype(float), labels) is None
    scores, labels = noisy(40, 0.3, 1.0, seed=8)
    assert mean_average_precision_interval(scores, labels) == mean_average_precision_interval(scores, labels)


def test_a_report_holds_the_interval() -> None:
    from hf_tl.evaluation.measure import Predictions
    from hf_tl.evaluation.metrics import MULTI_LABEL

    scores, labels = noisy(60, 0.4, 2.0, seed=9)
    result = measure_split(
        MULTI_LABEL, Predictions(scores, labels.astype(np.float32)), split="test", weights_digest="these"
    )
    assert set(result.intervals) == {figure.key for figure in MULTI_LABEL.figures}
    low, high = result.intervals["mean_average_precision"]
    assert low < mean_average_precision(scores, labels) < high


def test_the_interval_holds_the_middle_95_percent_of_the_draws() -> None:
    assert quantile_interval(np.arange(1001) / 1000) == pytest.approx((0.025, 0.975))
    assert quantile_interval(np.array([0.5, 0.5 + 2e-6])) is not None
    assert quantile_interval(np.array([0.5, 0.5 + 5e-7])) is None


def test_means_of_resamples_are_centered_and_spread_as_those_of_a_sample() -> None:
    values = np.random.default_rng(0).normal(3, 2, (1, 100))
    draws = draw_means(np.concatenate([values, -values]), seed=1)
    assert draws.shape == (2, RESAMPLES)
    np.testing.assert_allclose(draws[0], -draws[1])  # all rows share the resamples
    assert draws[0].mean() == pytest.approx(values.mean(), abs=0.03)
    assert draws[0].std() == pytest.approx(values.std() / 10, rel=0.1)
    assert not np.array_equal(draws, draw_means(np.concatenate([values, -values]), seed=2))
    np.testing.assert_array_equal(draw_means(values), draw_means(values, seed=0))


def test_means_of_many_images_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(2, 50))
    whole = draw_means(values)
    monkeypatch.setattr("hf_tl.evaluation.resampling.DRAWN_AT_ONCE", 50 * 300)
    np.testing.assert_allclose(draw_means(values), whole)
    monkeypatch.setattr("hf_tl.evaluation.resampling.DRAWN_AT_ONCE", 1)
    assert draw_means(values).shape == whole.shape
