"""Shared parts of all figures: color-blind safe colors, a canvas, and safe text.

Figures are drawn on Agg canvases, without pyplot's global state, so that they work in any thread and with any backend.
"""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_tl.reporting.fonts import use_fonts
from hf_tl.reporting.plain import one_line

FROZEN, TRAINED, INK, MUTED = "#a9c4de", "#e8743b", "#22303c", "#6b7780"
TRAIN_LINE, VALIDATION_LINE = "#e8743b", "#2b6ca3"
BEFORE, AFTER = "#e8743b", "#2b6ca3"
DPI = 160
WIDTH = 8.0
"""Width in inches; 1,280 pixels, shown at about 800."""


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure; height and width in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write(figure: Figure, path: str | Path) -> None:
    """Write a PNG; equal figures give equal bytes."""
    use_fonts(figure)
    figure.savefig(path, format="png", metadata={"Software": None})


def plain(text: object, limit: int) -> str:
    """Truncate text to one line of `limit` characters; draw it with `parse_math=False`, so that `$` stays text."""
    line = one_line(text)
    return line if len(line) <= limit else line[: limit - 1] + "…"
