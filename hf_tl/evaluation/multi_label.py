"""Metrics of a multi-label classifier, which decides on each class independently."""

import numpy as np

from hf_tl.errors import DataError


def compute_multi_label_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compute all metrics of a multi-label classifier.

    A class is predicted if its probability is above one half, that is, if its logit is positive.

    Args:
        logits: Unnormalized scores of shape (samples, classes).
        labels: Zeros and ones of shape (samples, classes).

    Returns:
        `mean_average_precision`, `micro_f1` (of all decisions together), `macro_f1` (the mean over the classes that
        occur in the predictions or in the labels), `subset_accuracy` (the share of samples with only right decisions),
        `loss`, and `classes_without_positives`: the number of classes excluded from `mean_average_precision`.

    Raises:
        DataError: The shapes do not match, a label is neither 0 nor 1, or no sample has a label.

    >>> logits = np.array([[4.0, 1.0], [-4.0, 1.0]])
    >>> metrics = compute_multi_label_metrics(logits, np.array([[1, 0], [0, 0]]))
    >>> metrics["mean_average_precision"], metrics["micro_f1"], metrics["classes_without_positives"]
    (1.0, 0.5, 1)
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    _check(logits, labels)
    labels = labels.astype(np.int64)
    predictions = (logits > 0).astype(np.int64)
    # F1 = 2 hits / (positives + predictions); scikit-learn's would treat a single class as a binary problem
    hits, occurrences = (labels & predictions).sum(axis=0), (labels + predictions).sum(axis=0)
    occurs = occurrences > 0
    return {
        "mean_average_precision": mean_average_precision(logits, labels),
        "micro_f1": float(2 * hits.sum() / occurrences.sum()),
        "macro_f1": float(np.mean(2 * hits[occurs] / occurrences[occurs])),
        "subset_accuracy": float(np.mean((predictions == labels).all(axis=1))),
        "loss": binary_cross_entropy(logits, labels),
        "classes_without_positives": int((labels.sum(axis=0) == 0).sum()),
    }


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Compute the mean average precision over classes, which summarizes the precision-recall curve.

    The score of each class is scikit-learn's `average_precision_score`
    (https://scikit-learn.org/stable/modules/generated/sklearn.metrics.average_precision_score.html). A class without a
    positive sample has no score and is excluded. NaN scores rank last.

    Args:
        scores: Scores of shape (samples, classes); only their order within a class matters.
        labels: Zeros and ones of shape (samples, classes).

    Raises:
        DataError: No class has a positive sample.

    >>> mean_average_precision(np.array([[0.9], [0.8], [0.1]]), np.array([[1], [0], [1]])).__round__(4)
    0.8333
    """
    from sklearn.metrics import average_precision_score

    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    is_measured = labels.any(axis=0)
    if not is_measured.any():
        raise DataError("the mean average precision needs at least one sample with a label, found none; label some")
    ranked = np.nan_to_num(scores[:, is_measured], nan=np.finfo(np.float64).min)
    return float(average_precision_score(labels[:, is_measured], ranked, average="macro"))


def binary_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Compute the mean binary cross-entropy over samples and classes in nats, in double precision.

    Args:
        logits: Unnormalized scores of shape (samples, classes).
        labels: Zeros and ones of shape (samples, classes).
    """
    import torch
    from torch.nn import functional

    scores, targets = (torch.from_numpy(np.asarray(array, dtype=np.float64)) for array in (logits, labels))
    return functional.binary_cross_entropy_with_logits(scores, targets).item()


def _check(logits: np.ndarray, labels: np.ndarray) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape or len(labels) == 0:
        raise DataError(
            "multi-label metrics need logits and labels of shape (samples, classes), of at least one sample; "
            f"found {logits.shape} and {labels.shape}: check that the model has the dataset's classes"
        )
    if not np.isin(labels, (0, 1)).all():
        raise DataError(f"a label of a class must be 0 or 1, found {labels[~np.isin(labels, (0, 1))][0]}")
