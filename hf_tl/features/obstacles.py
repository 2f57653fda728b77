"""Reasons why a phase trains on images instead of cached features."""

from typing import TYPE_CHECKING

from hf_tl.augmentation import FUNCTION, NONE, brief_augmentation
from hf_tl.config import TrainingConfig
from hf_tl.phase import Phase

if TYPE_CHECKING:
    from accelerate import Accelerator


def is_compiled(accelerator: "Accelerator") -> bool:
    """Return whether the launcher asks for a network compiled as a whole (`--dynamo_backend`)."""
    plugin = accelerator.state.dynamo_plugin
    return plugin is not None and str(plugin.backend.value).upper() != "NO"


def obstacle_of(phase: Phase, config: TrainingConfig) -> str | None:
    """Return the reason why a phase needs images instead of features, or None."""
    if phase.trainable_stages == "all":
        return "everything trains"
    if phase.mixup or phase.cutmix:
        return "images are mixed"
    if phase.augmentation != NONE and config.cached_views is None:
        augmentation = brief_augmentation(phase.augmentation)
        return f"{augmentation} augmentation changes images in each epoch (--cached_views N keeps N views)"
    if phase.augmentation.startswith(FUNCTION):
        return "the augmentation is a Python function, whose content the cache cannot identify"
    if config.test_time_flip:
        return "--test_time_flip measures with mirrored images too"
    return None
