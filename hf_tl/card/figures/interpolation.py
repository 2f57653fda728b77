"""Figure of the validation results of interpolated weights."""

from pathlib import Path

from hf_tl.evaluation.metrics import ProblemType
from hf_tl.record import InterpolationRecord
from hf_tl.reporting.canvas import FROZEN, INK, MUTED, VALIDATION_LINE, new_figure, write

INTERPOLATION_FIGURE = "interpolation.png"


def plot_interpolation(record: InterpolationRecord, problem: ProblemType, path: str | Path) -> None:
    """Draw the primary metric over the coefficient, with its 95% intervals and the coefficient that is kept.

    Args:
        record: Results by coefficient.
        problem: Problem type, which names the metric.
        path: The PNG to write.
    """
    primary = problem.primary
    known = [
        (point.coefficient, 100 * value, point.interval)
        for point in record.points
        if (value := point.metrics.get(primary.key)) is not None
    ]
    figure = new_figure(3.0)
    axes = figure.subplots()
    for coefficient, _, interval in known:
        if interval is not None:
            bounds = [100 * bound for bound in interval]
            axes.plot([coefficient] * 2, bounds, color=FROZEN, linewidth=6, solid_capstyle="butt")
    coefficients, values = [coefficient for coefficient, *_ in known], [value for _, value, _ in known]
    axes.plot(coefficients, values, color=VALIDATION_LINE, linewidth=1.8, marker="o", markersize=4)
    for coefficient, value, _ in known:
        if coefficient == record.kept:
            axes.plot(coefficient, value, "o", ms=9, mfc="none", mec=INK, mew=1.2, label="kept", clip_on=False)
            axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    axes.set_title(f"Validation {primary.name} (%)", loc="left", color=INK, fontsize=11)
    axes.set_xlabel("coefficient: 0 before fine-tuning, 1 after it", color=MUTED, fontsize=9)
    axes.set_xticks([step / 10 for step in range(11)])
    axes.tick_params(labelsize=9, colors=MUTED)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eceff1", linewidth=0.8)
    axes.set_axisbelow(True)
    write(figure, path)
