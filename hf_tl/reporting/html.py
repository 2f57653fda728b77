"""Small HTML for notebooks: text, tables and embedded pictures, without scripts, styles of others or the network."""

import base64
import html
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROWS = 10
"""Number of rows of a table that are shown."""


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

    >>> html_summary("A & B", [("Accuracy", "98%")])
    '<div><b>A &amp; B</b><table><tr><td>Accuracy</td><td>98%</td></tr></table></div>'
    """
    parts = [f"<b>{html.escape(title)}</b>"]
    if lines:
        parts.append(f"<table>{''.join(_row(line, 'td') for line in lines)}</table>")
    if table:
        titles, *rows = table
        hidden = 0 if limit is None else max(0, len(rows) - limit)
        shown = [_row(titles, "th"), *(_row(row, "td") for row in rows[: len(rows) - hidden])]
        parts.append(f"<table>{''.join(shown)}</table>")
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


def _row(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(str(cell))}</{tag}>' for cell in cells)}</tr>"


def _picture(description: str, png: bytes) -> str:
    data = base64.b64encode(png).decode("ascii")
    return f'<img alt="{html.escape(description)}" style="max-width:100%" src="data:image/png;base64,{data}">'
