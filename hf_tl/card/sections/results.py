"""Rows of a card's tables about a model's results, and their notes."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_tl.evaluation.intervals import share_interval
from hf_tl.evaluation.metrics import MULTI_LABEL, Figure, ProblemType
from hf_tl.record import Measured, RunRecord
from hf_tl.reporting.numbers import NOTHING, counted, decimal, measured_on, percent, range_of, with_interval

CONFUSIONS_SHOWN = 5


def result_columns(figures: Sequence[Figure]) -> list[str]:
    """Return the column titles of the metrics, each with its interval."""
    return [f"{figure.title} (95% CI)" for figure in figures] + ["Loss"]


def result_row(measured: Measured, problem: ProblemType, figures: Sequence[Figure]) -> dict[str, Any]:
    """Return the metrics of a split, with their intervals."""
    metrics, intervals = measured.metrics, measured.intervals
    values = {figure.key: (percent if figure.is_percentage else decimal)(metrics.get(figure.key)) for figure in figures}
    ranges = {f.key: range_of(intervals.get(f.key), is_percentage=f.is_percentage) for f in figures}
    return {
        "split": measured.split,
        "images": counted(measured.images, "image"),
        "count": f"{measured.images:,}",
        "primary": values[problem.primary.key],
        "accuracy": values[problem.accuracy],
        "primary_interval": ranges[problem.primary.key] if problem.primary.key in intervals else None,
        "interval": ranges[problem.accuracy] if problem.accuracy in intervals else None,
        "learned": training_images(measured),
        "cells": [
            *(_with_range(value, ranges[key]) for key, value in values.items()),
            decimal(metrics.get("loss")),
        ],
    }


def _with_range(value: str, interval: str) -> str:
    return value if interval == NOTHING else f"{value} ({interval})"


def training_images(measured: Measured) -> str | None:
    """Return the number of training images among the evaluated images, in words; None without any."""
    if not measured.learned:
        return None
    return f"{measured.learned:,} of the {measured.images:,} {measured.split} images were training images"


def result_notes(record: RunRecord, problem: ProblemType) -> list[str]:
    """Return the notes that qualify the results."""
    notes = []
    for split, measured in record.measured.items():
        if unseen := int(measured.metrics.get("classes_without_positives") or 0):
            labels = counted(unseen, "label")
            notes.append(f"The mean average precision of {split} leaves out {labels} without images.")
        if training := training_images(measured):
            notes.append(f"{training}: not an estimate of generalization.")
        if measured.left_out:
            images = counted(measured.left_out, "image")
            notes.append(f"{images} of the {split} split left out: the weights had been trained on them.")
        if measured.groups is not None:
            images, groups = counted(measured.images, "image"), counted(measured.groups, "group")
            notes.append(f"The {images} of {split} belong to {groups}; a group counts as one image in the intervals.")
        if not record.is_of_saved_weights(split):
            notes.append(_of_other_weights(record, split))
        if measured.plain is not None:
            notes.append(_plain(measured, problem))
    return [*notes, *(f"{title}, before training: {text}." for title, text in zero_shot_results(record, problem))]


def zero_shot_results(record: RunRecord, problem: ProblemType) -> list[tuple[str, str]]:
    """Return the title and the text of the zero-shot result on each split; empty without a head from class names."""
    primary, results = problem.primary, {} if record.text_head is None else record.text_head.zero_shot
    return [
        (
            f"Zero-shot {split} {primary.name}",
            f"{percent(result.metrics.get(primary.key))} ({measured_on(result.images, result.interval)})",
        )
        for split, result in results.items()
    ]


def about_intervals(record: RunRecord, problem: ProblemType) -> str:
    """Describe the confidence intervals; empty without any."""
    if not any(measured.intervals for measured in record.measured.values()):
        return ""
    bootstrap = "mean average precision and F1" if problem is MULTI_LABEL else "F1"
    return (
        f"Confidence intervals: Wilson for shares, bootstrap for {bootstrap} (none without errors). They assume images "
        "of the same distribution."
    )


def refit_text(record: RunRecord, *, is_search: bool) -> str:
    """Describe the training after model selection; empty without it.

    Args:
        record: Record of the run.
        is_search: Whether the stage depth was selected by a search.
    """
    refit = record.refit
    if refit is None:
        return ""
    extent = ", at the selected stage depth and for as many epochs as the search took to reach it" if is_search else ""
    curves = " The learning curves are from the first training." if record.history else ""
    return (
        f"After model selection, the model was retrained from its starting weights{extent}, on "
        f"{' + '.join(refit.splits)}: {counted(refit.images, 'image')}. The published weights are those at the end of "
        f"the retraining.{curves}"
    )


def _of_other_weights(record: RunRecord, split: str) -> str:
    if record.refit is not None and split in record.refit.splits:
        return (
            f"The {split} results are from the first training, which did not use the {split} images; the published "
            "weights were trained on them."
        )
    return f"The {split} results are from earlier weights than the published ones."


def _plain(measured: Measured, problem: ProblemType) -> str:
    """Return a note with both accuracies of a split that a plain pipeline preprocesses differently."""
    assert measured.plain is not None
    kinds = ", ".join(f"{kind}: {count:,}" for kind, count in measured.plain.conversions.items())
    accuracy = next(figure for figure in problem.figures if figure.key == problem.accuracy)
    shares = (metrics.get(accuracy.key) for metrics in (measured.metrics, measured.plain.metrics))
    ours, plain = (
        NOTHING if share is None else with_interval(share, share_interval(share, measured.images)) for share in shares
    )
    return (
        f"{measured.split.capitalize()} {accuracy.name}: {ours} as evaluated by hf_tl, and {plain} by a plain "
        f"pipeline(), which treats some images differently ({kinds})."
    )


def class_results(record: RunRecord, labels: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return one row per class: test images, precision and recall with their intervals, and F1."""
    if not (classes := _test(record).get("classes")):
        return []
    return [
        (
            label,
            [
                f"{classes['images'][place]:,}",
                *(_class_share(classes, name, place) for name in ("precision", "recall")),
                decimal(classes["f1"][place]),
            ],
        )
        for place, label in enumerate(labels)
    ]


def _class_share(classes: Mapping[str, Any], name: str, place: int) -> str:
    intervals = classes.get(f"{name}_interval")  # earlier records have none of the precision
    return with_interval(classes[name][place], intervals and intervals[place], is_titled=True)


def confusions(record: RunRecord) -> list[dict[str, Any]]:
    """Return the most frequent confusions between classes of the test split."""
    labels = record.data.labels
    wrong = [entry for entry in _test(record).get("confusion", ()) if entry[0] != entry[1]]
    often = [entry for entry in wrong if entry[2] > 1] or wrong  # drop single confusions beside repeated ones
    most = sorted(often, key=lambda entry: -entry[2])[:CONFUSIONS_SHOWN]
    return [{"true": labels[true], "predicted": labels[predicted], "images": count} for true, predicted, count in most]


def calibration_of(record: RunRecord, problem: ProblemType) -> dict[str, Any] | None:
    """Return the calibration errors, with temperature scaling where a temperature was fitted; None without any."""
    if not (calibration := _test(record).get("calibration")):
        return None
    temperature, after = record.temperature, calibrated(record)
    return {
        "what": "the probability of each class in each image" if problem is MULTI_LABEL else "the predicted class",
        "before": percent(calibration["before"]["ece"]),
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
    return counted(temperature.images, f"{temperature.split} image")


def _test(record: RunRecord) -> Mapping[str, Any]:
    """Return the results on the test split; empty without any."""
    measured = record.measured.get("test")
    return {} if measured is None else vars(measured)
