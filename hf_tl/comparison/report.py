"""Comparison as text for the terminal and as Markdown, with the same tables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hf_tl.evaluation.metrics import PROBLEM_TYPES, SINGLE_LABEL
from hf_tl.reporting.markdown import escape, one_line
from hf_tl.reporting.numbers import NOTHING, p_value, percent, points, range_of

CLASSES_SHOWN = 30
"""Maximum number of classes to show; those that differ most are kept."""
IMAGES_SHOWN = 5
"""Maximum number of images to show of those that only one model is right on."""
MARK = "*"
CAUTION = (
    "This tells about these two models on other images like these. Trained again with other seeds, they may come out "
    "otherwise."
)

Table = list[list[str]]


def describe(record: Mapping[str, Any]) -> str:
    """Format a comparison for the terminal: numbers and conclusion."""
    return "\n".join(_lines(record))


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{letter:<9} {about}" for letter, about in _models(record))
    yield f"{'Images':<9} {_data(record)}"
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
    for title, images in _parted(record):
        yield title
        yield from (f"  {line}" for line in _listed(images))
    yield f"Conclusion  {record['conclusion']}"
    yield f"            {CAUTION}"


def markdown(record: Mapping[str, Any], figure: str) -> str:
    """Format a comparison as a Markdown page.

    Args:
        record: Content of `comparison.json`.
        figure: File name of the figure.
    """
    parted = "\n".join(
        f"- {title}" + "".join(f"\n  - {escape(line)}" for line in _listed(images)) for title, images in _parted(record)
    )
    parts = [
        "# Comparison of two models",
        f"**{escape(record['conclusion'])}** {CAUTION}",
        "\n".join(f"- {letter}: {escape(about)}" for letter, about in _models(record)),
        f"On {escape(_data(record))}.",
        *(f"Data leakage: {escape(note)}." for note in _leakage(record)),
        f"![What A and B get right, by class, and the difference]({figure})",
        _piped(metric_table(record)),
        _piped(right_table(record)),
        _agreement(record),
        "## By class",
        _piped(class_table(record)),
        " ".join(map(str, map(escape, _class_notes(record)))),
        "## Where they part",
        parted,
        "## How it was measured",
        _methods(record),
    ]
    return "\n\n".join(parts) + "\n"


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
            *(percent(found[one]) + _range(found[f"{one}_interval"]) for one in "AB"),
            *_difference(found),
            p_value(found["p_value"]),
        ]
        for key, found in record["metrics"].items()
    ]
    return [["", "A (95 % interval)", "B (95 % interval)", "B − A, points", "95 % interval", "p"], *rows]


def right_table(record: Mapping[str, Any]) -> Table:
    """Return a table that counts the images that both, one or neither model is right on."""
    counts = {name: f"{count:,}" for name, count in record["right"].items()}
    return [
        ["images", "B right", "B wrong"],
        ["A right", counts["both"], counts["only_A"]],
        ["A wrong", counts["only_B"], counts["neither"]],
    ]


def class_table(record: Mapping[str, Any]) -> Table:
    """Return a table of the classes, those where B is better first; of many, those that differ most."""
    rows = [
        [
            one_line(found["label"]),
            f"{found['images']:,}",
            percent(found.get("A")),
            percent(found.get("B")),
            *_difference(found),
            p_value(found["corrected_p_value"]) + (MARK if found["is_significant"] else ""),
        ]
        for found in shown_classes(record, CLASSES_SHOWN)
    ]
    return [["Class", "images", "A", "B", "B − A, points", "95 % interval", "p"], *rows]


def shown_classes(record: Mapping[str, Any], limit: int) -> list[Mapping[str, Any]]:
    """Return the classes that differ most, sorted by difference: those where B is better first."""
    most = sorted(record["classes"], key=lambda found: -abs(found.get("difference", 0.0)))[:limit]
    return sorted(most, key=lambda found: -found.get("difference", 0.0))


def _difference(found: Mapping[str, Any]) -> list[str]:
    if "difference" not in found:
        return [NOTHING, NOTHING]
    interval = found["interval"]
    return [points(found["difference"]), " to ".join(map(points, interval)) if interval else NOTHING]


def _range(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" ({range_of(interval, is_percentage=True).removesuffix(' %')})"


def _models(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (
            letter,
            f"{one_line(one['name'])}: {one['architecture']}, "
            + (f"strategy {one['strategy']}, " if one["strategy"] else "")
            + f"{one['parameters']:,} parameters, {one['images_per_second']:,.0f} images/s on this machine",
        )
        for letter, one in record["models"].items()
    ]


def _data(record: Mapping[str, Any]) -> str:
    data = record["data"]
    return f"{one_line(data['name'])}, {data['split']}: {data['images']:,} images of {data['classes']:,} classes"


def _agreement(record: Mapping[str, Any]) -> str:
    return f"A and B say the same of {percent(record['agreement'])} of the images."


def _class_notes(record: Mapping[str, Any]) -> list[str]:
    is_single = record["problem_type"] == SINGLE_LABEL.name
    classes, marked = record["classes"], sum(found["is_significant"] for found in record["classes"])
    measured = "the share of a class's images that are right" if is_single else "the average precision of a class"
    notes = [
        f"A and B: {measured}. The intervals hold for all classes at once (Bonferroni); p is corrected too (Holm)."
    ]
    if len(classes) > CLASSES_SHOWN:
        notes.append(f"The {CLASSES_SHOWN} classes that differ most are shown; all are in comparison.json.")
    notes.append(
        f"{MARK} {marked} of the classes {'differs' if marked == 1 else 'differ'} by more than chance."
        if marked
        else "No class by itself differs by more than chance."
    )
    return notes


def _parted(record: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    lists = ((one, record[f"only_{one}"]) for one in "AB")
    return [(f"Only {one} is right on {_counted(len(images))}", images) for one, images in lists]


def _counted(images: int) -> str:
    return f"{images:,} {'image' if images == 1 else 'images'}"


def _listed(images: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"{one_line(one['name'])}: {_confused(one)}" for one in images[:IMAGES_SHOWN]]
    return lines if len(images) <= IMAGES_SHOWN else [*lines, f"and {len(images) - IMAGES_SHOWN:,} more"]


def _confused(image: Mapping[str, Any]) -> str:
    """Format the true classes, and the prediction of the model that is wrong."""
    wrong = "B" if image["A"] == image["true"] else "A"
    true, said = ((" + ".join(map(one_line, image[who])) or "nothing") for who in ("true", wrong))
    return f"{true}; {wrong} says {said}"


def _methods(record: Mapping[str, Any]) -> str:
    shares = (
        "Intervals are of 95 %: Wilson's of a share, and Tango's score interval of the difference of two shares of the "
        "same images. p is that of McNemar's exact test, which counts the images that only one of the two is right on."
    )
    precision = (
        "An image is right where all its classes are. The interval of the mean average precision is the bias-corrected "
        "percentile bootstrap; its difference, and that of each class, have the standard error of a bootstrap that "
        "draws the same images for both, with Student's t. "
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
