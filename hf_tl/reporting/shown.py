"""Results as they are shown at a Python prompt and in a notebook: the numbers that matter, in a few lines."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from hf_tl.reporting.html import html_summary
from hf_tl.reporting.plain import one_line
from hf_tl.wording import worded

WIDTH = 110
"""Longest text of a line; the rest is cut."""


class Shown:
    """Base of results: a short `repr`, and a view for notebooks with the picture.

    >>> class Result(Shown):
    ...     def facts(self):
    ...         return [("Accuracy", "98.0%"), ("Saved in", "out")]
    >>> Result()
    Result
      Accuracy  98.0%
      Saved in  out
    """

    def facts(self) -> Iterable[tuple[str, str]]:
        """Return the titles and texts of the lines, at most six."""
        raise NotImplementedError

    def pictures(self) -> Iterable[tuple[str, bytes]]:
        """Return PNG images for notebooks, each with a description."""
        return ()

    def cells(self) -> Sequence[Sequence[str]]:
        """Return the rows of a table for notebooks, the first of them the titles."""
        return ()

    def __repr__(self) -> str:
        facts = self._lines_shown()
        width = max((len(title) for title, _ in facts), default=0)
        lines = [f"  {title:<{width}}  {shortened(text)}" for title, text in facts]
        return "\n".join([type(self).__name__, *lines])

    def _lines_shown(self) -> list[tuple[str, str]]:
        return [(title, worded(one_line(text))) for title, text in self.facts()]

    def _repr_html_(self) -> str:
        """Return the view for a notebook."""
        facts = self._lines_shown()
        return html_summary(type(self).__name__, facts, table=self.cells(), pictures=list(self.pictures()))


def shortened(text: str, width: int = WIDTH) -> str:
    """Cut a text.

    >>> shortened("a long text", 7)
    'a long…'
    """
    return text if len(text) <= width else text[: width - 1] + "…"


def repr_of_changes(value: Any) -> str:
    """Return the `repr` of a dataclass without the fields that have their default.

    >>> @dataclasses.dataclass
    ... class Point:
    ...     x: int
    ...     y: int = 0
    >>> repr_of_changes(Point(3))
    'Point(x=3)'
    """
    fields = dataclasses.fields(value)
    changed = [field.name for field in fields if getattr(value, field.name) != field.default]
    return f"{type(value).__name__}({', '.join(f'{name}={getattr(value, name)!r}' for name in changed)})"
