"""Results of a split as a record holds them: groups, calibration, mistakes, and what is undefined."""

import math

import numpy as np
import pytest

from hf_tl.evaluation.calibration import BINS, confidences, fit_temperature, reliability
from hf_tl.evaluation.intervals import f1_intervals, share_interval, wilson_interval
from hf_tl.evaluation.measure import Predictions
from hf_tl.evaluation.metrics import MULTI_LABEL, SINGLE_LABEL
from hf_tl.evaluation.report import (
    MISTAKES,
    finite_metrics,
    fit_scaling,
    measure_split,
    metric_intervals,
    rounded,
)
from hf_tl.evaluation.resampling import mean_average_precision_interval
from hf_tl.record import Measured, Temperature


def single(images: int = 120, classes: int = 12, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, images)
    return Predictions(random.normal(size=(images, classes)) + 2 * np.eye(classes)[labels], labels)


def multi(images: int = 60, classes: int = 4, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, (images, classes))
    return Predictions(random.normal(size=labels.shape) + 3 * labels - 1.5, labels.astype(np.float32))


def measured(predictions: Predictions, **options: object) -> Measured:
    problem = SINGLE_LABEL if predictions.labels.ndim == 1 else MULTI_LABEL
    return measure_split(problem, predictions, split="test", weights_digest="these", **options)


@pytest.mark.parametrize("predictions", [single(), multi()])
def test_what_is_measured_is_named(predictions: Predictions) -> None:
    result = measured(predictions, split_digest="images", learned=3, left_out=4)
    assert (result.split, result.split_digest, result.weights_digest) == ("test", "images", "these")
    assert (result.images, result.learned, result.left_out, result.groups) == (len(predictions.labels), 3, 4, None)
    plain = measured(predictions)
    assert (plain.split_digest, plain.learned, plain.left_out, plain.groups) == (None, 0, 0, None)
    problem = SINGLE_LABEL if predictions.labels.ndim == 1 else MULTI_LABEL
    assert plain.metrics == problem.compute(predictions.logits, predictions.labels)


@pytest.mark.parametrize("predictions", [single(), multi()])
def test_a_group_counts_as_one_image_in_the_intervals(predictions: Predictions) -> None:
    images = len(predictions.labels)
    groups = [str(number // 4) for number in range(images)]
    alone, grouped = measured(predictions), measured(predictions, groups=groups)
    assert grouped.groups == images // 4
    assert grouped.metrics == alone.metrics
    key = "accuracy" if predictions.labels.ndim == 1 else "subset_accuracy"
    assert grouped.intervals[key] == rounded(share_interval(alone.metrics[key], images // 4))
    assert alone.intervals[key] == rounded(share_interval(alone.metrics[key], images))
    predicted = predictions.logits.argmax(1) if predictions.labels.ndim == 1 else (predictions.logits > 0).astype(int)
    expected = f1_intervals(predicted, predictions.labels.astype(int), independent=images // 4)
    assert grouped.intervals["macro_f1"] == rounded(expected["macro_f1"])
    widths = [each.intervals["macro_f1"][1] - each.intervals["macro_f1"][0] for each in (alone, grouped)]
    assert widths[1] > 1.5 * widths[0]
    for name in ("recall_interval", "precision_interval"):
        for wide, narrow in zip(grouped.classes[name], alone.classes[name], strict=True):
            assert wide[1] - wide[0] > narrow[1] - narrow[0]
    assert grouped.classes["images"] == alone.classes["images"]
    true = alone.classes["images"][0]
    hits = round(alone.classes["recall"][0] * true)
    assert alone.classes["recall_interval"][0] == rounded(wilson_interval(hits, true))
    fewer = max(1, round(true / 4))
    assert grouped.classes["recall_interval"][0] == rounded(share_interval(hits / true, fewer))


def test_a_small_class_counts_as_one_image_at_least() -> None:
    labels = np.array([0] * 9 + [1])
    result = measured(Predictions(4 * np.eye(2)[labels], labels), groups=["a"] * 5 + ["b"] * 5)
    assert result.classes["recall_interval"] == [rounded(wilson_interval(2, 2)), rounded(wilson_interval(1, 1))]


def test_metrics_with_intervals() -> None:
    assert set(measured(single()).intervals) == {"accuracy", "top5_accuracy", "macro_f1"}
    test = multi()
    intervals = measured(test).intervals
    assert set(intervals) == {"mean_average_precision", "micro_f1", "macro_f1", "subset_accuracy"}
    expected = mean_average_precision_interval(test.logits, test.labels)
    assert intervals["mean_average_precision"] == pytest.approx(expected, abs=1e-6)
    labels = test.labels.astype(np.int64)
    metrics = {"subset_accuracy": 0.5, "micro_f1": 0.5, "macro_f1": 0.5}
    own = metric_intervals(MULTI_LABEL, metrics, test.logits, labels, (test.logits > 0).astype(np.int64))
    assert own["subset_accuracy"] == rounded(wilson_interval(30, 60))


def test_undefined_values_are_none() -> None:
    assert finite_metrics({"a": math.nan, "b": math.inf, "c": 0.5}) == {"a": None, "b": None, "c": 0.5}
    assert rounded(None) is None
    assert rounded((0.1, math.nan)) is rounded((-math.inf, 0.1)) is None
    assert rounded((0.12345649, 0.98765451)) == (0.123456, 0.987655)
    test = single(classes=3)
    logits = test.logits.copy()
    logits[:, 2] = -99  # never predicted
    classes = measured(Predictions(logits, test.labels)).classes
    assert classes["precision"][2] is classes["precision_interval"][2] is None
    assert (classes["recall"][2], classes["f1"][2]) == (0, 0)
    classes = measured(Predictions(logits, test.labels % 2)).classes
    assert classes["recall"][2] is classes["recall_interval"][2] is classes["f1"][2] is None


def test_the_calibration_of_a_record() -> None:
    test = single()
    probabilities = np.exp(test.logits) / np.exp(test.logits).sum(1, keepdims=True)
    before = measured(test).calibration["before"]
    expected = reliability(probabilities.max(1), probabilities.argmax(1) == test.labels)
    assert before == {
        "ece": pytest.approx(expected.ece),
        "counts": list(expected.counts),
        "probabilities": [mean and pytest.approx(mean) for mean in expected.probabilities],
        "shares": list(expected.shares),
    }
    assert len(before["counts"]) == BINS
    flags = multi()
    before = measured(flags).calibration["before"]
    assert sum(before["counts"]) == flags.labels.size
    twice = measured(test, temperature=Temperature(2.0, "these", "validation", 5)).calibration["after"]
    halved = measured(Predictions(test.logits / 2, test.labels))
    assert twice == halved.calibration["before"]
    none = Temperature(None, reason="too few")
    assert measured(test, temperature=none).calibration["after"] is None


def test_a_temperature_that_is_not_fitted_says_why() -> None:
    labels = np.arange(2000) % 4
    logits = 3 * np.eye(4)[labels]
    labels[:7] = (labels[:7] + 1) % 4
    scaling = fit_scaling(SINGLE_LABEL, Predictions(logits, labels), "validation", "these")
    assert scaling == Temperature(
        None, reason="only 7 of 2,000 validation predictions are wrong, and at least 10 are needed"
    )


def test_the_range_of_temperatures() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 300)
    chance, _ = fit_temperature(SINGLE_LABEL, random.normal(size=(300, 3)) * 500, labels)
    assert chance == pytest.approx(100, rel=0.01)
    logits = 1e-5 * (random.normal(size=(300, 3)) + 2 * np.eye(3)[labels])
    timid, wrong = fit_temperature(SINGLE_LABEL, logits, labels)
    assert wrong >= 10
    assert timid == pytest.approx(0.01, rel=0.01)


def test_confidences_are_of_the_predicted_class_or_of_each_class() -> None:
    logits = np.array([[0.0, math.log(3)], [math.log(4), 0.0]])
    probabilities, outcomes = confidences(SINGLE_LABEL, logits, np.array([1, 1]))
    assert probabilities.tolist() == pytest.approx([0.75, 0.8])
    assert outcomes.tolist() == [True, False]
    probabilities, outcomes = confidences(MULTI_LABEL, logits, np.array([[0, 1], [1, 1]]))
    assert probabilities.tolist() == pytest.approx([0.5, 0.75, 0.8, 0.5])
    assert outcomes.tolist() == [False, True, True, True]


@pytest.mark.parametrize("predictions", [single(300, 4), multi(80)])
def test_mistakes_are_sorted_by_confidence_then_by_image(predictions: Predictions) -> None:
    logits = np.concatenate([predictions.logits, predictions.logits])  # each twice
    labels = np.concatenate([predictions.labels, predictions.labels])
    mistakes = measured(Predictions(logits, labels)).mistakes
    assert len(mistakes) == MISTAKES
    images, half = [mistake["image"] for mistake in mistakes], len(predictions.labels)
    assert images[1::2] == [image + half for image in images[::2]]
    certainty = [mistake["probability"] for mistake in mistakes]
    assert certainty == sorted(certainty, reverse=True)
    assert all(value == round(value, 6) and value > 0.5 for value in certainty)


def test_mistakes_of_several_labels_are_those_of_the_decisions() -> None:
    predictions = multi(80)
    chances = 1 / (1 + np.exp(-predictions.logits))
    wrong = (predictions.logits > 0) != (predictions.labels > 0)
    certainty = np.where(wrong, np.maximum(chances, 1 - chances), 0)
    mistakes = measured(predictions).mistakes
    assert [mistake["probability"] for mistake in mistakes] == pytest.approx(
        np.sort(certainty.ravel())[::-1][:MISTAKES], abs=1e-6
    )
    for mistake in mistakes:
        place = mistake["image"], mistake["true"] if mistake["predicted"] is None else mistake["predicted"]
        assert wrong[place]
        assert (mistake["true"] is None) == (predictions.logits[place] > 0)
        assert mistake["probability"] == pytest.approx(certainty[place], abs=1e-6)
