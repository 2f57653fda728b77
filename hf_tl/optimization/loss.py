"""The loss of a step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from hf_tl.errors import ConfigError
from hf_tl.evaluation.metrics import MULTI_LABEL, SINGLE_LABEL, ProblemType

if TYPE_CHECKING:
    from hf_tl.strategy import Phase


def training_loss(
    logits: Tensor,
    labels: Tensor,
    phase: "Phase",
    weights: Tensor | None = None,
    problem: ProblemType = SINGLE_LABEL,
) -> Tensor:
    """Compute the cross-entropy of a batch, the binary one for a multi-label problem.

    It is computed in float32 whatever the precision of the network.
    The models' own loss is not used: TimmWrapper turns soft labels into a binary loss without a word.

    Args:
        logits: (batch, classes).
        labels: class indices (batch,), or probabilities (batch, classes) of mixed images; for a multi-label problem
            the probability of each class (batch, classes).
        phase: its label smoothing: towards an equal probability of all classes, which is one half in each of the
            decisions of a multi-label problem.
        weights: of the classes (classes,), from `balanced_weights`. The loss is divided by the number of images, not by
            the weights in the batch, so that it does not depend on how images fall into batches.
        problem: the kind of labels.
    """
    if problem is MULTI_LABEL:
        targets = labels.float() * (1 - phase.label_smoothing) + phase.label_smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits.float(), targets, pos_weight=weights)
    if weights is not None and labels.ndim == 1:
        # with probabilities, torch divides by the number of images
        labels = functional.one_hot(labels, logits.shape[1]).to(torch.float32)
    return functional.cross_entropy(logits.float(), labels, weights, label_smoothing=phase.label_smoothing)


def check_phases(phases: "Sequence[Phase]", problem: ProblemType) -> None:
    """Refuse what a problem does not allow.

    Raises:
        ConfigError: multi-label images cannot be drawn so that every class comes equally often, and their head is not
            solved.
    """
    if problem is MULTI_LABEL and any(phase.is_solved for phase in phases):
        raise ConfigError(
            "--head_solver lbfgs needs one class an image, and the images of this dataset have any number of them: "
            "choose --head_solver adamw"
        )
    if problem is MULTI_LABEL and any(phase.balanced_sampling for phase in phases):
        raise ConfigError(
            "--balanced_sampling draws images by their one class, and the images of this dataset have any number of "
            "them; leave it out, or weigh rare classes with --class_weights balanced"
        )


def balanced_weights(labels: Sequence[int] | Sequence[Sequence[int]], classes: int) -> Tensor:
    """Weigh each class by the inverse of its share, so that all classes weigh alike and an image 1 on average.

    This is scikit-learn's `class_weight="balanced"` (King and Zeng 2001) among the classes that have images; the others
    weigh 1. For multi-label problems, where each class is a decision of its own, it is the `pos_weight` of torch's
    `BCEWithLogitsLoss`: as many times as images without the class outnumber those with it.

    Args:
        labels: class indices (images,), or zeros and ones (images, classes).
        classes: number of classes.

    Returns:
        (classes,), float32.

    >>> balanced_weights([0, 0, 0, 1], classes=3)
    tensor([0.6667, 2.0000, 1.0000])
    >>> balanced_weights([[1, 0], [1, 0], [0, 0], [0, 1]], classes=2)
    tensor([1., 3.])
    """
    flags = torch.as_tensor(labels)
    if flags.ndim == 2:
        counts = flags.sum(0)
        # at least one: a class that is in all images would not be trained at all
        return torch.where(counts > 0, (len(flags) - counts).clamp(min=1) / counts.clamp(min=1), 1.0).to(torch.float32)
    counts = torch.bincount(flags, minlength=classes)
    present = int((counts > 0).sum())
    return torch.where(counts > 0, len(labels) / (present * counts.clamp(min=1)), 1.0).to(torch.float32)
