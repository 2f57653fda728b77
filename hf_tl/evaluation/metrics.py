"""Metrics of a single-label classifier, without the network.

`evaluate.load("accuracy")` fetches a script from the Hub; the classes here are the same thing as plain subclasses of
`evaluate.Metric`, so `add_batch`, `compute` and `evaluate.combine` work offline. In a distributed run, gather first
(`accelerator.gather_for_metrics`) and compute on one process: evaluate's own `num_process` counts twice the samples
that accelerate repeats to fill the last batch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import datasets
import evaluate
import numpy as np

from hf_tl.errors import DataError

if TYPE_CHECKING:
    from transformers import EvalPrediction

TOP_K = 5
_CITATION = "https://scikit-learn.org/stable/modules/model_evaluation.html"


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int = TOP_K) -> float:
    """Compute the share of samples whose true class is among the `k` highest scores.

    Of classes with equal scores the one of the lower index comes first, as in `argmax`, so `k=1` is the accuracy. A
    score that is not a number ranks last.

    Args:
        logits: scores of shape (samples, classes).
        labels: class indices of shape (samples,).
        k: limited to the number of classes.

    >>> top_k_accuracy(np.array([[0.1, 0.7, 0.2], [0.5, 0.4, 0.1]]), np.array([2, 2]), k=2)
    0.5
    """
    true = np.take_along_axis(logits, labels[:, None], axis=1)
    is_before = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((logits > true) | ((logits == true) & is_before)).sum(axis=1)
    return float(np.mean((rank < k) & ~np.isnan(true[:, 0])))


def macro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Compute the unweighted mean of the F1 scores of all classes that occur in the predictions or in the labels.

    A class that is predicted but never true scores 0 (https://scikit-learn.org/stable/modules/generated/sklearn.metrics.f1_score.html).

    Args:
        predictions: class indices of shape (samples,).
        labels: class indices of shape (samples,).
    """
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="macro", zero_division=0.0))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Compute the mean cross-entropy in nats, in double precision.

    Args:
        logits: unnormalised scores of shape (samples, classes).
        labels: class indices of shape (samples,).
    """
    import torch
    from torch.nn import functional

    scores = torch.from_numpy(np.asarray(logits, dtype=np.float64))
    return functional.cross_entropy(scores, torch.from_numpy(np.asarray(labels, dtype=np.int64))).item()


def compute_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compute all metrics of a single-label classifier.

    Args:
        logits: unnormalised scores of shape (samples, classes).
        labels: class indices of shape (samples,).

    Returns:
        `accuracy`, `top5_accuracy` (top k where there are fewer than five classes), `macro_f1` and `loss`.

    Raises:
        DataError: the shapes do not fit each other, there is no sample, or a label is not the index of a class.

    >>> compute_metrics(np.array([[4.0, 0.0], [0.0, 4.0]]), np.array([0, 1]))["accuracy"]
    1.0
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise DataError(
            "metrics need logits of shape (samples, classes) and labels of shape (samples,), of at least one sample; "
            f"found {logits.shape} and {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise DataError(
            f"a label must be an index from 0 to {logits.shape[1] - 1}, the last of the model's classes; "
            f"found labels from {labels.min()} to {labels.max()}: check that the model has the dataset's classes"
        )
    return {
        "accuracy": top_k_accuracy(logits, labels, k=1),
        f"top{TOP_K}_accuracy": top_k_accuracy(logits, labels),
        "macro_f1": macro_f1(logits.argmax(axis=1), labels),
        "loss": cross_entropy(logits, labels),
    }


def trainer_metrics(prediction: "EvalPrediction") -> dict[str, float]:
    """Compute the metrics for transformers' `Trainer(compute_metrics=trainer_metrics)`.

    The loss is left out: Trainer reports its own as `eval_loss`.
    """
    outputs = prediction.predictions
    # a model that also returns hidden states gives a tuple, the logits first
    metrics = compute_metrics(outputs[0] if isinstance(outputs, tuple) else outputs, prediction.label_ids)
    del metrics["loss"]
    return metrics


class OfflineMetric(evaluate.Metric):
    """The base of the metrics here: kept in memory, so that nothing is written to a cache folder.

    Predictions are class indices, or scores of shape (samples, classes).
    """

    description = ""
    accepts_indices = True

    def __init__(self, keep_in_memory: bool = True, **kwargs: Any) -> None:
        super().__init__(keep_in_memory=keep_in_memory, **kwargs)

    def _build_data_dir(self) -> str:
        # evaluate makes its cache folder even where it keeps all in memory, and fails where the home is read-only
        return "" if self.keep_in_memory else super()._build_data_dir()

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value("int64")
        scores = datasets.Features(predictions=datasets.List(datasets.Value("float64")), references=label)
        indices = datasets.Features(predictions=label, references=label)
        return evaluate.MetricInfo(
            description=self.description,
            citation=_CITATION,
            inputs_description="predictions: class indices or scores; references: class indices",
            features=[indices, scores] if self.accepts_indices else scores,
        )


class Accuracy(OfflineMetric):
    """The share of samples whose predicted class is the true one.

    >>> Accuracy().compute(predictions=[0, 1, 1], references=[0, 1, 0])["accuracy"].__round__(3)
    0.667
    """

    description = "The share of samples whose predicted class is the true one."

    def _compute(self, predictions: Sequence[Any], references: Sequence[int]) -> dict[str, float]:
        return {"accuracy": float(np.mean(_class_indices(predictions) == np.asarray(references)))}


class MacroF1(OfflineMetric):
    """The unweighted mean of the classes' F1 scores; see `macro_f1`."""

    description = "The unweighted mean of the classes' F1 scores."

    def _compute(self, predictions: Sequence[Any], references: Sequence[int]) -> dict[str, float]:
        return {"macro_f1": macro_f1(_class_indices(predictions), np.asarray(references))}


class TopKAccuracy(OfflineMetric):
    """The share of samples whose true class is among the `k` highest scores; see `top_k_accuracy`.

    >>> TopKAccuracy(k=2).compute(predictions=[[0.1, 0.7, 0.2]], references=[2])
    {'top2_accuracy': 1.0}
    """

    description = "The share of samples whose true class is among the k highest scores."
    accepts_indices = False

    def __init__(self, k: int = TOP_K, **kwargs: Any) -> None:
        self.k = k
        super().__init__(**kwargs)

    def _compute(self, predictions: Sequence[Any], references: Sequence[int]) -> dict[str, float]:
        score = top_k_accuracy(np.asarray(predictions), np.asarray(references), self.k)
        return {f"top{self.k}_accuracy": score}


def _class_indices(predictions: Sequence[Any]) -> np.ndarray:
    array = np.asarray(predictions)
    return array.argmax(axis=1) if array.ndim == 2 else array
