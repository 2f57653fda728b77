"""Evaluation results of a model's predictions, for the run's record."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_tl.evaluation.calibration import MIN_WRONG, confidences, fit_temperature, reliability
from hf_tl.evaluation.intervals import Interval, f1_intervals, share_interval
from hf_tl.evaluation.measure import Predictions
from hf_tl.evaluation.metrics import MULTI_LABEL, ProblemType
from hf_tl.evaluation.resampling import mean_average_precision_interval
from hf_tl.record import Measured, Temperature
from hf_tl.record.codec import RecordError

MISTAKES = 8
"""Number of most confident mistakes to list."""
DIGITS = 6


def fit_scaling(problem: ProblemType, predictions: Predictions, split: str, weights_digest: str) -> Temperature:
    """Fit temperature scaling on images that the weights were not trained on.

    Args:
        problem: Problem type.
        predictions: Predictions for held-out images.
        split: Name of their split.
        weights_digest: Digest of the weights that made the predictions; the temperature is valid for these weights
            only.
    """
    value, wrong = fit_temperature(problem, predictions.logits, predictions.labels)
    images = len(predictions.labels)
    if value is None:
        return Temperature(
            None,
            reason=f"only {wrong} of {images:,} {split} predictions are wrong, and at least {MIN_WRONG} are needed",
        )
    return Temperature(value, weights_digest, split, images)


def measure_split(
    problem: ProblemType,
    predictions: Predictions,
    *,
    split: str,
    weights_digest: str,
    split_digest: str | None = None,
    temperature: Temperature | None = None,
    learned: int = 0,
    left_out: int = 0,
    groups: Sequence[str] | None = None,
) -> Measured:
    """Compute all evaluation results of a split for the record.

    Args:
        problem: Problem type.
        predictions: Logits and labels of the split.
        split: Name of the split.
        weights_digest: Digest of the weights that made the predictions.
        split_digest: Digest of the images.
        temperature: Temperature fitted on the same weights.
        learned: Number of training images of the weights in the split.
        left_out: Number of training images of the weights that were excluded from the split.
        groups: Group of each image. A group counts as one image in the intervals, because its images may all be right
            or all be wrong.

    Returns:
        Results; metrics and intervals that are undefined (average precision without positives) are None or missing.

    Raises:
        RecordError: The temperature was fitted on other weights.
    """
    logits, labels = predictions.logits, predictions.labels.astype(np.int64)
    is_multi_label = problem is MULTI_LABEL
    predicted = (logits > 0).astype(np.int64) if is_multi_label else logits.argmax(axis=1)
    metrics = problem.compute(logits, predictions.labels)
    independent = len(set(groups)) if groups else None
    scale = None if temperature is None else temperature.value
    if temperature is not None and scale is not None and temperature.weights_digest != weights_digest:
        raise RecordError("a temperature that was fitted on other weights cannot calibrate these")
    calibration = {
        "before": reliability(*confidences(problem, logits, labels)).to_record(),
        "after": None if scale is None else reliability(*confidences(problem, logits / scale, labels)).to_record(),
    }
    return Measured(
        split=split,
        split_digest=split_digest,
        images=len(labels),
        weights_digest=weights_digest,
        metrics=finite_metrics(metrics),
        intervals=metric_intervals(problem, metrics, logits, labels, predicted, independent),
        classes=_classes(predicted, labels, logits.shape[1], (independent or len(labels)) / len(labels)),
        confusion=() if is_multi_label else _confusion(predicted, labels),
        calibration=calibration,
        mistakes=tuple((_wrong_decisions if is_multi_label else _wrong_classes)(problem, logits, labels)),
        learned=learned,
        left_out=left_out,
        groups=independent,
    )


def finite_metrics(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return metrics with None in place of values that are undefined."""
    return {key: value if math.isfinite(value) else None for key, value in metrics.items()}


def metric_intervals(
    problem: ProblemType,
    metrics: Mapping[str, float],
    logits: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    independent: int | None = None,
) -> dict[str, Interval]:
    """Compute the 95% intervals of proportions, F1 and mean average precision, where defined.

    Args:
        problem: Problem type.
        metrics: Metrics.
        logits: Logits (images, classes).
        labels: Labels.
        predicted: Predictions, of the shape of the labels.
        independent: Number of independent images, if images belong to groups. The interval of the mean average
            precision treats all images as independent.
    """
    intervals: dict[str, Interval | None] = {
        figure.key: share_interval(metrics[figure.key], independent or len(labels))
        for figure in problem.figures
        if figure.key.endswith("accuracy")
    }
    intervals |= {
        key: interval
        for key, interval in f1_intervals(predicted, labels, independent=independent).items()
        if key in metrics
    }
    if problem is MULTI_LABEL:
        intervals["mean_average_precision"] = mean_average_precision_interval(logits, labels)
    shorter = {key: rounded(interval) for key, interval in intervals.items()}
    return {key: interval for key, interval in shorter.items() if interval is not None}


def _classes(predictions: np.ndarray, labels: np.ndarray, classes: int, share: float = 1.0) -> dict[str, list[Any]]:
    """Compute the metrics of each class; a metric with a zero denominator is None.

    Args:
        predictions: Predictions.
        labels: Labels of the same shape.
        classes: Number of classes.
        share: Number of independent images, as a share of the images.
    """
    if labels.ndim == 1:
        one_hot = np.eye(classes, dtype=bool)
        predictions, labels = one_hot[predictions], one_hot[labels]
    hits = (labels.astype(bool) & predictions.astype(bool)).sum(axis=0)
    images, predicted = labels.sum(axis=0, dtype=int), predictions.sum(axis=0, dtype=int)
    counts = list(zip(hits.tolist(), images.tolist(), predicted.tolist(), strict=True))
    return {
        "images": images.tolist(),
        "precision": [_share(hit, positive) for hit, _, positive in counts],
        "precision_interval": [_share_interval(hit, positive, share) for hit, _, positive in counts],
        "recall": [_share(hit, true) for hit, true, _ in counts],
        "recall_interval": [_share_interval(hit, true, share) for hit, true, _ in counts],
        "f1": [_share(2 * hit, true + positive) for hit, true, positive in counts],
    }


def _share_interval(hits: int, trials: int, share: float) -> Interval | None:
    return rounded(share_interval(hits / trials, max(1, round(share * trials)))) if trials else None


def _confusion(predictions: np.ndarray, labels: np.ndarray) -> tuple[tuple[int, ...], ...]:
    pairs, counts = np.unique(np.stack([labels, predictions]), axis=1, return_counts=True)
    return tuple((*pair, count) for pair, count in zip(pairs.T.tolist(), counts.tolist(), strict=True))


def _wrong_classes(problem: ProblemType, logits: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    probabilities, is_right = confidences(problem, logits, labels)
    order = np.argsort(-np.where(is_right, -1.0, probabilities), kind="stable")[: min(MISTAKES, int((~is_right).sum()))]
    predictions = logits.argmax(axis=1)
    return [
        {
            "image": int(row),
            "true": int(labels[row]),
            "predicted": int(predictions[row]),
            "probability": round(float(probabilities[row]), DIGITS),
        }
        for row in order
    ]


def _wrong_decisions(problem: ProblemType, logits: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    probabilities, is_there = (values.reshape(labels.shape) for values in confidences(problem, logits, labels))
    is_seen = logits > 0
    certainty = np.where(is_seen == is_there, -1.0, np.maximum(probabilities, 1 - probabilities))
    order = np.argsort(-certainty, axis=None, kind="stable")[: min(MISTAKES, int((is_seen != is_there).sum()))]
    mistakes = []
    for row, index in zip(*np.unravel_index(order, labels.shape), strict=True):
        wrong = (
            {"true": None, "predicted": int(index)} if is_seen[row, index] else {"true": int(index), "predicted": None}
        )
        mistakes.append({"image": int(row), **wrong, "probability": round(float(certainty[row, index]), DIGITS)})
    return mistakes


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, DIGITS) if whole else None


def rounded(interval: Interval | None) -> Interval | None:
    """Round the bounds; return None for an undefined interval."""
    if interval is None or not all(map(math.isfinite, interval)):
        return None
    return round(interval[0], DIGITS), round(interval[1], DIGITS)
