"""What all pictures of a card share: colours that the colour-blind tell apart too, a canvas, and safe text.

Drawn on Agg canvases of their own, without pyplot's global state, so that any thread and any backend setting will do.
"""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_tl.reporting.markdown import one_line

FROZEN, TRAINED, INK, MUTED = "#a9c4de", "#e8743b", "#22303c", "#6b7780"
TRAIN_LINE, VALIDATION_LINE = "#e8743b", "#2b6ca3"
BEFORE, AFTER = "#e8743b", "#2b6ca3"
DPI = 160
WIDTH = 8.0
"""Inches; 1,280 pixels, shown at about 800."""


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Make an empty figure; height and width in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write(figure: Figure, path: str | Path) -> None:
    """Write a PNG: the same picture, the same bytes."""
    figure.savefig(path, format="png", metadata={"Software": None})


def plain(text: object, limit: int) -> str:
    """Make text of one line and a width that fits; draw it with `parse_math=False`, `$` is no mathematics here."""
    line = one_line(text)
    return line if len(line) <= limit else line[: limit - 1] + "…"
