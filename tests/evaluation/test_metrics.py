"""Metrics as functions and as classes of evaluate: against scikit-learn and torch, and offline."""

import socket
import warnings

import evaluate
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, top_k_accuracy_score
from transformers import EvalPrediction

from hf_tl.errors import DataError
from hf_tl.evaluation.metrics import MULTI_LABEL, SINGLE_LABEL, compute_metrics, top_k_accuracy, trainer_metrics
from hf_tl.evaluation.offline import Accuracy, MacroF1, MeanAveragePrecision, OfflineMetric, TopKAccuracy


@st.composite
def logits_and_labels(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    samples, classes = draw(st.integers(1, 40)), draw(st.integers(2, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # a permutation of the classes in each row: no ties, on which libraries differ
    logits = rng.permuted(np.tile(np.arange(classes), (samples, 1)), axis=1) * draw(st.floats(0.01, 10))
    return logits.astype(np.float32), rng.integers(0, classes, samples)


@given(logits_and_labels())
def test_metrics_equal_those_of_sklearn_and_torch(data: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = data
    metrics = compute_metrics(logits, labels)
    predictions = logits.argmax(axis=1)
    classes = logits.shape[1]
    assert metrics["accuracy"] == pytest.approx(accuracy_score(labels, predictions))
    assert metrics["macro_f1"] == pytest.approx(f1_score(labels, predictions, average="macro", zero_division=0))
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels)).item()
    assert metrics["loss"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    if classes > 2:  # sklearn treats two classes as binary and expects one column
        with warnings.catch_warnings(action="ignore"):  # sklearn warns that k reaches all classes
            expected = top_k_accuracy_score(labels, logits, k=5, labels=range(classes))
        assert metrics["top5_accuracy"] == pytest.approx(expected)


@settings(deadline=None, max_examples=20)
@given(logits_and_labels(), st.integers(1, 7))
def test_batches_add_up_to_one_call(data: tuple[np.ndarray, np.ndarray], batch_size: int) -> None:
    logits, labels = data
    expected = compute_metrics(logits, labels)
    del expected["loss"]
    combined = evaluate.combine([Accuracy(), TopKAccuracy(), MacroF1()])
    for start in range(0, len(labels), batch_size):
        part = slice(start, start + batch_size)
        combined.add_batch(predictions=torch.tensor(logits[part]), references=torch.tensor(labels[part]))
    assert combined.compute() == pytest.approx(expected)
    assert combined.compute(predictions=logits, references=labels) == pytest.approx(expected)  # no state is kept


def test_class_indices_serve_as_predictions() -> None:
    predictions, references = [0, 1, 1, 2], [0, 1, 0, 1]
    combined = evaluate.combine({"a": Accuracy(), "f": MacroF1()})
    # F1: class 0 is 2/3, class 1 is 1/2, class 2, predicted and never true, is 0
    expected = {"accuracy": 0.5, "macro_f1": (2 / 3 + 1 / 2 + 0) / 3}
    assert combined.compute(predictions=predictions, references=references) == pytest.approx(expected)


def test_macro_f1_ignores_a_class_that_does_not_occur() -> None:
    logits = np.eye(4)[[0, 0, 1]]
    assert compute_metrics(logits, np.array([0, 0, 1]))["macro_f1"] == 1.0


@pytest.mark.parametrize(("k", "expected"), [(1, 1 / 3), (2, 2 / 3), (3, 1.0), (50, 1.0)])
def test_ties_are_won_by_the_lower_index_and_k_stops_at_the_classes(k: int, expected: float) -> None:
    logits = np.zeros((3, 3))
    assert top_k_accuracy(logits, np.array([0, 1, 2]), k) == pytest.approx(expected)
    metric = TopKAccuracy(k=k)
    result = metric.compute(predictions=logits, references=[0, 1, 2])
    assert result == {f"top{k}_accuracy": pytest.approx(expected)}


def test_a_score_that_is_not_a_number_is_no_hit() -> None:
    logits = np.array([[np.nan, 1.0], [0.0, 1.0]])
    assert top_k_accuracy(logits, np.array([0, 1]), k=2) == 0.5
    assert np.isnan(compute_metrics(logits, np.array([0, 1]))["loss"])


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 3)), np.zeros(3, int), r"found \(2, 3\) and \(3,\)"),
        (np.zeros((0, 3)), np.zeros(0, int), "at least one sample"),
        (np.zeros(3), np.zeros(3, int), "of shape"),
        (np.zeros((2, 3)), np.array([0, 3]), "from 0 to 2.*found labels from 0 to 3"),
        (np.zeros((2, 3)), np.array([-1, 0]), "found labels from -1 to 0"),
    ],
)
def test_what_does_not_fit_is_an_error(logits: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        compute_metrics(logits, labels)


def test_trainer_metrics_leave_the_loss_to_trainer() -> None:
    logits, labels = np.array([[2.0, 1.0], [2.0, 1.0]]), np.array([0, 1])
    expected = {"accuracy": 0.5, "top5_accuracy": 1.0, "macro_f1": pytest.approx(1 / 3)}
    assert trainer_metrics(EvalPrediction(predictions=logits, label_ids=labels)) == expected
    assert trainer_metrics(EvalPrediction(predictions=(logits, "hidden states"), label_ids=labels)) == expected


def test_nothing_is_fetched_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    attempts = []

    def refuse(*args: object) -> None:
        attempts.append(args)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    cache = tmp_path_factory.mktemp("cache") / "metrics"
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(cache))
    with pytest.raises((OSError, FileNotFoundError)):
        evaluate.load("accuracy")  # control: evaluate's own metric connects to the network
    assert attempts
    attempts.clear()
    metrics = [Accuracy(), TopKAccuracy(), MacroF1()]
    evaluate.combine(metrics).compute(predictions=np.eye(3), references=[0, 1, 1])
    assert not attempts
    assert not cache.exists()
    assert all(metric.data_dir == "" for metric in metrics)


def test_a_metric_can_use_evaluates_cache_files_where_memory_is_short(tmp_path) -> None:
    metric = Accuracy(keep_in_memory=False, cache_dir=str(tmp_path))
    metric.add_batch(predictions=[0, 1], references=[0, 0])
    assert metric.compute() == {"accuracy": 0.5}
    assert not list(tmp_path.rglob("*.arrow"))


def test_metrics_as_readers_see_them() -> None:
    shown = {
        problem.name: [(figure.key, figure.title, figure.hub_type, figure.is_percentage) for figure in problem.figures]
        for problem in (SINGLE_LABEL, MULTI_LABEL)
    }
    assert shown == {
        "single_label_classification": [
            ("accuracy", "Accuracy", "accuracy", True),
            ("top5_accuracy", "Top-5 accuracy", "top5_accuracy", True),
            ("macro_f1", "Macro F1", "f1", False),
        ],
        "multi_label_classification": [
            ("mean_average_precision", "Mean average precision", "mAP", True),
            ("micro_f1", "Micro F1", "f1", False),
            ("macro_f1", "Macro F1", "f1", False),
            ("subset_accuracy", "Exact-match accuracy", "accuracy", True),
        ],
    }
    assert [figure.name for figure in (SINGLE_LABEL.primary, MULTI_LABEL.primary)] == [
        "accuracy",
        "mean average precision",
    ]


@pytest.mark.parametrize(("classes", "is_shown"), [(2, False), (9, False), (10, True), (11, True)])
def test_top_5_accuracy_is_shown_from_ten_classes_on(classes: int, is_shown: bool) -> None:
    names = [figure.key for figure in SINGLE_LABEL.figures_for(classes)]
    assert names == ["accuracy", *["top5_accuracy"] * is_shown, "macro_f1"]
    assert MULTI_LABEL.figures_for(classes) == MULTI_LABEL.figures


@pytest.mark.parametrize(
    ("metric", "description", "inputs", "forms"),
    [
        (Accuracy(), "Share of samples whose predicted class is the true class.", "class indices or scores", 2),
        (MacroF1(), "Unweighted mean of the F1 scores of the classes.", "class indices or scores", 2),
        (TopKAccuracy(k=3), "Share of samples whose true class is among the k highest scores.", "class indices or", 1),
        (MeanAveragePrecision(), "Mean of the average precision over the classes.", "a score for each class", 1),
    ],
)
def test_classes_describe_themselves(metric: OfflineMetric, description: str, inputs: str, forms: int) -> None:
    assert metric.info.description.startswith(description)
    assert "scikit-learn.org" in metric.info.citation
    assert metric.inputs_description.startswith(f"predictions: {inputs}")
    assert len(metric.features if isinstance(metric.features, list) else [metric.features]) == forms


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64])
def test_the_loss_is_computed_in_double_precision(dtype: type) -> None:
    """The loss of sure predictions is not rounded to zero, and that of half precision and of integers is exact."""
    logits = np.array([[20, 0], [0, 22], [19, 1]]).astype(dtype)
    expected = np.log1p(np.exp([-20.0, -22.0, -18.0])).mean()
    assert compute_metrics(logits, np.array([0, 1, 0]))["loss"] == pytest.approx(expected, rel=1e-6)
