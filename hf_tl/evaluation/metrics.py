"""Metrics of a classifier as functions of its logits, and which of them tells how good a model is.

What depends on the kind of labels (one class an image, or any number of them) is told here once, by a `ProblemType`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_tl.errors import DataError, ModelError
from hf_tl.evaluation.multi_label import compute_multi_label_metrics

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import EvalPrediction

TOP_K = 5


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
    # F1 is 2 hits / (true + predicted); importing scikit-learn for it would take longer than an epoch on features
    classes = 1 + max(labels.max(), predictions.max())
    told = np.bincount(labels, minlength=classes) + np.bincount(predictions, minlength=classes)
    hits = np.bincount(labels[predictions == labels], minlength=classes)
    return float(np.mean(2 * hits[told > 0] / told[told > 0]))


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


@dataclass(frozen=True)
class Figure:
    """A metric as readers see it."""

    key: str
    """In what `compute` of a `ProblemType` returns, and so in a record."""
    name: str
    """In the middle of a sentence."""
    hub_type: str
    """The metric's id in the metadata of a card."""
    is_percentage: bool = False

    @property
    def title(self) -> str:
        """The name at the head of a column.

        >>> Figure("macro_f1", "macro F1", "f1").title
        'Macro F1'
        """
        return self.name[0].upper() + self.name[1:]


@dataclass(frozen=True)
class ProblemType:
    """One kind of labels: how a model for it is measured, and what its logits say."""

    name: str
    """`problem_type` in a model's config, by which transformers chooses its loss and its pipeline the scores."""
    compute: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    """From logits (samples, classes) and labels to all metrics, `loss` among them."""
    figures: tuple[Figure, ...]
    """The metrics beside the loss; models are chosen by the first."""
    accuracy: str
    """The key of the share of images that a model gets right: it is a count, so it has an interval."""

    @property
    def primary(self) -> Figure:
        """The metric by which models are chosen."""
        return self.figures[0]

    def figures_for(self, classes: int) -> tuple[Figure, ...]:
        """Return the metrics that are informative for a number of classes: top-5 accuracy from ten classes on."""
        return tuple(figure for figure in self.figures if figure.key != f"top{TOP_K}_accuracy" or classes >= 2 * TOP_K)

    def quality(self, metrics: dict[str, float]) -> tuple[float, float]:
        """Order models by the primary metric, and among equals by the loss: the greater, the better."""
        return metrics[self.primary.key], -metrics["loss"]

    def is_right(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Tell of each image whether its class, or all its labels, are told right (samples,)."""
        is_right = self.decide(logits) == labels
        return np.asarray(is_right.all(axis=1)) if self is MULTI_LABEL else is_right

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Tell what logits say: the class of each image (samples,), or zeros and ones (samples, classes)."""
        return (logits > 0).astype(np.int64) if self is MULTI_LABEL else logits.argmax(axis=1)

    def probabilities(self, logits: "Tensor") -> "Tensor":
        """Turn logits (…, classes) into the probability of each class."""
        return logits.sigmoid() if self is MULTI_LABEL else logits.softmax(-1)


SINGLE_LABEL = ProblemType(
    "single_label_classification",
    compute_metrics,
    (
        Figure("accuracy", "accuracy", "accuracy", is_percentage=True),
        Figure(f"top{TOP_K}_accuracy", f"top-{TOP_K} accuracy", f"top{TOP_K}_accuracy", is_percentage=True),
        Figure("macro_f1", "macro F1", "f1"),
    ),
    accuracy="accuracy",
)
"""Each image shows one class."""
MULTI_LABEL = ProblemType(
    "multi_label_classification",
    compute_multi_label_metrics,
    (
        Figure("mean_average_precision", "mean average precision", "mAP", is_percentage=True),
        Figure("micro_f1", "micro F1", "f1"),
        Figure("macro_f1", "macro F1", "f1"),
        Figure("subset_accuracy", "exact-match accuracy", "accuracy", is_percentage=True),
    ),
    accuracy="subset_accuracy",
)
"""Each image shows any number of classes, or none."""
PROBLEM_TYPES = {problem.name: problem for problem in (SINGLE_LABEL, MULTI_LABEL)}


def problem_type_of(model: Any) -> ProblemType:
    """Tell what labels a model is for, by its config; one class an image where that says nothing.

    Raises:
        ModelError: the model is no classifier.
    """
    name = getattr(getattr(model, "config", None), "problem_type", None) or SINGLE_LABEL.name
    if name not in PROBLEM_TYPES:
        raise ModelError(f"the model's problem_type is {name!r}; expected one of {', '.join(PROBLEM_TYPES)}")
    return PROBLEM_TYPES[name]


def trainer_metrics(prediction: "EvalPrediction") -> dict[str, float]:
    """Compute the metrics for transformers' `Trainer(compute_metrics=trainer_metrics)`.

    Labels of shape (samples, classes) are those of a multi-label classifier. The loss is left out: Trainer reports its
    own as `eval_loss`.
    """
    outputs = prediction.predictions
    # a model that also returns hidden states gives a tuple, the logits first
    logits = outputs[0] if isinstance(outputs, tuple) else outputs
    problem = MULTI_LABEL if np.ndim(prediction.label_ids) == 2 else SINGLE_LABEL
    metrics = problem.compute(logits, prediction.label_ids)
    del metrics["loss"]
    return metrics
