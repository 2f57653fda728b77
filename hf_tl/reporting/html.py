"""Small HTML for notebooks: text, tables and embedded pictures, without scripts, styles of others or the network."""

import base64
import html
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROWS = 10
"""Number of rows of a table that are shown."""
CELL = "padding:1px 12px 1px 0;vertical-align:top;text-align:"
"""Style of a cell: notebooks align all text to the right, and other pages leave no space between columns."""
_NUMBER = re.compile(r"[-+−]?[\d,.]+%?|[–-]?")


def html_summary(
    title: str,
    lines: Sequence[tuple[str, str]] = (),
    *,
    table: Sequence[Sequence[str]] = (),
    pictures: Sequence[tuple[str, bytes]] = (),
    limit: int | None = ROWS,
) -> str:
    """Return a block of HTML in which all texts are escaped.

    Args:
        title: Title.
        lines: Pairs of a name and a text.
        table: Rows of cells, the first of them the titles.
        pictures: PNG images, each with a description for readers who do not see it.
        limit: Number of rows that are shown (default: `ROWS`; None: all).

    >>> html_summary("A & B")
    '<div><b>A &amp; B</b></div>'
    """
    parts = [f"<b>{html.escape(title)}</b>"]
    if lines:
        parts.append(_table([_row(line, "td", ["left", "left"]) for line in lines]))
    if table:
        titles, *rows = table
        hidden = 0 if limit is None else max(0, len(rows) - limit)
        sides = [_side(column) for column in zip(*rows, strict=True)] or ["left"] * len(titles)
        shown = [_row(row, "td", sides) for row in rows[: len(rows) - hidden]]
        parts.append(_table([_row(titles, "th", sides), *shown]))
        if hidden:
            parts.append(f"<div>and {hidden:,} more rows</div>")
    parts += [_picture(*picture) for picture in pictures]
    return f"<div>{''.join(parts)}</div>"


def picture_of(draw: Callable[[Path], object]) -> bytes:
    """Return the PNG image that a function writes to a path."""
    with tempfile.TemporaryDirectory(prefix="hf-tl-") as folder:
        file = Path(folder) / "picture.png"
        draw(file)
        return file.read_bytes()


def _table(rows: Sequence[str]) -> str:
    return f"<table>{''.join(rows)}</table>"


def _side(column: Sequence[str]) -> str:
    """Return the side that a column is aligned to.

    >>> _side(["1,293", "98.2%"]), _side(["cat", "12"])
    ('right', 'left')
    """
    return "right" if all(_NUMBER.fullmatch(str(cell)) for cell in column) else "left"


def _row(cells: Sequence[str], tag: str, sides: Sequence[str]) -> str:
    row = "".join(
        f'<{tag} style="{CELL}{side}">{html.escape(str(cell))}</{tag}>' for cell, side in zip(cells, sides, strict=True)
    )
    return f"<tr>{row}</tr>"


def _picture(description: str, png: bytes) -> str:
    data = base64.b64encode(png).decode("ascii")
    return f'<img alt="{html.escape(description)}" style="max-width:100%" src="data:image/png;base64,{data}">'
