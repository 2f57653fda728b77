"""Figures of a card."""

from collections.abc import Callable, Sequence
from pathlib import Path

from hf_tl.card.figures.interpolation import INTERPOLATION_FIGURE, plot_interpolation
from hf_tl.card.figures.mistakes import Example, plot_examples
from hf_tl.card.figures.results import CLASSES_DRAWN, plot_confusion, plot_reliability
from hf_tl.card.figures.robustness import ROBUSTNESS_FIGURE, plot_robustness
from hf_tl.card.figures.training import HISTORY_FIGURE, STAGES_FIGURE, plot_history, plot_stages
from hf_tl.card.metadata import problem_of
from hf_tl.card.record_errors import record_errors
from hf_tl.card.sections.results import calibrated
from hf_tl.record import RunRecord
from hf_tl.reporting.html import picture_of

CONFUSION_FIGURE = "confusion.png"
RELIABILITY_FIGURE = "reliability.png"
MISTAKES_FIGURE = "mistakes.png"
NAMES = ("stages", "history", "interpolation", "confusion", "reliability", "robustness", "mistakes")
FIGURES = (
    STAGES_FIGURE, HISTORY_FIGURE, INTERPOLATION_FIGURE, CONFUSION_FIGURE, RELIABILITY_FIGURE, ROBUSTNESS_FIGURE,
    MISTAKES_FIGURE,
)  # fmt: skip


def figures_of(record: RunRecord) -> dict[str, str]:
    """Return the file names of the figures on the card of this record, by kind."""
    test = record.measured.get("test")
    can_be_read = len(record.data.labels) <= CLASSES_DRAWN
    shown = {
        "stages": (STAGES_FIGURE, True),
        "history": (HISTORY_FIGURE, bool(record.history)),
        "interpolation": (INTERPOLATION_FIGURE, record.interpolation is not None),
        "confusion": (CONFUSION_FIGURE, test is not None and bool(test.confusion) and can_be_read),
        "reliability": (RELIABILITY_FIGURE, test is not None and bool(test.calibration)),
        "robustness": (ROBUSTNESS_FIGURE, test is not None and test.robustness is not None),
        "mistakes": (MISTAKES_FIGURE, test is not None and record.card.images and bool(test.mistakes)),
    }
    return {name: file for name, (file, is_shown) in shown.items() if is_shown}


def draw_figures(record: RunRecord, folder: str | Path, examples: Sequence[Example] = ()) -> list[Path]:
    """Draw the figures of a record's card.

    Args:
        record: Record of the run.
        folder: Folder of the PNG files.
        examples: Images of the recorded mistakes, in their order; without them no mistakes are drawn.

    Returns:
        Paths of the files.

    Raises:
        PublishError: The record lacks a value that a figure needs.
    """
    draw: dict[str, Callable[[RunRecord, Path], None]] = {
        "stages": plot_stages,
        "history": plot_history,
        "interpolation": _draw_interpolation,
        "confusion": lambda record, path: plot_confusion(record.data.labels, record.measured["test"].confusion, path),
        "reliability": _draw_reliability,
        "robustness": lambda record, path: plot_robustness(record.measured["test"], problem_of(record), path),
    }
    if examples:
        draw["mistakes"] = lambda record, path: plot_examples(record, examples, path)
    files = {name: Path(folder) / file for name, file in figures_of(record).items() if name in draw}
    for name, path in files.items():
        with record_errors(f"{path.name} cannot be drawn"):
            draw[name](record, path)
    return list(files.values())


def confusion_picture(record: RunRecord) -> bytes | None:
    """Return the confusion matrix of the test images as a PNG image; None where the card shows none."""
    if "confusion" not in figures_of(record):
        return None
    return picture_of(lambda path: plot_confusion(record.data.labels, record.measured["test"].confusion, path))


def _draw_interpolation(record: RunRecord, path: Path) -> None:
    assert record.interpolation is not None, "the figure is not shown without it"
    plot_interpolation(record.interpolation, problem_of(record), path)


def _draw_reliability(record: RunRecord, path: Path) -> None:
    after, temperature = calibrated(record), record.temperature
    value = None if temperature is None else temperature.value
    plot_reliability(record.measured["test"].calibration["before"], None if value is None else after, value, path)
