"""Training loss."""

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
    taught: Tensor | None = None,
) -> Tensor:
    """Compute the cross-entropy of a batch, or the binary cross-entropy for a multi-label problem.

    With a teacher it is mixed with the distance from the teacher's predictions (`distillation_loss`). It is computed in
    float32 whatever the precision of the network. The models' own loss is not used, because TimmWrapper silently
    applies a binary loss to soft labels.

    Args:
        logits: (batch, classes).
        labels: Class indices (batch,), or probabilities (batch, classes) of mixed images; for a multi-label problem the
            probability of each class (batch, classes).
        phase: Phase with the label smoothing (towards equal probabilities of all classes, or towards one half in each
            decision of a multi-label problem), and with the weight and temperature of the distillation.
        weights: Class weights (classes,) from `balanced_weights`. The loss is divided by the number of images, not by
            the weights in the batch, so that it does not depend on the composition of batches.
        problem: Kind of labels. Defaults to single-label.
        taught: Logits of the teacher for the same images (batch, classes), if there is one.
    """
    loss = _label_loss(logits, labels, phase, weights, problem)
    if taught is None or not phase.distillation_weight:
        return loss
    soft = distillation_loss(logits, taught, phase.distillation_temperature, problem)
    return (1 - phase.distillation_weight) * loss + phase.distillation_weight * soft


def distillation_loss(
    logits: Tensor, taught: Tensor, temperature: float, problem: ProblemType = SINGLE_LABEL
) -> Tensor:
    """Compute the Kullback-Leibler divergence of softened predictions from those of a teacher.

    Both logits are divided by the temperature. The squared temperature makes up for the smaller gradients (Hinton et
    al. 2015, https://arxiv.org/abs/1503.02531). Like the cross-entropy, it is a mean over the images, and for a
    multi-label problem over the decisions; class weights and label smoothing do not apply to it.

    Args:
        logits: Logits of the model (batch, classes).
        taught: Logits of the teacher (batch, classes).
        temperature: Temperature.
        problem: Kind of labels. Defaults to single-label.
    """
    logits, taught = logits.float() / temperature, taught.float() / temperature
    if problem is MULTI_LABEL:
        likelihood = functional.binary_cross_entropy_with_logits
        targets = taught.sigmoid()
        divergence = likelihood(logits, targets) - likelihood(taught, targets)
    else:
        expected = taught.log_softmax(1)
        divergence = functional.kl_div(logits.log_softmax(1), expected, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def _label_loss(logits: Tensor, labels: Tensor, phase: "Phase", weights: Tensor | None, problem: ProblemType) -> Tensor:
    """Compute the loss of the labels; see `training_loss`."""
    if problem is MULTI_LABEL:
        targets = labels.float() * (1 - phase.label_smoothing) + phase.label_smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits.float(), targets, pos_weight=weights)
    if weights is not None and labels.ndim == 1:
        # with probabilities, torch divides by the number of images
        labels = functional.one_hot(labels, logits.shape[1]).to(torch.float32)
    return functional.cross_entropy(logits.float(), labels, weights, label_smoothing=phase.label_smoothing)


def check_phases(phases: "Sequence[Phase]", problem: ProblemType) -> None:
    """Reject phases that the problem does not support.

    Raises:
        ConfigError: A phase samples the classes of multi-label images equally often, or solves their head.
    """
    if problem is MULTI_LABEL and any(phase.is_solved for phase in phases):
        raise ConfigError(
            "--head_solver lbfgs needs a single-label dataset, and this one is multi-label: choose --head_solver adamw"
        )
    if problem is MULTI_LABEL and any(phase.balanced_sampling for phase in phases):
        raise ConfigError(
            "--balanced_sampling needs a single-label dataset, and this one is multi-label: "
            "choose --class_weights balanced"
        )


def balanced_weights(labels: Sequence[int] | Sequence[Sequence[int]], classes: int) -> Tensor:
    """Return class weights inverse to the class frequencies: classes count equally, and an image counts 1 on average.

    This is scikit-learn's `class_weight="balanced"` (King and Zeng 2001) among the classes that have images; the others
    have weight 1. For multi-label problems, where each class is a separate decision, it is the `pos_weight` of torch's
    `BCEWithLogitsLoss`: the ratio of images without the class to those with it.

    Args:
        labels: Class indices (images,), or zeros and ones (images, classes).
        classes: Number of classes.

    Returns:
        Weights (classes,), float32.

    >>> balanced_weights([0, 0, 0, 1], classes=3)
    tensor([0.6667, 2.0000, 1.0000])
    >>> balanced_weights([[1, 0], [1, 0], [0, 0], [0, 1]], classes=2)
    tensor([1., 3.])
    """
    flags = torch.as_tensor(labels)
    if flags.ndim == 2:
        counts = flags.sum(0)
        # at least one: otherwise a class that is in all images would not be trained
        return torch.where(counts > 0, (len(flags) - counts).clamp(min=1) / counts.clamp(min=1), 1.0).to(torch.float32)
    counts = torch.bincount(flags, minlength=classes)
    present = int((counts > 0).sum())
    return torch.where(counts > 0, len(labels) / (present * counts.clamp(min=1)), 1.0).to(torch.float32)
