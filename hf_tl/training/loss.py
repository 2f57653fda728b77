"""The loss of a step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from hf_tl.strategy import Phase


def training_loss(logits: Tensor, labels: Tensor, phase: "Phase", weights: Tensor | None = None) -> Tensor:
    """Compute the cross-entropy of a batch, in float32 whatever the precision of the network.

    The models' own loss is not used: TimmWrapper turns soft labels into a binary loss without a word.

    Args:
        logits: (batch, classes).
        labels: class indices (batch,), or probabilities (batch, classes) of mixed images.
        phase: its label smoothing.
        weights: of the classes (classes,), from `balanced_weights`. The loss is divided by the number of images, not by
            the weights in the batch, so that it does not depend on how images fall into batches.
    """
    if weights is not None and labels.ndim == 1:
        # with probabilities, torch divides by the number of images
        labels = functional.one_hot(labels, logits.shape[1]).to(torch.float32)
    return functional.cross_entropy(logits.float(), labels, weights, label_smoothing=phase.label_smoothing)


def balanced_weights(labels: Sequence[int], classes: int) -> Tensor:
    """Weigh each class by the inverse of its share, so that all classes weigh alike and an image 1 on average.

    This is scikit-learn's `class_weight="balanced"` (King and Zeng 2001) among the classes that have images; the others
    weigh 1.

    Returns:
        (classes,), float32.

    >>> balanced_weights([0, 0, 0, 1], classes=3)
    tensor([0.6667, 2.0000, 1.0000])
    """
    counts = torch.bincount(torch.as_tensor(labels), minlength=classes)
    present = int((counts > 0).sum())
    return torch.where(counts > 0, len(labels) / (present * counts.clamp(min=1)), 1.0).to(torch.float32)
