"""Predictions in a record: by class, by pairs of classes, and the most confident mistakes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from hf_tl.evaluation.intervals import wilson_interval
from hf_tl.evaluation.measure import Predictions
from hf_tl.evaluation.metrics import MULTI_LABEL, SINGLE_LABEL, ProblemType
from hf_tl.evaluation.report import MISTAKES, fit_scaling, measure_split
from hf_tl.record import Measured
from hf_tl.record.codec import RecordError, decode, encode


def predictions(images: int, classes: int, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, images)
    return Predictions(random.normal(size=(images, classes)) + 2 * np.eye(classes)[labels], labels)


def measured(predictions: Predictions, problem: ProblemType = SINGLE_LABEL) -> Measured:
    return measure_split(problem, predictions, split="test", weights_digest="these")


def test_one_class_an_image_as_scikit_learn_has_it() -> None:
    test, classes = predictions(300, 7), 7
    result, predicted = measured(test), test.logits.argmax(axis=1)
    expected = precision_recall_fscore_support(test.labels, predicted, labels=range(classes))
    for key, values in zip(("precision", "recall", "f1", "images"), expected, strict=True):
        assert result.classes[key] == pytest.approx(values, abs=1e-6), key
    matrix = np.zeros((classes, classes), dtype=int)
    for true, guess, count in result.confusion:
        matrix[true, guess] = count
    assert (matrix == confusion_matrix(test.labels, predicted, labels=range(classes))).all()
    assert set(result.intervals) == {"accuracy", "top5_accuracy", "macro_f1"}
    low, high = result.intervals["accuracy"]
    assert low < (predicted == test.labels).mean() < high
    assert encode(decode(Measured, json.loads(json.dumps(encode(result), allow_nan=False)))) == encode(result)


def test_the_temperature_is_that_of_validation() -> None:
    sure = predictions(500, 4)
    scaling = fit_scaling(SINGLE_LABEL, sure, "validation", "these")
    sharper = fit_scaling(SINGLE_LABEL, Predictions(sure.logits * 5, sure.labels), "validation", "these")
    assert scaling.value is not None
    assert sharper.value == pytest.approx(5 * scaling.value, rel=1e-3)
    assert (scaling.split, scaling.images, scaling.weights_digest) == ("validation", 500, "these")
    test, how = predictions(100, 4, seed=1), {"split": "test", "weights_digest": "these"}
    assert measure_split(SINGLE_LABEL, test, **how).calibration["after"] is None
    after = measure_split(SINGLE_LABEL, test, temperature=scaling, **how).calibration["after"]
    divided = Predictions(test.logits / scaling.value, test.labels)
    assert after == measure_split(SINGLE_LABEL, divided, **how).calibration["before"]
    with pytest.raises(RecordError, match="fitted on other weights"):
        measure_split(SINGLE_LABEL, test, temperature=replace(scaling, weights_digest="others"), **how)


def test_mistakes_are_the_most_confident_ones() -> None:
    test = predictions(300, 4)
    mistakes = measured(test).mistakes
    assert len(mistakes) == MISTAKES
    wrong = test.logits.argmax(axis=1) != test.labels
    probabilities = np.exp(test.logits) / np.exp(test.logits).sum(axis=1, keepdims=True)
    assert [m["probability"] for m in mistakes] == pytest.approx(
        sorted(probabilities.max(1)[wrong])[::-1][:MISTAKES], abs=1e-6
    )
    for mistake in mistakes:
        row = mistake["image"]
        assert (mistake["true"], mistake["predicted"]) == (test.labels[row], test.logits[row].argmax())


@pytest.mark.parametrize("wrong", [0, 1])
def test_fewer_than_eight_mistakes_are_all_named(wrong: int) -> None:
    logits, labels = np.eye(4) * 3, np.arange(4)
    labels[:wrong] += 1
    result = measured(Predictions(logits, labels))
    assert [mistake["image"] for mistake in result.mistakes] == list(range(wrong))
    assert ("macro_f1" in result.intervals) == bool(wrong)


def test_any_number_of_classes() -> None:
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]], dtype=np.float32)
    logits = np.where(labels > 0, 2.0, -2.0)
    logits[2, 0], logits[3, 1] = 5.0, -4.0  # a false positive and a false negative
    result = measured(Predictions(logits, labels), MULTI_LABEL)
    assert result.classes["images"] == [2, 2, 0]
    assert result.classes["precision"] == [pytest.approx(2 / 3, abs=1e-6), 1.0, None]
    assert result.classes["recall"] == [1.0, 0.5, None]
    assert result.classes["recall_interval"][2] is None
    *intervals, missing = result.classes["precision_interval"]
    assert intervals == [pytest.approx(wilson_interval(*counts), abs=1e-5) for counts in ((2, 3), (1, 1))]
    assert missing is None
    assert [(m["image"], m["true"], m["predicted"]) for m in result.mistakes] == [(2, None, 0), (3, 1, None)]
    assert [m["probability"] for m in result.mistakes] == pytest.approx([1 / (1 + np.exp(-5)), 1 / (1 + np.exp(-4))])
    assert set(result.intervals) == {"subset_accuracy", "micro_f1", "macro_f1", "mean_average_precision"}
    assert result.confusion == ()
