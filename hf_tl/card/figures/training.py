"""Figures of a run: its stages, frozen and trained, and its learning curves."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from hf_tl.errors import PublishError
from hf_tl.evaluation.metrics import PROBLEM_TYPES
from hf_tl.record import RunRecord, StageRecord
from hf_tl.reporting.canvas import FROZEN, INK, MUTED, TRAIN_LINE, TRAINED, VALIDATION_LINE, new_figure, plain, write

STAGES_FIGURE = "stages.png"
HISTORY_FIGURE = "history.png"
PHASE_SHADES = ("#f3f5f7", "#e3e8ed")


def plot_stages(record: RunRecord, path: str | Path) -> None:
    """Draw the stages as a bar in forward order, frozen ones cool and hatched, trained ones warm.

    The width of a stage is its share of the parameters, with a visible minimum.

    Args:
        record: Record of the run.
        path: The PNG to write.
    """
    stages = record.stages
    figure = new_figure(2.3)
    axes = figure.subplots()
    widths = _visible_widths([stage.parameters for stage in stages])
    start = 0.0
    for stage, width in zip(stages, widths, strict=True):
        is_trained = bool(record.trained_in(stage.name))
        axes.add_patch(
            Rectangle(
                (start, 0),
                width,
                1,
                facecolor=TRAINED if is_trained else FROZEN,
                edgecolor="white",
                linewidth=1.2 if len(stages) <= 30 else 0.7,
                hatch=None if is_trained else "////",
            )
        )
        start += width
    _label_stages(axes, stages, widths)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_axis_off()
    model = record.model
    axes.set_title(
        plain(f"{model.architecture}: {model.parameters_trained:,} of {model.parameters:,} parameters trained", 80),
        loc="left",
        color=INK,
        fontsize=11,
        parse_math=False,
        pad=8,
    )
    legend = [
        Patch(facecolor=FROZEN, edgecolor="white", hatch="////", label="frozen"),
        Patch(facecolor=TRAINED, label="trained"),
    ]
    figure.legend(handles=legend, loc="outside lower right", ncols=2, frameon=False, fontsize=9, labelcolor=INK)
    write(figure, path)


def plot_history(record: RunRecord, path: str | Path) -> None:
    """Draw the loss and the metric of model selection by epoch, with the phases shaded and named.

    Args:
        record: Record of the run.
        path: The PNG to write.

    Raises:
        PublishError: The history is empty.
    """
    history = record.history
    if not history:
        raise PublishError("no learning curves: the record's history is empty; train for at least one epoch")
    figure = new_figure(3.4)
    loss, chosen = figure.subplots(1, 2)
    primary = PROBLEM_TYPES[record.model.problem_type].primary
    epochs = [entry["epoch"] for entry in history]
    _line(loss, epochs, [entry["train_loss"] for entry in history], TRAIN_LINE, "training")
    _line(loss, epochs, [entry["validation"].get("loss") for entry in history], VALIDATION_LINE, "validation")
    shares = [entry["validation"].get(primary.key) for entry in history]
    _line(chosen, epochs, [None if s is None else 100 * s for s in shares], VALIDATION_LINE, "validation")
    if (best := record.best) and (share := best["validation"].get(primary.key)) is not None:
        chosen.plot(best["epoch"], 100 * share, "o", ms=9, mfc="none", mec=INK, mew=1.2, label="kept", clip_on=False)
    for axes, title in ((loss, "Loss"), (chosen, f"Validation {primary.name} (%)")):
        _shade_phases(axes, history, record.rungs)
        axes.set_title(title, loc="left", color=INK, fontsize=11)
        axes.set_xlabel("epoch", color=MUTED, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    chosen.yaxis.set_major_formatter(lambda value, _: f"{value:g}" if value <= 100 else "")  # room above 100%
    write(figure, path)


def _visible_widths(parameters: Sequence[int]) -> list[float]:
    """Divide a bar of length 1 among the stages, each with a visible minimum.

    >>> _visible_widths([0, 100])
    [0.2, 0.8]
    """
    least = 0.4 / len(parameters)
    counts = parameters if any(parameters) else [1] * len(parameters)
    return [least + 0.6 * count / sum(counts) for count in counts]


def _label_stages(axes: Axes, stages: Sequence[StageRecord], widths: Sequence[float]) -> None:
    """Write names and parameter counts below the bar, slanted; of many narrow stages only some."""
    spacing, labeled_until, start = 0.033, -1.0, 0.0
    for index, (stage, width) in enumerate(zip(stages, widths, strict=True)):
        middle, is_last = start + width / 2, index == len(stages) - 1
        start += width
        if not is_last and (middle - labeled_until < spacing or 1 - widths[-1] / 2 - middle < spacing):
            continue
        labeled_until = middle
        axes.text(
            middle,
            -0.06,
            plain(f"{stage.name}  {_short(stage.parameters)}", 28),
            rotation=35,
            rotation_mode="anchor",
            ha="right",
            va="top",
            fontsize=8,
            color=INK,
            parse_math=False,
        )


def _short(count: int) -> str:
    """Format a count in about three digits.

    >>> _short(928), _short(12810), _short(3_400_214)
    ('928', '12.8k', '3.4M')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def _line(axes: Axes, epochs: Sequence[float], values: Iterable[float | None], color: str, label: str) -> None:
    points = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
    if points:
        axes.plot(
            *zip(*points, strict=True),
            color=color,
            label=label,
            linewidth=1.8,
            marker="o",
            markersize=3.5,
            clip_on=False,
        )


def _shade_phases(axes: Axes, history: Sequence[Mapping[str, Any]], rungs: Sequence[Mapping[str, Any]]) -> None:
    """Shade the span of each phase, or of each stage depth of a search."""
    ends = {entry["phase"]: entry["epoch"] for entry in history}
    start = 0.0
    for index, (phase, end) in enumerate(ends.items()):
        axes.axvspan(start, end, color=PHASE_SHADES[index % 2], zorder=0, linewidth=0)
        name = f"{'depth' if rungs else 'phase'} {phase + 1}" if len(ends) <= 4 else str(phase + 1)
        axes.text(
            (start + end) / 2,
            1.0,
            name if not rungs or rungs[phase]["is_kept"] else f"{name},\nreverted",
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="top",
            fontsize=8,
            color=MUTED,
        )
        start = end
    bottom, top = axes.get_ylim()
    axes.set(xlim=(0, start), ylim=(bottom, top + 0.1 * (top - bottom)))  # room for the names of the phases
    axes.tick_params(labelsize=9, colors=MUTED)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="white", linewidth=0.8)
    axes.set_axisbelow(True)
