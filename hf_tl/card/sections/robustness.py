"""Rows and sentences about a model's results on corrupted images."""

from typing import Any

from markupsafe import Markup

from hf_tl.evaluation.metrics import ProblemType
from hf_tl.evaluation.robustness.corruptions import CORRUPTIONS
from hf_tl.record import Measured, Robustness
from hf_tl.reporting.numbers import percent, points, range_of

SOURCE = "https://arxiv.org/abs/1903.12261"


def mean_text(robustness: Robustness, problem: ProblemType) -> str:
    """Return the mean of the primary metric over all corruptions, and its distance from clean images."""
    key = problem.primary.key
    mean = f"mean {percent(robustness.mean[key])}"
    if interval := robustness.intervals.get(key):
        mean += f" (95% CI {range_of(interval, is_percentage=True)})"
    if (drop := robustness.drop.get(key)) is None:
        return mean
    change = f"{points(-drop)} points against clean images"
    if bounds := robustness.drop_intervals.get(key):
        change += f" (95% CI {points(-bounds[1])} to {points(-bounds[0])})"
    return f"{mean}, {change}"


def corruption_rows(measured: Measured, problem: ProblemType, *, is_short: bool = False) -> list[list[str]]:
    """Return a row for each corruption, after the titles: the primary metric on clean images and at each strength.

    Args:
        measured: Results of a split.
        problem: Problem type, which names the metric.
        is_short: Whether to leave out the values of the strengths, and the intervals.
    """
    if (robustness := measured.robustness) is None:
        return []
    key = problem.primary.key
    rows = [["Corruption", "Clean", "Weak", "Medium", "Strong"]]
    for corruption in CORRUPTIONS:
        own = [result for result in robustness.results if result.corruption == corruption.key]
        cells = [(measured.metrics.get(key), measured.intervals.get(key))]
        cells += [(result.metrics.get(key), result.intervals.get(key)) for result in own]
        title = corruption.name if is_short else corruption.legend
        rows.append([title, *(_cell(value, None if is_short else interval) for value, interval in cells)])
    return rows


def _cell(value: float | None, interval: tuple[float, float] | None) -> str:
    return percent(value) if interval is None else f"{percent(value)} ({range_of(interval, is_percentage=True)})"


def about_corruptions(robustness: Robustness) -> str:
    """Say in Markdown what was corrupted, and how."""
    height, width = robustness.input_size
    return (
        f"Corruptions of [ImageNet-C]({SOURCE}) (severities 1, 3 and 5), applied to the resized and cropped images, as "
        f"the network sees them ({width} × {height} pixels). Intervals: 95%, over images."
    )


def robustness_of(measured: Measured | None, problem: ProblemType) -> dict[str, Any] | None:
    """Return the results under corruptions for a card; None if they were not measured."""
    if measured is None or (robustness := measured.robustness) is None:
        return None
    return {
        "mean": mean_text(robustness, problem),
        "rows": corruption_rows(measured, problem),
        "about": Markup(about_corruptions(robustness)),
    }
