"""Comparison as text for the terminal and as Markdown, with the same tables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hf_tl.evaluation.intervals import share_interval
from hf_tl.evaluation.metrics import PROBLEM_TYPES, SINGLE_LABEL
from hf_tl.reporting.markdown import escape
from hf_tl.reporting.numbers import NOTHING, p_value, points, with_interval
from hf_tl.reporting.plain import one_line

CLASSES_SHOWN = 30
"""Maximum number of classes to show; those that differ most are kept."""
IMAGES_SHOWN = 5
"""Maximum number of images to show of those that only one model classifies correctly."""
MARK = "*"
CAUTION = "The test covers these two models on similar images; models trained with other seeds may rank differently."

Table = list[list[str]]


def describe(record: Mapping[str, Any]) -> str:
    """Format a comparison for the terminal: numbers and conclusion."""
    return "\n".join(_lines(record))


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{letter:<9} {about}" for letter, about in _models(record))
    yield f"{'Images':<9} {_data(record)}"
    yield from (f"{'Data':<9} {one_line(note)}" for note in _notes(record))
    yield from (f"{'Leakage':<9} {note}" for note in _leakage(record))
    yield ""
    yield from _aligned(metric_table(record))
    yield ""
    yield from _aligned(right_table(record))
    yield _agreement(record)
    yield ""
    yield from _aligned(class_table(record))
    yield from _class_notes(record)
    yield ""
    for title, images in _disagreements(record):
        yield title
        yield from (f"  {line}" for line in _listed(images))
    yield f"Conclusion  {record['conclusion']}"
    yield f"            {CAUTION}"


def facts_of(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the models with their first metric, the images and the conclusion."""
    result = next(iter(record["metrics"].values()))
    for letter, model in record["models"].items():
        yield letter, f"{model['name']}: {with_interval(result[letter], result[f'{letter}_interval'])}"
    yield "Images", _data(record)
    yield from (("Data", note) for note in [*_notes(record), *_leakage(record)][:2])
    yield "Result", record["conclusion"]


def class_records(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the values of each class by name; classes without images have none."""
    for row in record["classes"]:
        bounds = {name: row.get(name) or (None, None) for name in ("A_interval", "B_interval", "interval")}
        yield {
            "class": row["label"],
            **{name: row.get(name) for name in ("images", "A", "B", "difference")},
            "low": bounds["interval"][0],
            "high": bounds["interval"][1],
            **{f"{letter}_low": bounds[f"{letter}_interval"][0] for letter in "AB"},
            **{f"{letter}_high": bounds[f"{letter}_interval"][1] for letter in "AB"},
            "p_value": row["corrected_p_value"],
            "is_significant": row["is_significant"],
        }


def markdown(record: Mapping[str, Any], figure: str) -> str:
    """Format a comparison as a Markdown page.

    Args:
        record: Content of `comparison.json`.
        figure: File name of the figure.
    """
    disagreements = "\n".join(
        f"- {title}" + "".join(f"\n  - {escape(line)}" for line in _listed(images))
        for title, images in _disagreements(record)
    )
    parts = [
        "# Comparison of two models",
        f"**{escape(record['conclusion'])}** {CAUTION}",
        "\n".join(f"- {letter}: {escape(about)}" for letter, about in _models(record)),
        f"Images: {escape(_data(record))}.",
        *(f"Data: {escape(note)}." for note in _notes(record)),
        *(f"Data leakage: {escape(note)}." for note in _leakage(record)),
        f"![Accuracy of A and B by class, and the difference]({figure})",
        _piped(metric_table(record)),
        _piped(right_table(record)),
        _agreement(record),
        "## By class",
        _piped(class_table(record)),
        " ".join(map(str, map(escape, _class_notes(record)))),
        "## Disagreements",
        disagreements,
        "## Methods",
        _methods(record),
    ]
    return "\n\n".join(parts) + "\n"


def _notes(record: Mapping[str, Any]) -> Sequence[str]:
    """Return the notes on images and classes that were left out."""
    notes: Sequence[str] = record["data"].get("notes", ())
    return notes


def _leakage(record: Mapping[str, Any]) -> Sequence[str]:
    """Return the notes on data leakage for the user."""
    notes: Sequence[str] = record["data"].get("leakage", {}).get("notes", ())
    return notes


def metric_table(record: Mapping[str, Any]) -> Table:
    """Return a table of each metric of both models, with intervals."""
    figures = {figure.key: figure for figure in PROBLEM_TYPES[record["problem_type"]].figures}
    rows = [
        [
            figures[key].title,
            *_shares(result),
            *_difference(result),
            p_value(result["p_value"]),
        ]
        for key, result in record["metrics"].items()
    ]
    return [["", "A (95% CI)", "B (95% CI)", "B − A, points", "95% CI", "p"], *rows]


def right_table(record: Mapping[str, Any]) -> Table:
    """Return a table that counts the images that both, only A, only B or neither model classifies correctly."""
    counts = {name: f"{count:,}" for name, count in record["right"].items()}
    return [
        ["images", "B correct", "B wrong"],
        ["A correct", counts["both"], counts["only_A"]],
        ["A wrong", counts["only_B"], counts["neither"]],
    ]


def class_table(record: Mapping[str, Any]) -> Table:
    """Return a table of the classes, those where B is better first; of many, those that differ most."""
    rows = [
        [
            one_line(row["label"]),
            f"{row['images']:,}",
            *_shares(row),
            *_difference(row),
            p_value(row["corrected_p_value"]) + (MARK if row["is_significant"] else ""),
        ]
        for row in shown_classes(record, CLASSES_SHOWN)
    ]
    return [["Class", "images", "A (95% CI)", "B (95% CI)", "B − A, points", "95% CI", "p"], *rows]


def shown_classes(record: Mapping[str, Any], limit: int) -> list[Mapping[str, Any]]:
    """Return the classes that differ most, sorted by difference: those where B is better first."""
    most = sorted(record["classes"], key=lambda row: -abs(row.get("difference", 0.0)))[:limit]
    return sorted(most, key=lambda row: -row.get("difference", 0.0))


def _difference(row: Mapping[str, Any]) -> list[str]:
    if "difference" not in row:
        return [NOTHING, NOTHING]
    interval = row["interval"]
    return [points(row["difference"]), " to ".join(map(points, interval)) if interval else NOTHING]


def _shares(row: Mapping[str, Any]) -> list[str]:
    """Format the accuracy or the average precision of both models, each with its interval, if any."""
    return [with_interval(row.get(letter), row.get(f"{letter}_interval"), is_titled=True) for letter in "AB"]


def _models(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (letter, f"{one_line(model['name'])}: {', '.join(_about(model))}") for letter, model in record["models"].items()
    ]


def _about(model: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is known of a model; an export may not state all of it."""
    if model["architecture"] is not None:
        yield model["architecture"]
    if model["strategy"]:
        yield f"strategy {model['strategy']}"
    if model["parameters"] is not None:
        yield f"{model['parameters']:,} parameters"
    runtime = f" in {model['runtime']}" if "runtime" in model else ""
    yield f"{model['images_per_second']:,.0f} images/s{runtime} on this machine"


def _data(record: Mapping[str, Any]) -> str:
    data = record["data"]
    return f"{one_line(data['name'])}, {data['split']}: {data['images']:,} images of {data['classes']:,} classes"


def _agreement(record: Mapping[str, Any]) -> str:
    share = record["agreement"]
    agreement = with_interval(share, share_interval(share, record["data"]["images"]))
    return f"A and B make the same prediction for {agreement} of the images."


def _class_notes(record: Mapping[str, Any]) -> list[str]:
    is_single = record["problem_type"] == SINGLE_LABEL.name
    classes, marked = record["classes"], sum(row["is_significant"] for row in record["classes"])
    metric = "accuracy on the images of the class" if is_single else "average precision of the class"
    notes = [
        f"A, B: {metric}. The intervals of the differences are simultaneous (95%, Bonferroni); p-values are corrected "
        "for multiple testing (Holm)."
    ]
    if len(classes) > CLASSES_SHOWN:
        notes.append(f"The {CLASSES_SHOWN} classes that differ most are shown; all are in comparison.json.")
    notes.append(
        f"{MARK} significant difference ({marked} of {len(classes):,} classes)."
        if marked
        else "No class differs significantly."
    )
    return notes


def _disagreements(record: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    lists = ((letter, record[f"only_{letter}"]) for letter in "AB")
    return [(f"Only {letter} is correct on {_counted(len(images))}", images) for letter, images in lists]


def _counted(images: int) -> str:
    return f"{images:,} {'image' if images == 1 else 'images'}"


def _listed(images: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"{one_line(image['name'])}: {_confused(image)}" for image in images[:IMAGES_SHOWN]]
    return lines if len(images) <= IMAGES_SHOWN else [*lines, f"and {len(images) - IMAGES_SHOWN:,} more"]


def _confused(image: Mapping[str, Any]) -> str:
    """Format the true classes, and the prediction of the model that is wrong."""
    wrong = "B" if image["A"] == image["true"] else "A"
    true, predicted = ((" + ".join(map(one_line, image[column])) or "no class") for column in ("true", wrong))
    return f"{true}; {wrong} predicts {predicted}"


def _methods(record: Mapping[str, Any]) -> str:
    shares = (
        "95% confidence intervals: Wilson's for proportions, Tango's score interval for differences of paired "
        "proportions. p-values: McNemar's exact test on the images that only one model classifies correctly."
    )
    precision = (
        "An image counts as correct if all its classes are. Intervals of mean average precision: bias-corrected "
        "percentile bootstrap. Differences of average precision: standard errors from a paired bootstrap, with "
        "Student's t. "
    )
    if record["problem_type"] == SINGLE_LABEL.name:
        return shares
    return precision + shares


def _aligned(table: Table) -> Iterator[str]:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for first, *rest in table:
        cells = [f"{first:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def _piped(table: Table) -> str:
    head, *rows = [[str(escape(cell)) if cell else "" for cell in row] for row in table]
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))
