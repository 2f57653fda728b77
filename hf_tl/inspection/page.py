"""The page of an inspection: one HTML file with its pictures inside, which loads nothing from elsewhere."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from hf_tl.inspection.summary import count_copies
from hf_tl.reporting.numbers import percent, with_interval
from hf_tl.reporting.plain import one_line

TEMPLATE = Path(__file__).with_name("page.html")
SHOWN = {"unreadable": 100, "groups": 60, "per_group": 6, "label_errors": 120, "outliers": 24}
"""Largest numbers of files and pictures on the page; `inspection.json` names all."""


def shown_rows(record: Mapping[str, Any], sheet: Mapping[str, Sequence[int]]) -> Iterator[int]:
    """Yield the rows of the images whose pictures are on the page."""
    for rows in sheet.values():
        yield from rows
    for group in record["copies"][: SHOWN["groups"]]:
        yield from (image["row"] for image in group["images"][: SHOWN["per_group"]])
    for name in ("label_errors", "outliers"):
        yield from (image["row"] for image in (record[name] or {"images": []})["images"][: SHOWN[name]])


def render_page(
    record: Mapping[str, Any], sheet: Mapping[str, Sequence[Mapping[str, Any]]], pictures: Mapping[int, str]
) -> str:
    """Render the page.

    Args:
        record: Facts and findings as `inspection.json` has them.
        sheet: Random images of each class.
        pictures: Pictures as data URIs, by row.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=_plain)
    counts = list(record["splits"].values())
    classes = [(name, [split[place] for split in counts]) for place, name in enumerate(record["classes"])]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        record=record,
        sheet=sheet,
        pictures=pictures,
        classes=classes,
        largest=max([1, *(sum(numbers) for _, numbers in classes)]),
        tiles=list(_tiles(record)),
        shown=SHOWN,
        more=_more,
        percent=percent,
        with_interval=with_interval,
    )


def _plain(value: object) -> object:
    """Keep names of files and classes on one line, without control characters and text reordering."""
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) and value else value


def _more(count: int) -> Markup:
    return Markup(f'<p class="muted">{count:,} more: see inspection.json.</p>') if count > 0 else Markup("")


def _tiles(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the numbers at the top of the page, with the sections that they lead to."""
    copies, errors, outliers = record["copies"], record["label_errors"], record["outliers"]
    numbers = [
        ("reading", record["images"], "images", False),
        ("classes", len(record["classes"]), "classes", False),
        ("unreadable", len(record["unreadable"]), "unreadable files", True),
        ("copies", len(copies), "groups of copies", True),
        ("copies", count_copies(copies, "across_splits"), "of them across splits", True),
        ("copies", count_copies(copies, "different_labels"), "with different labels", True),
        ("label_errors", None if errors is None else len(errors["images"]), "suspected label errors", True),
        ("outliers", None if outliers is None else outliers["count"], "outliers", True),
        ("exclusions", record["exclusions"]["images"], "suggested exclusions", False),
    ]
    for section, number, name, is_bad in numbers:
        value = "–" if number is None else f"{number:,}"
        yield {"section": section, "value": value, "name": name, "is_warning": is_bad and bool(number)}
