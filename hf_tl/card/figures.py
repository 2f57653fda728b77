"""The figures of a card: which ones a record has, and the drawing of all of them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_tl.card.examples import Example, plot_examples
from hf_tl.card.plots import HISTORY_FIGURE, STAGES_FIGURE, plot_history, plot_stages
from hf_tl.card.result_plots import CLASSES_DRAWN, plot_confusion, plot_reliability

CONFUSION_FIGURE = "confusion.png"
RELIABILITY_FIGURE = "reliability.png"
MISTAKES_FIGURE = "mistakes.png"
NAMES = ("stages", "history", "confusion", "reliability", "mistakes")
FIGURES = (STAGES_FIGURE, HISTORY_FIGURE, CONFUSION_FIGURE, RELIABILITY_FIGURE, MISTAKES_FIGURE)


def figures_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Name the figures that a card of this record shows, by what they show."""
    test = (record.get("evaluation") or {}).get("splits", {}).get("test", {})
    shown = {
        "stages": (STAGES_FIGURE, True),
        "history": (HISTORY_FIGURE, bool(record["history"])),
        "confusion": (CONFUSION_FIGURE, "confusion" in test and len(record["data"]["labels"]) <= CLASSES_DRAWN),
        "reliability": (RELIABILITY_FIGURE, "calibration" in test),
        "mistakes": (MISTAKES_FIGURE, bool((record.get("card") or {}).get("images") and test.get("mistakes"))),
    }
    return {name: file for name, (file, is_shown) in shown.items() if is_shown}


def draw_figures(record: Mapping[str, Any], folder: str | Path, examples: Sequence[Example] = ()) -> list[Path]:
    """Draw the figures of a record's card; the mistakes where their images are given.

    Args:
        record: what `run.json` holds.
        folder: where the PNG files go.
        examples: the images of the recorded mistakes, in their order.

    Returns:
        The files.
    """
    draw: dict[str, Callable[[Mapping[str, Any], Path], None]] = {
        "stages": plot_stages,
        "history": plot_history,
        "confusion": plot_confusion,
        "reliability": plot_reliability,
    }
    if examples:
        draw["mistakes"] = lambda record, path: plot_examples(record, examples, path)
    files = {name: Path(folder) / file for name, file in figures_of(record).items() if name in draw}
    for name, path in files.items():
        draw[name](record, path)
    return list(files.values())
