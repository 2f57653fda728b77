"""Metrics of a model on corrupted images, and their means over all corruptions."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from hf_tl.evaluation.intervals import Interval
from hf_tl.evaluation.measure import Predictions, image_logits, predict_split
from hf_tl.evaluation.metrics import MULTI_LABEL, ProblemType
from hf_tl.evaluation.report import finite_metrics, metric_intervals, rounded
from hf_tl.evaluation.resampling import (
    bias_corrected_interval,
    draw_average_precisions,
    draw_means,
    mean_of_classes,
    quantile_interval,
)
from hf_tl.evaluation.robustness.corruptions import VARIANTS
from hf_tl.record import CorruptedMetrics, Robustness

if TYPE_CHECKING:
    from accelerate import Accelerator


def predict_corrupted(
    accelerator: "Accelerator", model: nn.Module, images: Any, batch_size: int, num_workers: int = 0, **options: Any
) -> Predictions:
    """Predict images under all corruptions, each image read once.

    Args:
        accelerator: Accelerator that gathers from all processes.
        model: Model on the accelerator's device.
        images: Rows transformed by `corrupted(transform, scaling)`.
        batch_size: Largest number of inputs of the network per step and device, at least those of one image.
        num_workers: Number of processes that decode images.
        options: Other arguments of `predict_split`.

    Returns:
        Logits of shape (images, variants, classes), and labels of the images.
    """

    def logits_of(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        pixels = batch["pixel_values"]
        return image_logits(model, {"pixel_values": pixels.flatten(0, 1)}).unflatten(0, pixels.shape[:2])

    at_once = max(1, batch_size // len(VARIANTS))
    return predict_split(accelerator, model, images, at_once, num_workers, logits_of=logits_of, **options)


def measure_robustness(
    problem: ProblemType, clean: Predictions, corrupted: Predictions, input_size: tuple[int, int]
) -> Robustness:
    """Compute the metrics under each corruption, and their means with 95% confidence intervals.

    Args:
        problem: Problem type.
        clean: Predictions of the images as they are.
        corrupted: Result of `predict_corrupted` for the same images.
        input_size: Height and width of the network's input.
    """
    labels = clean.labels.astype(np.int64)
    logits = [corrupted.logits[:, variant] for variant in range(len(VARIANTS))]
    computed = [problem.compute(scores, corrupted.labels) for scores in logits]
    results = tuple(
        CorruptedMetrics(
            corruption.key,
            float(strength),
            finite_metrics(metrics),
            metric_intervals(problem, metrics, scores, labels, problem.decide(scores)),
        )
        for (corruption, strength), scores, metrics in zip(VARIANTS, logits, computed, strict=True)
    )
    mean = {key: float(np.mean([metrics[key] for metrics in computed])) for key in computed[0]}
    at_once = problem.compute(clean.logits, clean.labels)
    drawn = {problem.accuracy: _draw_accuracies(problem, clean, logits)}
    if problem is MULTI_LABEL:
        drawn[problem.primary.key] = _draw_precisions(clean, logits)
    drop = {key: at_once[key] - mean[key] for key in drawn}
    intervals = {
        key: (interval_of(mean[key], of_mean), interval_of(drop[key], of_clean - of_mean))
        for key, (of_clean, of_mean, interval_of) in drawn.items()
    }
    return Robustness(
        input_size=input_size,
        results=results,
        mean=finite_metrics(mean),
        intervals=_defined({key: pair[0] for key, pair in intervals.items()}),
        drop={key: value for key, value in drop.items() if math.isfinite(value)},
        drop_intervals=_defined({key: pair[1] for key, pair in intervals.items()}),
    )


Draws = tuple[np.ndarray, np.ndarray, Callable[[float, np.ndarray], Interval | None]]
"""Metric on clean images and its mean over corruptions in resamples (draws,), and their rule for intervals."""


def _draw_accuracies(problem: ProblemType, clean: Predictions, logits: list[np.ndarray]) -> Draws:
    """Resample images; of each, whether it is right, and the share of its corrupted copies that are right."""
    labels = clean.labels.astype(np.int64)
    is_right = problem.is_right(clean.logits, labels).astype(np.float64)
    share = np.mean([problem.is_right(scores, labels) for scores in logits], axis=0)
    of_clean, of_mean = draw_means(np.stack([is_right, share]))
    return of_clean, of_mean, lambda value, draws: quantile_interval(draws)


def _draw_precisions(clean: Predictions, logits: list[np.ndarray]) -> Draws:
    draws = mean_of_classes(draw_average_precisions([clean.logits, *logits], clean.labels))
    return draws[0], draws[1:].mean(axis=0), bias_corrected_interval


def _defined(intervals: Mapping[str, Interval | None]) -> dict[str, Interval]:
    shorter = {key: rounded(interval) for key, interval in intervals.items()}
    return {key: interval for key, interval in shorter.items() if interval is not None}
