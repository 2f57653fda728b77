"""What the predictions of a model on some splits say beyond the metrics, as plain values for a run's record."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hf_tl.evaluation.calibration import confidences, fit_temperature, reliability
from hf_tl.evaluation.intervals import Interval, f1_intervals, share_interval, wilson_interval
from hf_tl.evaluation.measure import Predictions
from hf_tl.evaluation.metrics import MULTI_LABEL, ProblemType
from hf_tl.evaluation.resampling import mean_average_precision_interval

MISTAKES = 8
"""How many of the most confident mistakes are named."""
DIGITS = 6


def evaluate_splits(problem: ProblemType, splits: Mapping[str, Predictions]) -> dict[str, Any]:
    """Judge the predictions on some splits.

    Args:
        problem: the kind of labels.
        splits: the predictions by the splits' names; the temperature is fitted on `validation`.

    Returns:
        `temperature` (None where it cannot be told, see `fit_temperature`), and for each split under `splits`:

        - `intervals`: [low, high] of each share, of F1 and of the mean average precision;
        - `classes`: `images`, `precision`, `recall`, `recall_interval` and `f1`, each a list in the order of the
          classes, with None where nothing can be told;
        - `confusion`: [true, predicted, images] of each pair of classes that was seen (one class an image);
        - `calibration`: the `Reliability` `before` and `after` temperature scaling;
        - `mistakes`: the most confident ones, each with its `image` (its place in the split), the class that is `true`
          and not predicted, the one `predicted` that is not there, and the `probability` given to what was predicted.
    """
    validation = splits.get("validation")
    temperature = None if validation is None else fit_temperature(problem, validation.logits, validation.labels)
    judged = {name: _judge(problem, one.logits, one.labels, temperature) for name, one in splits.items()}
    return {"temperature": temperature, "splits": judged}


def _judge(problem: ProblemType, logits: np.ndarray, labels: np.ndarray, temperature: float | None) -> dict[str, Any]:
    is_multi_label = problem is MULTI_LABEL
    predictions = (logits > 0).astype(np.int64) if is_multi_label else logits.argmax(axis=1)
    labels = labels.astype(np.int64)
    metrics = problem.compute(logits, labels)
    intervals: dict[str, Interval | None] = {
        figure.key: share_interval(metrics[figure.key], len(labels))
        for figure in problem.figures
        if figure.key.endswith("accuracy")
    }
    intervals |= {key: interval for key, interval in f1_intervals(predictions, labels).items() if key in metrics}
    if is_multi_label:
        intervals["mean_average_precision"] = mean_average_precision_interval(logits, labels)
    before = reliability(*confidences(problem, logits, labels)).to_record()
    after = None
    if temperature is not None:
        after = reliability(*confidences(problem, logits / temperature, labels)).to_record()
    return {
        "intervals": {key: _rounded(interval) for key, interval in intervals.items() if interval is not None},
        "classes": _classes(predictions, labels, logits.shape[1]),
        **({} if is_multi_label else {"confusion": _confusion(predictions, labels)}),
        "calibration": {"before": before, "after": after},
        "mistakes": (_wrong_decisions if is_multi_label else _wrong_classes)(problem, logits, labels),
    }


def _classes(predictions: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, list[Any]]:
    """Measure each class by itself; what has a zero below the line is None."""
    if labels.ndim == 1:
        one_hot = np.eye(classes, dtype=bool)
        predictions, labels = one_hot[predictions], one_hot[labels]
    hits = (labels.astype(bool) & predictions.astype(bool)).sum(axis=0)
    images, told = labels.sum(axis=0, dtype=int), predictions.sum(axis=0, dtype=int)
    counts = list(zip(hits.tolist(), images.tolist(), told.tolist(), strict=True))
    return {
        "images": images.tolist(),
        "precision": [_share(hit, told) for hit, _, told in counts],
        "recall": [_share(hit, all_of) for hit, all_of, _ in counts],
        "recall_interval": [_rounded(wilson_interval(hit, all_of)) for hit, all_of, _ in counts],
        "f1": [_share(2 * hit, all_of + told) for hit, all_of, told in counts],
    }


def _confusion(predictions: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    pairs, counts = np.unique(np.stack([labels, predictions]), axis=1, return_counts=True)
    return [[*pair, count] for pair, count in zip(pairs.T.tolist(), counts.tolist(), strict=True)]


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
    probabilities, is_there = (one.reshape(labels.shape) for one in confidences(problem, logits, labels))
    is_seen = logits > 0
    certainty = np.where(is_seen == is_there, -1.0, np.maximum(probabilities, 1 - probabilities))
    order = np.argsort(-certainty, axis=None, kind="stable")[: min(MISTAKES, int((is_seen != is_there).sum()))]
    found = []
    for row, index in zip(*np.unravel_index(order, labels.shape), strict=True):
        wrong = (
            {"true": None, "predicted": int(index)} if is_seen[row, index] else {"true": int(index), "predicted": None}
        )
        found.append({"image": int(row), **wrong, "probability": round(float(certainty[row, index]), DIGITS)})
    return found


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, DIGITS) if whole else None


def _rounded(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [round(bound, DIGITS) for bound in interval]
