"""The loss of a step."""

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from hf_tl.strategy import Phase


def training_loss(logits: Tensor, labels: Tensor, phase: "Phase") -> Tensor:
    """Compute the cross-entropy of a batch, in float32 whatever the precision of the network.

    The models' own loss is not used: TimmWrapper turns soft labels into a binary loss without a word.

    Args:
        logits: (batch, classes).
        labels: class indices (batch,), or probabilities (batch, classes).
        phase: its label smoothing.
    """
    return functional.cross_entropy(logits.float(), labels, label_smoothing=phase.label_smoothing)
