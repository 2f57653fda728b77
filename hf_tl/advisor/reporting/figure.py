"""Figure of a recommendation: the data's place among the rules, and the measured accuracies."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from hf_tl.advisor.deciding.rules import RULES
from hf_tl.card.settings import published_name
from hf_tl.reporting.canvas import INK, MUTED, VALIDATION_LINE, WIDTH, new_figure, plain, write

SHADES = {"full": "#efc3a8", "scratch": "#e2d5ea"}
SMALLEST, LARGEST = 1.0, 100_000.0
"""Limits of the axis of images per class."""
NAMED = 14
"""Largest number of stages named on the axis."""
COLORS = (VALIDATION_LINE, "#7a5195", "#3b8f5a", "#a8872d", "#8c564b")


def plot_recommendation(record: Mapping[str, Any], path: str | Path) -> None:
    """Draw what decided, the accuracies by depth, and the learning curves, if any.

    Trials decide by their accuracies and training times, rules by the place of the data in their regions.

    Args:
        record: Result of `Recommendation.to_record`.
        path: The PNG to write.
    """
    curves = [(color, name, curve) for color, name, curve in _curves(record) if curve is not None]
    figure = new_figure(4.2, WIDTH * (1.75 if curves else 1.25))
    plane, accuracies, *rest = figure.subplots(1, 3 if curves else 2, width_ratios=(1.15, 1, 0.9)[: 3 if curves else 2])
    trials = record.get("trials", {}).get("results", [])
    if trials:
        _draw_trials(plane, trials, record["advice"])
    else:
        _draw_plane(plane, record)
    _draw_accuracies(accuracies, record)
    for axes in rest:
        _draw_curves(axes, curves, 2 * record["data"]["training_images"])
    figure.suptitle(
        plain(f"{record['data']['name']}: {record['advice']}", 90),
        x=0.01, ha="left", color=INK, fontsize=12, parse_math=False,
    )  # fmt: skip
    write(figure, path)


def _draw_plane(axes: Axes, record: Mapping[str, Any]) -> None:
    for rule in RULES:
        fewest, most = (min(max(x, SMALLEST), LARGEST) for x in rule.images)
        bottom, top = (min(max(y, 0.0), 1.0) for y in rule.similarity)
        axes.add_patch(
            Rectangle(
                (fewest, bottom),
                most - fewest,
                top - bottom,
                facecolor=SHADES[rule.strategy],
                edgecolor="white",
                lw=1.5,
            )
        )
        advice = rule.advice.replace(" ", "\n", 1) if top - bottom > 0.15 else rule.advice
        middle = ((fewest * most) ** 0.5, (bottom + top) / 2)
        axes.text(*middle, advice, ha="center", va="center", fontsize=8, color=MUTED)
    for number, backbone in enumerate(record["evidence"]):
        similarity = backbone["similarity"]
        low, high = similarity["interval"]
        is_chosen = backbone["backbone"] == record["backbone"]
        size = min(max(record["data"]["median_class"], SMALLEST), LARGEST)
        value = similarity["value"]
        errors = [[max(0.0, value - low)], [max(0.0, high - value)]]
        edge = INK if is_chosen else "none"
        style: dict[str, Any] = {"color": COLORS[number % len(COLORS)], "mec": edge, "mew": 1.6}
        axes.errorbar(size, value, yerr=errors, fmt="o", ms=9, capsize=3, clip_on=False, zorder=3, **style)
    axes.set(xscale="log", xlim=(SMALLEST, LARGEST), ylim=(0, 1))
    axes.set_xlabel("training images per class (median)", color=MUTED, fontsize=9)
    axes.set_ylabel("similarity to the pretraining data", color=MUTED, fontsize=9)
    axes.tick_params(labelsize=9, colors=MUTED)
    axes.spines[:].set_visible(False)


def _draw_trials(axes: Axes, trials: Sequence[Mapping[str, Any]], advice: str) -> None:
    """Draw the accuracy of each trial by the time that a training takes; short trials are pale."""
    for number, trial in enumerate(sorted(trials, key=lambda trial: -trial["accuracy"])):
        short = "" if trial["is_finalist"] else " (not in full)"
        label = trial["advice"] + (", chosen" if trial["advice"] == advice else short)
        style: dict[str, Any] = {"color": COLORS[number % len(COLORS)], "alpha": 1 if trial["is_finalist"] else 0.5}
        _draw_shares(
            axes, [trial["seconds"]], [trial["accuracy"]], [trial["interval"]], linestyle="none", label=label, **style
        )
    axes.set(xscale="log")
    axes.margins(x=0.3)
    axes.set_ylim(0, 103)
    axes.set_xlabel("seconds of a training on this machine", color=MUTED, fontsize=9)
    _style(axes, "Accuracy on held-out images of the trials (%, 95% CI)", legend="lower right")


def _draw_accuracies(axes: Axes, record: Mapping[str, Any]) -> None:
    is_alone = len(record["evidence"]) == 1
    for number, backbone in enumerate(record["evidence"]):
        color, depths = COLORS[number % len(COLORS)], backbone["depths"]
        places = [index / max(1, len(depths) - 1) for index in range(len(depths))]
        for key, style in (("linear_probe", "-"), ("nearest_neighbors", ":")):
            name = key.replace("_", " ")
            label = plain(name if is_alone else f"{published_name(backbone['backbone'])}, {name}", 40)
            shares, intervals = ([depth[key][field] for depth in depths] for field in ("accuracy", "interval"))
            _draw_shares(axes, places, shares, intervals, color=color, linestyle=style, label=label)
        untrained = backbone["similarity"]["untrained"]
        height = 100 * untrained["accuracy"]
        axes.axhline(height, color=color, lw=1, linestyle="--", alpha=0.6)
        axes.text(0, height, f"random weights, {untrained['images']:,} images", fontsize=7, color=color, va="bottom")
    if is_alone:
        every = math.ceil(len(depths) / NAMED)  # the last stage is always named
        shown = list(range(len(depths)))[::-every]
        names = [plain(depths[index]["stage"], 16) for index in shown]
        ticks = [places[index] for index in shown]
        axes.set_xticks(ticks, names, rotation=35, ha="right", rotation_mode="anchor", parse_math=False)
    else:
        axes.set_xticks([0, 1], ["first stage", "last stage"])
    axes.set_ylim(0, 103)
    _style(axes, "Cross-validated accuracy (%, 95% CI)", legend="lower right")


def _curves(record: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any] | None]]:
    for number, backbone in enumerate(record["evidence"]):
        yield COLORS[number % len(COLORS)], published_name(backbone["backbone"]), backbone["learning_curve"]


def _draw_curves(axes: Axes, curves: Sequence[tuple[str, str, Mapping[str, Any]]], images: int) -> None:
    """Draw the errors by the number of training images, and their power law up to some number of images."""
    for color, name, curve in curves:
        sizes = np.geomspace(curve["sizes"][0], max(curve["sizes"][-1], images))
        points = (curve[field] for field in ("sizes", "errors", "intervals"))
        _draw_shares(axes, *points, color=color, linestyle="none", label=plain(name, 40))
        law = curve["floor"] + curve["scale"] * sizes ** -curve["rate"]
        axes.plot(sizes, 100 * law.clip(max=1), color=color, lw=1.2, linestyle="--")
    axes.set(xscale="log")
    ticks = [*curves[0][2]["sizes"], images]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"training images; dashed: extrapolated to {images:,}", color=MUTED, fontsize=9)
    _style(axes, "Error of the last linear probe (%, 95% CI)", legend=None if len(curves) == 1 else "upper right")


def _style(axes: Axes, title: str, *, legend: str | None) -> None:
    axes.set_title(title, loc="left", color=INK, fontsize=10)
    axes.tick_params(labelsize=8, colors=MUTED)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e3e8ed", linewidth=0.8)
    axes.set_axisbelow(True)
    if legend is not None:
        for text in axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc=legend).get_texts():
            text.set_parse_math(False)


def _draw_shares(
    axes: Axes, places: Sequence[float], shares: Sequence[float], intervals: Sequence[Sequence[float]], **style: Any
) -> None:
    """Draw shares in percent, with their confidence intervals."""
    values = [100 * share for share in shares]
    ends = [[100 * end for end in interval] for interval in intervals]
    errors = [
        [max(0.0, value - low) for value, (low, _) in zip(values, ends, strict=True)],
        [max(0.0, high - value) for value, (_, high) in zip(values, ends, strict=True)],
    ]
    axes.errorbar(places, values, yerr=errors, marker="o", ms=4, capsize=2, lw=1.5, **style)
