"""Head of a classifier: its stages and its weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_tl.backbones.stages.paths import parent_of
from hf_tl.backbones.stages.stage import Stage, list_stages

if TYPE_CHECKING:
    from torch import nn


def head_stages(stages: Sequence[Stage]) -> int:
    """Count the trailing fully connected stages: 2 in VGG and AlexNet, 1 where only the head is fully connected.

    Hidden fully connected layers lie between the last stage of the backbone and the classifier, either in timm's
    `pre_logits` or in one module with the classifier.
    """
    first, *_, hidden, head = stages
    beside = parent_of(parent_of(head.parameter_names[0]))
    # exclude the whole model and a wrapper's inner model, which contain the stem too
    around = {
        path for path in (beside, parent_of(beside)) if path and not first.parameter_names[0].startswith(f"{path}.")
    }
    owners = {parent_of(name) for name in hidden.parameter_names}
    is_hidden = all("pre_logits" in owner.split(".") or parent_of(owner) in around for owner in owners)
    return 2 if is_hidden else 1


def reset_head(model: "nn.Module") -> None:
    """Draw new weights for the head; all other weights are unchanged."""
    modules = dict(model.named_modules())
    for name in list_stages(model)[-1].module_names:
        if hasattr(modules[name], "reset_parameters"):
            modules[name].reset_parameters()
