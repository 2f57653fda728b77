"""Evaluation as text for the terminal, and as a folder: record, page and figures."""

import json
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from hf_tl.card.figures.results import CLASSES_DRAWN, plot_confusion, plot_reliability
from hf_tl.card.figures.robustness import ROBUSTNESS_FIGURE, plot_robustness
from hf_tl.card.sections.robustness import about_corruptions, corruption_rows, mean_text
from hf_tl.errors import ConfigError
from hf_tl.record import RECORD_FILE
from hf_tl.record.codec import encode
from hf_tl.reporting.html import picture_of
from hf_tl.reporting.markdown import escape
from hf_tl.reporting.numbers import decimal, percent, range_of, with_interval
from hf_tl.storage.folders import make_folder, report_folder

if TYPE_CHECKING:
    from hf_tl.predicting.evaluate import Evaluation

SCHEMA_VERSION = 1
RECORD, REPORT, CONFUSION, RELIABILITY = "evaluation.json", "evaluation.md", "confusion.png", "reliability.png"


def describe(evaluation: "Evaluation") -> Iterator[str]:
    """Yield the lines for the terminal: images, notes, and each metric with its 95% confidence interval."""
    learned = f" ({evaluation.learned:,} of them training images)" if evaluation.learned else ""
    yield f"{evaluation.split}: {evaluation.images:,} images{learned}"
    yield from (f"data: {note}" for note in evaluation.data_notes)
    yield from (f"leakage: {note}" for note in evaluation.notes)
    width = max(14, *map(len, evaluation.metrics))
    yield from (f"  {name:<{width}} {text}" for name, text in metric_texts(evaluation))
    yield from (f"  {name:<{width}} left out: {reason}" for name, reason in evaluation.metric_notes.items())
    if evaluation.robustness is not None:
        problem = evaluation.problem
        yield f"{problem.primary.name} under corruptions: {mean_text(evaluation.robustness, problem)}"
        rows = corruption_rows(evaluation.measured, problem, is_short=True)
        width = max(len(title) for title, *_ in rows)
        yield from (f"  {title:<{width}}" + "".join(f"{cell:>9}" for cell in cells) for title, *cells in rows)
    if evaluation.foreign is not None:
        yield "abstention"
        yield from (f"  {name:<14} {text}" for name, text in evaluation.foreign.describe())


def metric_texts(evaluation: "Evaluation") -> Iterator[tuple[str, str]]:
    """Yield the name of each metric, and its value with its 95% confidence interval."""
    for name, value in evaluation.metrics.items():
        is_share, interval = name in evaluation.percentages, evaluation.intervals.get(name)
        shown = f"{value:.1%}" if is_share else f"{value:.4f}"
        range_text = "" if interval is None else f" (95% CI {range_of(interval, is_percentage=is_share)})"
        yield name, f"{shown}{range_text}"


def class_table(evaluation: "Evaluation") -> list[list[str]]:
    """Return a row for each class that has images, after the titles."""
    return [["Class", "Images", "Precision (95% CI)", "Recall (95% CI)", "F1"], *_class_rows(evaluation)]


def class_records(evaluation: "Evaluation") -> Iterator[dict[str, Any]]:
    """Yield the values of each class by name; intervals are two values."""
    classes = evaluation.measured.classes
    for place, label in enumerate(evaluation.labels):
        record: dict[str, Any] = {"class": label}
        for name, values in classes.items():
            value = values[place]
            if name.endswith("_interval"):
                low, high = value if value is not None else (None, None)
                record |= {f"{name.removesuffix('_interval')}_low": low, f"{name.removesuffix('_interval')}_high": high}
            else:
                record[name] = value
        yield record


def confusion_picture(evaluation: "Evaluation") -> bytes | None:
    """Return the confusion matrix as a PNG image; None for multi-label images, or too many classes."""
    if not _has_confusion_figure(evaluation):
        return None
    return picture_of(lambda path: plot_confusion(evaluation.labels, evaluation.measured.confusion, path))


def make_report_folder(output_dir: str | os.PathLike[str]) -> None:
    """Create the folder of an evaluation, if it does not exist.

    Raises:
        ConfigError: The folder cannot be created, or holds a model, whose figures have the names of those of a report.
    """
    if (make_folder(output_dir) / RECORD_FILE).is_file():
        raise ConfigError(
            f"--output_dir {os.fspath(output_dir)} holds a trained model, and the figures of its card have the names "
            "of those of an evaluation; name another folder"
        )


def robustness_picture(evaluation: "Evaluation") -> bytes | None:
    """Return the metric under corruptions as a PNG image; None if it was not measured."""
    if evaluation.robustness is None:
        return None
    return picture_of(lambda path: plot_robustness(evaluation.measured, evaluation.problem, path))


def write_report(evaluation: "Evaluation", output_dir: str | os.PathLike[str]) -> None:
    """Write the record, the page and the figures of an evaluation.

    Raises:
        ConfigError: The folder is not writable, or holds a model.
    """
    make_report_folder(output_dir)
    with report_folder(output_dir, last=RECORD, obsolete=(CONFUSION, ROBUSTNESS_FIGURE)) as folder:
        calibration, temperature = evaluation.measured.calibration, evaluation.temperature
        value = None if temperature is None else temperature.value
        plot_reliability(calibration["before"], calibration["after"], value, folder / RELIABILITY)
        if _has_confusion_figure(evaluation):
            plot_confusion(evaluation.labels, evaluation.measured.confusion, folder / CONFUSION)
        if evaluation.robustness is not None:
            plot_robustness(evaluation.measured, evaluation.problem, folder / ROBUSTNESS_FIGURE)
        (folder / REPORT).write_text(_markdown(evaluation), encoding="utf-8")
        text = json.dumps(_to_record(evaluation), indent=2, allow_nan=False, ensure_ascii=False)
        (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def _has_confusion_figure(evaluation: "Evaluation") -> bool:
    return bool(evaluation.measured.confusion) and len(evaluation.labels) <= CLASSES_DRAWN


def _to_record(evaluation: "Evaluation") -> dict[str, Any]:
    measured = encode(evaluation.measured)
    return {
        "schema_version": SCHEMA_VERSION,
        "data": {"name": evaluation.data, "fingerprint": evaluation.fingerprint, "labels": list(evaluation.labels)},
        "notes": [*evaluation.data_notes, *evaluation.notes],
        "metrics_left_out": dict(evaluation.metric_notes),
        "foreign": None if evaluation.foreign is None else encode(evaluation.foreign),
        "temperature": None if evaluation.temperature is None else encode(evaluation.temperature),
        **{**measured, "metrics": {name: measured["metrics"].get(name) for name in evaluation.metrics}},
    }


def _markdown(evaluation: "Evaluation") -> str:
    """Format an evaluation as a Markdown page."""
    title = f"# Evaluation on {escape(evaluation.data)}"
    images = f"{evaluation.images:,} images of the split {escape(evaluation.split)}."
    if evaluation.split == "all":
        images = f"All {evaluation.images:,} labeled images."
    notes = [*evaluation.data_notes, *evaluation.notes]
    notes += [f"{name} is left out: {reason}" for name, reason in evaluation.metric_notes.items()]
    parts = [title, images, "\n".join(f"- {escape(note)}" for note in notes)]
    parts += [_table(["Metric", "Value", "95% CI"], _metric_rows(evaluation))]
    titles, *rows = class_table(evaluation)
    parts += ["## Classes", _table(titles, rows)]
    if _has_confusion_figure(evaluation):
        parts += ["## Confusion matrix", f"![Confusion matrix]({CONFUSION})"]
    ece = evaluation.measured.calibration["before"]["ece"]
    parts += ["## Calibration", f"Expected calibration error: {percent(ece)}.", f"![Calibration]({RELIABILITY})"]
    parts += _robustness(evaluation)
    if evaluation.foreign is not None:
        rows = [[title, text] for title, text in evaluation.foreign.describe()]
        parts += ["## Abstention", _table(["Value", "Images"], rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _robustness(evaluation: "Evaluation") -> list[str]:
    """Return the parts of the page about corrupted images; none if they were not measured."""
    if (robustness := evaluation.robustness) is None:
        return []
    titles, *rows = corruption_rows(evaluation.measured, evaluation.problem)
    primary = evaluation.problem.primary
    mean = f"{primary.title} under corruptions: {mean_text(robustness, evaluation.problem)}."
    picture = f"![{primary.title} under corruptions]({ROBUSTNESS_FIGURE})"
    return ["## Robustness", mean, _table(titles, rows), about_corruptions(robustness), picture]


def _metric_rows(evaluation: "Evaluation") -> Iterator[list[str]]:
    for name, value in evaluation.metrics.items():
        is_share, interval = name in evaluation.percentages, evaluation.intervals.get(name)
        yield [name, percent(value) if is_share else decimal(value), range_of(interval, is_percentage=is_share)]


def _class_rows(evaluation: "Evaluation") -> Iterator[list[str]]:
    classes = evaluation.measured.classes
    for place, label in enumerate(evaluation.labels):
        if images := classes["images"][place]:
            shares = [
                with_interval(classes[name][place], classes[f"{name}_interval"][place], is_titled=True)
                for name in ("precision", "recall")
            ]
            yield [label, f"{images:,}", *shares, decimal(classes["f1"][place])]


def _table(titles: list[str], rows: Iterable[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *([str(escape(cell)) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
