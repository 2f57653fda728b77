"""What a card tells of a model's results, as rows of its tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_tl.evaluation.metrics import MULTI_LABEL, Figure, ProblemType
from hf_tl.reporting.numbers import decimal, percent, range_of

CONFUSIONS_SHOWN = 5


def result_columns(figures: Sequence[Figure]) -> list[str]:
    """Head the columns of metrics; its interval follows each."""
    return [title for figure in figures for title in (figure.title, "95 % interval")] + ["Loss"]


def result_row(record: Mapping[str, Any], split: str, problem: ProblemType, figures: Sequence[Figure]) -> Any:
    """Tell the metrics of a split, with their intervals."""
    metrics, images = record["metrics"][split], record["data"]["splits"][split]["images"]
    intervals = _judged(record, split).get("intervals", {})
    told = {figure.key: (percent if figure.is_percentage else decimal)(metrics.get(figure.key)) for figure in figures}
    ranges = {f.key: range_of(intervals.get(f.key), is_percentage=f.is_percentage) for f in figures}
    return {
        "split": split,
        "images": f"{images:,}",
        "primary": told[problem.primary.key],
        "accuracy": told[problem.accuracy],
        "primary_interval": ranges[problem.primary.key] if problem.primary.key in intervals else None,
        "interval": ranges[problem.accuracy] if problem.accuracy in intervals else None,
        "unmeasured": metrics.get("classes_without_positives", 0),
        "cells": [
            *(text for key, value in told.items() for text in (value, ranges[key])),
            decimal(metrics.get("loss")),
        ],
    }


def class_results(record: Mapping[str, Any], labels: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Tell of each class how many test images show it, precision, recall with its interval, and F1."""
    if not (found := _judged(record, "test").get("classes")):
        return []
    columns = zip(*(found[key] for key in ("images", "precision", "recall", "recall_interval", "f1")), strict=True)
    return [
        (
            label,
            [
                f"{images:,}",
                percent(precision),
                percent(recall),
                range_of(interval, is_percentage=True),
                decimal(f1),
            ],
        )
        for label, (images, precision, recall, interval, f1) in zip(labels, columns, strict=False)
    ]


def confusions(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name the pairs of classes that were taken for each other most often, in the test split."""
    labels = record["data"]["labels"]
    wrong = [entry for entry in _judged(record, "test").get("confusion", []) if entry[0] != entry[1]]
    often = [entry for entry in wrong if entry[2] > 1] or wrong  # what happened once says little beside what did not
    most = sorted(often, key=lambda entry: -entry[2])[:CONFUSIONS_SHOWN]
    return [{"true": labels[true], "predicted": labels[predicted], "images": count} for true, predicted, count in most]


def calibration_of(record: Mapping[str, Any], problem: ProblemType) -> dict[str, Any] | None:
    """Tell how well probabilities fit, before and after temperature scaling; None where it was not measured."""
    if not (found := _judged(record, "test").get("calibration")):
        return None
    temperature = record["evaluation"]["temperature"]
    return {
        "before": percent(found["before"]["ece"]),
        "after": None if found["after"] is None else percent(found["after"]["ece"]),
        "temperature": None if temperature is None else f"{temperature:.3g}",
        "what": "the probability of each class in each image" if problem is MULTI_LABEL else "the predicted class",
    }


def mistakes_of(record: Mapping[str, Any]) -> int:
    """Count the mistakes of the test split that a card may show."""
    return len(_judged(record, "test").get("mistakes", []))


def _judged(record: Mapping[str, Any], split: str) -> Mapping[str, Any]:
    """Give what was found out about a split beyond its metrics; nothing in records of before it was."""
    return (record.get("evaluation") or {}).get("splits", {}).get(split, {})
