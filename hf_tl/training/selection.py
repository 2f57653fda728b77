"""Model selection: the latest checkpoint within one standard error of the best validation metric.

On a small validation set, the best of many evaluations is the luckiest one, often of an early epoch. The latest
evaluation within one standard error of the best is statistically as good, and it has trained the longest at a decaying
learning rate (the one-standard-error rule, Breiman et al. 1984; Hastie, Tibshirani and Friedman, The Elements of
Statistical Learning, 2nd edition, section 7.10). For an EfficientNet-Lite0 fine-tuned as a whole on 20 images per class
of Fashion-MNIST and of photos of clothes, the last epoch had a test accuracy 6 to 11 points higher than the best of 20
evaluations on 20 validation images.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from hf_tl.checkpoints.state import TrainingLog, TrainingState
from hf_tl.evaluation.metrics import ProblemType


def judge_evaluation(
    log: TrainingLog, evaluation: dict[str, Any], problem: ProblemType, independent: int
) -> tuple[bool, bool]:
    """Record an evaluation as the best so far, and as the selected one, where it is.

    Args:
        log: Log of the training.
        evaluation: `phase`, `epoch` and the metrics, `validation`.
        problem: Kind of labels, which names the metric.
        independent: Number of independent validation images: a group counts as one.

    Returns:
        Whether the evaluation is the best so far, and whether its weights are selected.
    """
    metrics = evaluation["validation"]
    is_highest = log.highest is None or problem.quality(metrics) > problem.quality(log.highest["validation"])
    if is_highest:
        log.highest = evaluation
    assert log.highest is not None
    highest = log.highest["validation"][problem.primary.key]
    is_kept = is_highest or metrics[problem.primary.key] >= highest - standard_error(highest, independent)
    if is_kept:
        log.best = evaluation
    return is_highest, is_kept


def judge_zero_shot(
    state: TrainingState, zero_shot: Mapping[str, Any], right: np.ndarray, problem: ProblemType
) -> None:
    """Record the model before the first step as an evaluation, and as the stage depth 0 of an escalation.

    Args:
        state: State of the training.
        zero_shot: Results of the model, by split.
        right: Whether it classifies each validation image correctly (images,).
        problem: Kind of labels, which names the metric.
    """
    state.log.zero_shot, state.kept_right = dict(zero_shot), "".join(map(str, right.astype(int)))
    evaluation = {"phase": 0, "epoch": 0.0, "validation": zero_shot["validation"]["metrics"]}
    judge_evaluation(state.log, evaluation, problem, len(right))


def standard_error(share: float, images: int) -> float:
    """Return the standard error of a share of images; a share of 1 counts as all but one of `images + 1`.

    >>> round(standard_error(0.75, 20), 3), standard_error(1.0, 20) > 0
    (0.097, True)
    """
    share = min(share, 1 - 1 / (images + 1))
    return math.sqrt(share * (1 - share) / images)


def count_without_gain(log: TrainingLog, phase: int) -> int:
    """Count the evaluations of a phase since the best one of all, for early stopping."""
    epochs = [entry["epoch"] for entry in log.history if entry["phase"] == phase]
    if log.highest is None or log.highest["phase"] != phase:
        return len(epochs)
    return sum(epoch > log.highest["epoch"] for epoch in epochs)
