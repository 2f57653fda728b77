"""Rows of a card's tables about a model's results, and their notes."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_tl.evaluation.metrics import MULTI_LABEL, Figure, ProblemType
from hf_tl.record import Measured, RunRecord
from hf_tl.reporting.numbers import NOTHING, decimal, percent, range_of

CONFUSIONS_SHOWN = 5


def result_columns(figures: Sequence[Figure]) -> list[str]:
    """Return the column titles of the metrics, each followed by its interval."""
    return [title for figure in figures for title in (figure.title, "95% CI")] + ["Loss"]


def result_row(measured: Measured, problem: ProblemType, figures: Sequence[Figure]) -> dict[str, Any]:
    """Return the metrics of a split, with their intervals."""
    metrics, intervals = measured.metrics, measured.intervals
    values = {figure.key: (percent if figure.is_percentage else decimal)(metrics.get(figure.key)) for figure in figures}
    ranges = {f.key: range_of(intervals.get(f.key), is_percentage=f.is_percentage) for f in figures}
    return {
        "split": measured.split,
        "images": f"{measured.images:,}",
        "primary": values[problem.primary.key],
        "accuracy": values[problem.accuracy],
        "primary_interval": ranges[problem.primary.key] if problem.primary.key in intervals else None,
        "interval": ranges[problem.accuracy] if problem.accuracy in intervals else None,
        "learned": training_images(measured),
        "unmeasured": int(metrics.get("classes_without_positives") or 0),
        "cells": [
            *(text for key, value in values.items() for text in (value, ranges[key])),
            decimal(metrics.get("loss")),
        ],
    }


def training_images(measured: Measured) -> str | None:
    """Return the number of training images among the evaluated images, in words; None without any."""
    if not measured.learned:
        return None
    return f"{measured.learned:,} of the {measured.images:,} {measured.split} images were training images"


def result_notes(record: RunRecord, problem: ProblemType) -> list[str]:
    """Return the notes that qualify the results."""
    notes = []
    for split, measured in record.measured.items():
        if training := training_images(measured):
            notes.append(f"{training}: not an estimate of generalization.")
        if measured.left_out:
            images = f"{measured.left_out:,} {'image' if measured.left_out == 1 else 'images'}"
            notes.append(f"{images} of the {split} split left out: the weights had learned from them.")
        if not record.is_of_saved_weights(split):
            notes.append(_of_other_weights(record, split))
        if measured.plain is not None:
            notes.append(_plain(measured, problem))
    return notes


def _of_other_weights(record: RunRecord, split: str) -> str:
    if record.refit is not None and split in record.refit.splits:
        return (
            f"The {split} results are from the first training, which did not use the {split} images; the published "
            "weights learned from them."
        )
    return f"The {split} results are from earlier weights than the published ones."


def _plain(measured: Measured, problem: ProblemType) -> str:
    """Return a note with both accuracies of a split that a plain pipeline preprocesses differently."""
    assert measured.plain is not None
    kinds = ", ".join(f"{kind}: {count:,}" for kind, count in measured.plain.conversions.items())
    accuracy = next(figure for figure in problem.figures if figure.key == problem.accuracy)
    ours, plain = (percent(metrics.get(accuracy.key)) for metrics in (measured.metrics, measured.plain.metrics))
    return (
        f"{measured.split.capitalize()} {accuracy.name}: {ours} as evaluated by hf_tl, and {plain} by a plain "
        f"pipeline(), which treats some images differently ({kinds})."
    )


def class_results(record: RunRecord, labels: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return one row per class: test images, precision, recall with its interval, and F1."""
    if not (found := _test(record).get("classes")):
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


def confusions(record: RunRecord) -> list[dict[str, Any]]:
    """Return the most frequent confusions between classes of the test split."""
    labels = record.data.labels
    wrong = [entry for entry in _test(record).get("confusion", ()) if entry[0] != entry[1]]
    often = [entry for entry in wrong if entry[2] > 1] or wrong  # drop single confusions beside repeated ones
    most = sorted(often, key=lambda entry: -entry[2])[:CONFUSIONS_SHOWN]
    return [{"true": labels[true], "predicted": labels[predicted], "images": count} for true, predicted, count in most]


def calibration_of(record: RunRecord, problem: ProblemType) -> dict[str, Any] | None:
    """Return the calibration errors, with temperature scaling where a temperature was fitted; None without any."""
    if not (found := _test(record).get("calibration")):
        return None
    temperature, after = record.temperature, calibrated(record)
    return {
        "what": "the probability of each class in each image" if problem is MULTI_LABEL else "the predicted class",
        "before": percent(found["before"]["ece"]),
        "after": None if after is None else percent(after["ece"]),
        "temperature": NOTHING if temperature is None or temperature.value is None else f"{temperature.value:.3g}",
        "fitted_on": _fitted_on(record),
        "reason": (temperature and temperature.reason) or "no temperature was fitted",
    }


def calibrated(record: RunRecord) -> Mapping[str, Any] | None:
    """Return the calibration of the test split after temperature scaling; None without a fitted temperature."""
    if record.temperature is None or record.temperature.value is None:
        return None
    after: Mapping[str, Any] | None = _test(record).get("calibration", {}).get("after")
    return after


def _fitted_on(record: RunRecord) -> str:
    temperature = record.temperature
    if temperature is None or temperature.split is None:
        return "held-out images"
    return f"{temperature.images:,} {temperature.split} images"


def _test(record: RunRecord) -> Mapping[str, Any]:
    """Return the results on the test split; empty without any."""
    measured = record.measured.get("test")
    return {} if measured is None else vars(measured)
