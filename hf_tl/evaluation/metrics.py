"""Metrics of a classifier as functions of its logits, and the primary metric for model selection.

`ProblemType` holds all differences between single-label and multi-label classification.
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

    Ties are broken by the lower class index, as in `argmax`, so `k=1` is the accuracy. NaN scores rank last.

    Args:
        logits: Scores of shape (samples, classes).
        labels: Class indices of shape (samples,).
        k: Number of classes; limited to the number of columns.

    >>> top_k_accuracy(np.array([[0.1, 0.7, 0.2], [0.5, 0.4, 0.1]]), np.array([2, 2]), k=2)
    0.5
    """
    true = np.take_along_axis(logits, labels[:, None], axis=1)
    is_before = np.arange(logits.shape[1]) < labels[:, None]
    rank = ((logits > true) | ((logits == true) & is_before)).sum(axis=1)
    return float(np.mean((rank < k) & ~np.isnan(true[:, 0])))


def macro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Compute the unweighted mean of the F1 scores of all classes that occur in the predictions or in the labels.

    A class that is predicted but never true scores 0
    (https://scikit-learn.org/stable/modules/generated/sklearn.metrics.f1_score.html).

    Args:
        predictions: Class indices of shape (samples,).
        labels: Class indices of shape (samples,).
    """
    # F1 = 2 hits / (true + predicted); importing scikit-learn would take longer than an epoch on cached features
    classes = 1 + max(labels.max(), predictions.max())
    occurrences = np.bincount(labels, minlength=classes) + np.bincount(predictions, minlength=classes)
    hits = np.bincount(labels[predictions == labels], minlength=classes)
    occurs = occurrences > 0
    return float(np.mean(2 * hits[occurs] / occurrences[occurs]))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Compute the mean cross-entropy in nats, in double precision.

    Args:
        logits: Unnormalized scores of shape (samples, classes).
        labels: Class indices of shape (samples,).
    """
    import torch
    from torch.nn import functional

    scores = torch.from_numpy(np.asarray(logits, dtype=np.float64))
    return functional.cross_entropy(scores, torch.from_numpy(np.asarray(labels, dtype=np.int64))).item()


def compute_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compute all metrics of a single-label classifier.

    Args:
        logits: Unnormalized scores of shape (samples, classes).
        labels: Class indices of shape (samples,).

    Returns:
        `accuracy`, `top5_accuracy` (top k if there are fewer than five classes), `macro_f1` and `loss`.

    Raises:
        DataError: The shapes do not match, there are no samples, or a label is not a class index.

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
    """Metric as shown to readers."""

    key: str
    """Key in the metrics that `ProblemType.compute` returns, and so in a record."""
    name: str
    """Name as used within a sentence."""
    hub_type: str
    """Metric id in the metadata of a card."""
    is_percentage: bool = False

    @property
    def title(self) -> str:
        """Name as used in a column header.

        >>> Figure("macro_f1", "macro F1", "f1").title
        'Macro F1'
        """
        return self.name[0].upper() + self.name[1:]


@dataclass(frozen=True)
class ProblemType:
    """Problem type: the metrics of its models, and the interpretation of their logits."""

    name: str
    """`problem_type` in a model's config, by which transformers selects the loss and the pipeline's scores."""
    compute: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    """Function from logits (samples, classes) and labels to all metrics, including `loss`."""
    figures: tuple[Figure, ...]
    """Metrics except the loss; the first is the primary metric."""
    accuracy: str
    """Key of the share of right images; it is a proportion, so it has a Wilson interval."""

    @property
    def primary(self) -> Figure:
        """Metric for model selection."""
        return self.figures[0]

    def figures_for(self, classes: int) -> tuple[Figure, ...]:
        """Return the metrics that are informative for a number of classes: top-5 accuracy from ten classes on."""
        return tuple(figure for figure in self.figures if figure.key != f"top{TOP_K}_accuracy" or classes >= 2 * TOP_K)

    def quality(self, metrics: dict[str, float]) -> tuple[float, float]:
        """Return a sort key for model selection: the primary metric, then the negative loss; greater is better."""
        return metrics[self.primary.key], -metrics["loss"]

    def is_right(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return whether the class, or all labels, of each image are predicted correctly, (samples,)."""
        is_right = self.decide(logits) == labels
        return np.asarray(is_right.all(axis=1)) if self is MULTI_LABEL else is_right

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Return the predictions: class indices (samples,), or zeros and ones (samples, classes)."""
        return (logits > 0).astype(np.int64) if self is MULTI_LABEL else logits.argmax(axis=1)

    def probabilities(self, logits: "Tensor") -> "Tensor":
        """Convert logits (…, classes) to the probability of each class."""
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
"""Problem type with one class per image."""
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
"""Problem type with any number of classes per image."""
PROBLEM_TYPES = {problem.name: problem for problem in (SINGLE_LABEL, MULTI_LABEL)}


def problem_type_of(model: Any) -> ProblemType:
    """Return the problem type of a model's config (default: single-label).

    Raises:
        ModelError: The model is not a classifier.
    """
    name = getattr(getattr(model, "config", None), "problem_type", None) or SINGLE_LABEL.name
    if name not in PROBLEM_TYPES:
        raise ModelError(f"the model's problem_type is {name!r}; expected one of {', '.join(PROBLEM_TYPES)}")
    return PROBLEM_TYPES[name]


def trainer_metrics(prediction: "EvalPrediction") -> dict[str, float]:
    """Compute the metrics for transformers' `Trainer(compute_metrics=trainer_metrics)`.

    Labels of shape (samples, classes) are those of a multi-label classifier. The loss is omitted because Trainer
    reports it as `eval_loss`.
    """
    outputs = prediction.predictions
    # a model that also returns hidden states outputs a tuple, logits first
    logits = outputs[0] if isinstance(outputs, tuple) else outputs
    problem = MULTI_LABEL if np.ndim(prediction.label_ids) == 2 else SINGLE_LABEL
    metrics = problem.compute(logits, prediction.label_ids)
    del metrics["loss"]
    return metrics
