"""Figures of the results on the test split: the confusion matrix and the reliability diagram."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from hf_tl.card.sections.results import calibrated
from hf_tl.record import RunRecord
from hf_tl.reporting.canvas import AFTER, BEFORE, INK, MUTED, new_figure, plain, write

CLASSES_DRAWN = 50
"""Largest number of classes with a legible confusion matrix; the card lists the most frequent pairs in any case."""
NUMBERS_UNTIL = 20
"""Largest number of classes whose counts fit into the cells."""


def plot_confusion(record: RunRecord, path: str | Path) -> None:
    """Draw the confusion matrix: a row for each true class, colored by the share of the row, with the counts.

    Args:
        record: Record of a single-label model.
        path: The PNG to write.
    """
    labels = record.data.labels
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    for true, predicted, images in record.measured["test"].confusion:
        counts[true, predicted] = images
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    height = min(7.0, max(3.0, 1.0 + 0.36 * len(labels)))
    figure = new_figure(height, height + 1.0)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    if len(labels) <= NUMBERS_UNTIL:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if shares[row, column] > 0.5 else INK
                axes.text(column, row, f"{count}", ha="center", va="center", fontsize=8, color=color)
    _name_classes(axes, labels)
    axes.set_ylabel("true class", color=MUTED, fontsize=9)
    axes.set_xlabel("predicted class", color=MUTED, fontsize=9)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, pad=0.02)
    bar.set_label("share of the true class", color=MUTED, fontsize=9)
    bar.ax.tick_params(labelsize=8, colors=MUTED)
    bar.outline.set_visible(False)
    write(figure, path)


def _name_classes(axes: Axes, labels: Sequence[str]) -> None:
    places, size = range(len(labels)), 8 if len(labels) <= 30 else 6
    names = [plain(label, 18) for label in labels]
    axes.set_xticks(places, names, rotation=45 if max(map(len, names)) > 2 else 0, ha="right", rotation_mode="anchor")
    if max(map(len, names)) <= 2:
        axes.set_xticks(places, names, rotation=0, ha="center")
    axes.set_yticks(places, names)
    axes.tick_params(labelsize=size, colors=INK, length=0)
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_parse_math(False)


def plot_reliability(record: RunRecord, path: str | Path) -> None:
    """Draw the reliability diagram, before and (where a temperature was fitted) after temperature scaling.

    Below each diagram is the share of the cases in each bin.

    Args:
        record: Record of the run.
        path: The PNG to write.
    """
    panels = [("as trained", record.measured["test"].calibration["before"], BEFORE)]
    if record.temperature is not None and (after := calibrated(record)) is not None:
        panels.append((f"with temperature {record.temperature.value:.3g}", after, AFTER))
    figure = new_figure(3.9)
    grid = figure.subplots(2, 2, sharex=True, gridspec_kw={"height_ratios": [3, 1]}, squeeze=False)
    for column, (title, bins, color) in enumerate(panels):
        _draw_panel(grid[0, column], grid[1, column], bins, color)
        grid[0, column].set_title(f"{title}: ECE {100 * bins['ece']:.1f}%", loc="left", color=INK, fontsize=10)
    for unused in grid[:, len(panels) :].ravel():
        unused.set_axis_off()
    write(figure, path)


def _draw_panel(above: Axes, below: Axes, bins: Mapping[str, Any], color: str) -> None:
    width = 1 / len(bins["counts"])
    places = [(index + 0.5) * width for index in range(len(bins["counts"]))]
    shares = [0.0 if share is None else share for share in bins["shares"]]
    above.bar(places, shares, width, color=color, edgecolor="white", linewidth=0.8)
    above.plot([0, 1], [0, 1], color=INK, linewidth=1.2, linestyle="--", label="perfect calibration")
    above.set(xlim=(0, 1), ylim=(0, 1.02))
    above.set_ylabel("observed frequency", color=MUTED, fontsize=9)
    above.legend(frameon=False, fontsize=8, labelcolor=INK, loc="upper left")
    below.bar(places, np.asarray(bins["counts"]) / max(sum(bins["counts"]), 1), width, color=MUTED, edgecolor="white")
    below.set_ylim(0, 1.02)
    below.set_ylabel("share", color=MUTED, fontsize=9)
    below.set_xlabel("predicted probability", color=MUTED, fontsize=9)
    for axes in (above, below):
        axes.tick_params(labelsize=8, colors=MUTED)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
