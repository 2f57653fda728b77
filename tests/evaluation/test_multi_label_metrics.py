"""Multi-label metrics against scikit-learn's and against counts by hand."""

import warnings

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, log_loss
from transformers import EvalPrediction

from hf_tl.errors import DataError, ModelError
from hf_tl.evaluation.metrics import MULTI_LABEL, SINGLE_LABEL, problem_type_of, trainer_metrics
from hf_tl.evaluation.multi_label import compute_multi_label_metrics, mean_average_precision
from hf_tl.evaluation.offline import Accuracy, MeanAveragePrecision

LOGITS = np.array([[3.0, -1.0, -2.0], [2.0, 1.0, -3.0], [1.0, -2.0, -1.0], [-1.0, 2.0, -4.0]])
LABELS = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]])
"""No image has the third class."""


def test_a_case_counted_by_hand() -> None:
    metrics = compute_multi_label_metrics(LOGITS, LABELS)
    # ranked by score, class 1 has hits at ranks 1 and 3, class 2 at rank 2
    assert metrics["mean_average_precision"] == pytest.approx(((1 / 1 + 2 / 3) / 2 + 1 / 2) / 2)
    # predicted: class 1 in images 1, 2, 3 (correct: 1, 3), class 2 in images 2, 4 (correct: 2)
    assert metrics["micro_f1"] == pytest.approx(2 * 3 / (2 * 3 + 2 + 0))
    assert metrics["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert metrics["subset_accuracy"] == 0.5
    assert metrics["classes_without_positives"] == 1
    assert list(metrics) == [*(figure.key for figure in MULTI_LABEL.figures), "loss", "classes_without_positives"]


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_metrics_are_those_of_scikit_learn(samples: int, classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(samples, classes)).astype(np.float32)
    labels = random.integers(0, 2, (samples, classes))
    labels[0, 0] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # scikit-learn warns of undefined metrics
        metrics = compute_multi_label_metrics(logits, labels)
    shown = [number for number in range(classes) if labels[:, number].any()]
    precisions = [average_precision_score(labels[:, number], logits[:, number]) for number in shown]
    assert metrics["mean_average_precision"] == pytest.approx(np.mean(precisions))
    decisions, truth = (logits > 0).ravel().astype(int), labels.ravel()
    assert metrics["micro_f1"] == pytest.approx(f1_score(truth, decisions, zero_division=0))
    measured = [number for number in range(classes) if labels[:, number].any() or (logits[:, number] > 0).any()]
    scores = [f1_score(labels[:, number], logits[:, number] > 0, zero_division=0) for number in measured]
    assert metrics["macro_f1"] == pytest.approx(np.mean(scores))
    assert metrics["subset_accuracy"] == pytest.approx(accuracy_score(labels, (logits > 0).astype(int)))
    probabilities = 1 / (1 + np.exp(-logits.ravel().astype(np.float64)))
    assert metrics["loss"] == pytest.approx(log_loss(truth, probabilities, labels=[0, 1]), rel=1e-5)
    assert metrics["classes_without_positives"] == classes - len(shown)


def test_a_score_that_is_no_number_ranks_last() -> None:
    labels = np.array([[1], [0], [0]])
    assert mean_average_precision(np.array([[np.nan], [-5.0], [-np.inf]]), labels) < 0.5
    assert mean_average_precision(np.array([[np.inf], [5.0], [np.nan]]), labels) == 1


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 2), int), r"found \(2, 3\) and \(2, 2\)"),
        (np.zeros((2, 3)), np.zeros(2, int), "of shape"),
        (np.zeros((0, 3)), np.zeros((0, 3), int), "at least one sample"),
        (np.zeros((2, 3)), np.full((2, 3), 2), "must be 0 or 1, found 2"),
        (np.zeros((2, 3)), np.zeros((2, 3), int), "at least one sample with a label"),
    ],
)
def test_what_does_not_fit_is_an_error(logits: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        compute_multi_label_metrics(logits, labels)


def test_the_metric_class_takes_batches() -> None:
    metric = MeanAveragePrecision()
    for part in (slice(0, 1), slice(1, 4)):
        metric.add_batch(predictions=LOGITS[part], references=LABELS[part])
    expected = mean_average_precision(LOGITS, LABELS)
    assert metric.compute() == {"mean_average_precision": pytest.approx(expected)}
    combined = evaluate.combine([MeanAveragePrecision()])
    assert combined.compute(predictions=LOGITS, references=LABELS)["mean_average_precision"] == pytest.approx(expected)
    with pytest.raises(ValueError):
        Accuracy().compute(predictions=LOGITS, references=LABELS)


def test_trainer_metrics_know_the_kind_by_the_labels() -> None:
    metrics = trainer_metrics(EvalPrediction(predictions=LOGITS, label_ids=LABELS.astype(np.float32)))
    expected = compute_multi_label_metrics(LOGITS, LABELS)
    assert metrics == {name: value for name, value in expected.items() if name != "loss"}


def test_models_are_chosen_by_the_mean_average_precision() -> None:
    good = {"mean_average_precision": 0.8, "subset_accuracy": 0.1, "loss": 0.9}
    bad = {"mean_average_precision": 0.7, "subset_accuracy": 0.9, "loss": 0.1}
    assert MULTI_LABEL.quality(good) > MULTI_LABEL.quality(bad)
    assert MULTI_LABEL.quality({**good, "loss": 0.2}) > MULTI_LABEL.quality(good)
    assert SINGLE_LABEL.quality({"accuracy": 0.8, "loss": 2.0}) > SINGLE_LABEL.quality({"accuracy": 0.7, "loss": 1.0})


def test_a_model_that_is_no_classifier_is_refused() -> None:
    model = type("Model", (), {"config": type("Config", (), {"problem_type": "regression"})})
    with pytest.raises(ModelError, match="problem_type is 'regression'; expected one of single_label_classification"):
        problem_type_of(model)
