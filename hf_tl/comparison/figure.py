"""Figure of a comparison: both models by class, their differences with intervals, and their disagreements."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from hf_tl.comparison.findings import SIGNIFICANT
from hf_tl.comparison.report import shown_classes
from hf_tl.evaluation.metrics import SINGLE_LABEL
from hf_tl.reporting.canvas import INK, MUTED, TRAINED, VALIDATION_LINE, WIDTH, new_figure, plain, write

COLORS = {"A": TRAINED, "B": VALIDATION_LINE}
LEVEL = "#8d99a3"
"""Color of a difference that is not significant."""
CLASSES_DRAWN = 30
"""Maximum number of classes to draw; those that differ most are kept."""
SENTENCE = 110


def plot_comparison(record: Mapping[str, Any], path: str | Path) -> None:
    """Plot both models by class, the differences with intervals, and the counts of correct images.

    Args:
        record: Content of `comparison.json`.
        path: PNG file to write.
    """
    overall = next(iter(record["metrics"].values()))
    classes = [row for row in shown_classes(record, CLASSES_DRAWN) if "difference" in row]
    is_single = record["problem_type"] == SINGLE_LABEL.name
    rows = [
        {**overall, "label": "all images" if is_single else "mean", "is_significant": overall["p_value"] < SIGNIFICANT},
        *classes,
    ]
    figure = new_figure(1.9 + 0.27 * max(len(rows), 7), WIDTH * 1.25)
    values, differences, agreement = figure.subplots(1, 3, width_ratios=(1.25, 1.1, 0.8))
    _draw_values(values, rows, record)
    _draw_differences(differences, rows)
    _draw_agreement(agreement, record)
    title = fill(record["conclusion"], SENTENCE)
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=11, parse_math=False)
    write(figure, path)


def _places(rows: Sequence[Any]) -> list[float]:
    """Return the vertical position of each row; the first is slightly separated."""
    return [0.0, *(index + 0.5 for index in range(1, len(rows)))]


def _draw_values(axes: Axes, rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> None:
    places = _places(rows)
    for place, row in zip(places, rows, strict=True):
        axes.plot([100 * row["A"], 100 * row["B"]], [place, place], color="#cfd6dc", linewidth=2.5, zorder=1)
    for letter, size in (("A", 62), ("B", 24)):  # different sizes keep both visible where they coincide
        style: dict[str, Any] = {"s": size, "color": COLORS[letter], "zorder": 3, "clip_on": False}
        label = plain(f"{letter}: {record['models'][letter]['name']}", 30)
        axes.scatter([100 * row[letter] for row in rows], places, label=label, **style)
    names = [plain(row["label"], 20) for row in rows]
    axes.set_yticks(places, names, parse_math=False)
    axes.get_yticklabels()[0].set_fontweight("bold")
    lowest = min(min(row["A"], row["B"]) for row in rows)
    axes.set_xlim(max(0.0, 100 * lowest - 4), 100)
    is_single, cut = record["problem_type"] == SINGLE_LABEL.name, len(record["classes"]) > CLASSES_DRAWN
    title = "Accuracy (%)" if is_single else "Average precision (%)"
    title += f": {CLASSES_DRAWN} of {len(record['classes']):,} classes" if cut else ""
    axes.set_title(title, loc="left", color=INK, fontsize=10)
    legend = axes.legend(
        loc="upper left", bbox_to_anchor=(0, -0.09 * 8 / max(len(rows), 8)), frameon=False, fontsize=9, labelcolor=INK,
        borderaxespad=0.8, handletextpad=0.3,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    _style(axes, places)


def _draw_differences(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    places = _places(rows)
    for place, row in zip(places, rows, strict=True):
        value, (low, high) = row["difference"], row["interval"] or (row["difference"],) * 2
        color = LEVEL if not row["is_significant"] else COLORS["B" if value > 0 else "A"]
        axes.plot([100 * low, 100 * high], [place, place], color=color, linewidth=2.2, solid_capstyle="round", zorder=2)
        axes.scatter([100 * value], [place], s=30, color=color, zorder=3)
    axes.axvline(0, color=INK, linewidth=1)
    reach = 1.06 * max(100 * abs(bound) for row in rows for bound in row["interval"] or (0.0,)) or 1.0
    axes.set_xlim(-reach, reach)
    axes.set_title("B − A (points, 95% CI)", loc="left", color=INK, fontsize=10)
    axes.set_yticks(places, [""] * len(places))
    axes.set_xlabel(
        "← A better    B better →\ngray: not significant; per-class intervals are simultaneous (95%)",
        color=MUTED,
        fontsize=8,
    )
    _style(axes, places)


def _style(axes: Axes, places: Sequence[float]) -> None:
    axes.set_ylim(places[-1] + 0.7, -0.7)
    axes.tick_params(labelsize=8, colors=INK, length=0)
    axes.spines[:].set_visible(False)
    axes.grid(axis="x", color="#e3e8ed", linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_agreement(axes: Axes, record: Mapping[str, Any]) -> None:
    """Draw a 2 x 2 table of the images that both, only A, only B or neither model classifies correctly."""
    counts = record["right"]
    fields = (
        (0, 0, "both", "#dfe7ee", INK), (1, 0, "only_A", COLORS["A"], "white"),
        (0, 1, "only_B", COLORS["B"], "white"), (1, 1, "neither", "#eef1f3", INK),
    )  # fmt: skip
    for column, row, name, color, ink in fields:
        axes.add_patch(Rectangle((column, row), 1, 1, facecolor=color, edgecolor="white", linewidth=2))
        axes.text(column + 0.5, row + 0.5, f"{counts[name]:,}", ha="center", va="center", color=ink, fontsize=12)
    axes.set(xlim=(0, 2), ylim=(2, 0), aspect="equal", anchor="N")
    axes.xaxis.tick_top()
    axes.set_xticks([0.5, 1.5], ["B correct", "B wrong"])
    axes.set_yticks([0.5, 1.5], ["A correct", "A wrong"], rotation=90, va="center")
    axes.tick_params(labelsize=8, colors=INK, length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"{record['data']['images']:,} images", color=MUTED, fontsize=8)
