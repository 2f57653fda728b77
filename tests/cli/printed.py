"""Metrics as the commands print them."""

from collections.abc import Iterable, Mapping

from hf_tl.evaluation.metrics import PROBLEM_TYPES

PERCENTAGES = {figure.key for problem in PROBLEM_TYPES.values() for figure in problem.figures if figure.is_percentage}


def as_printed(metrics: Mapping[str, float | None]) -> dict[str, str]:
    """Return metrics of fewer than ten classes as `hf-tl evaluate` prints them, without top-5 accuracy."""
    shown = {name: value for name, value in metrics.items() if name != "top5_accuracy"}
    return {name: f"{value:.1%}" if name in PERCENTAGES else f"{value:.4f}" for name, value in shown.items()}


def metrics_of(lines: Iterable[str]) -> dict[str, str]:
    """Return the metrics in the lines that `hf-tl evaluate` prints, without their intervals."""
    return {line.split()[0]: line.split()[1] for line in lines}
