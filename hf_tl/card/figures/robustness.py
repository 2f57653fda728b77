"""Figure of the results on corrupted images."""

from pathlib import Path

from hf_tl.evaluation.metrics import ProblemType
from hf_tl.evaluation.robustness.corruptions import CORRUPTIONS
from hf_tl.record import Measured
from hf_tl.reporting.canvas import FROZEN, INK, MUTED, VALIDATION_LINE, new_figure, write

ROBUSTNESS_FIGURE = "robustness.png"


def plot_robustness(measured: Measured, problem: ProblemType, path: str | Path) -> None:
    """Draw the primary metric by strength, one panel for each corruption, with 95% intervals.

    Args:
        measured: Results of a split, with its robustness.
        problem: Problem type, which names the metric.
        path: The PNG to write.
    """
    assert measured.robustness is not None, "the robustness was measured"
    primary, results = problem.primary, measured.robustness.results
    figure = new_figure(2.6)
    panels = figure.subplots(1, len(CORRUPTIONS), sharey=True)
    clean = measured.metrics.get(primary.key), measured.intervals.get(primary.key)
    for axes, corruption in zip(panels, CORRUPTIONS, strict=True):
        own = [result for result in results if result.corruption == corruption.key]
        cells = [clean, *((result.metrics.get(primary.key), result.intervals.get(primary.key)) for result in own)]
        known = [
            (place, value, interval or (value, value))
            for place, (value, interval) in enumerate(cells)
            if value is not None
        ]
        for place, _, (low, high) in known:
            axes.plot([place, place], [100 * low, 100 * high], color=FROZEN, linewidth=5, solid_capstyle="butt")
        axes.plot(
            [place for place, *_ in known],
            [100 * value for _, value, _ in known],
            color=VALIDATION_LINE,
            linewidth=1.8,
            marker="o",
            markersize=4,
        )
        axes.set_title(corruption.name, color=INK, fontsize=10)
        axes.set_xticks(range(len(cells)), ["clean", *(f"{result.strength:g}" for result in own)])
        axes.set(xlim=(-0.4, len(cells) - 0.6), ylim=(0, 102))
        axes.tick_params(labelsize=8, colors=MUTED)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#eceff1", linewidth=0.8)
        axes.set_axisbelow(True)
    name = primary.title if primary.is_percentage else primary.name
    panels[0].set_ylabel(f"{name} (%)", color=MUTED, fontsize=9)
    write(figure, path)
