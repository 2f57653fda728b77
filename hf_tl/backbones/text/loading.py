"""Loading for a head from class names: the towers, the image classifier, and its first weights."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModel

from hf_tl.backbones.libraries.configs import load_config
from hf_tl.backbones.libraries.transformers import origin_of
from hf_tl.backbones.text.text_head import make_text_head, set_text_head
from hf_tl.backbones.text.towers import image_classifier, is_two_tower, load_two_towers
from hf_tl.errors import ModelError
from hf_tl.prompts import TextInit
from hf_tl.record import LearnedFrom, Origin

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_own_towers(
    name: str, revision: str | None, trust_remote_code: bool, *, pretrained: bool
) -> "PreTrainedModel | None":
    """Load a backbone with its text tower; return None if it has none."""
    config = load_config(name, revision, trust_remote_code)
    if not is_two_tower(config):
        return None
    if not pretrained:
        return AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code).eval()
    return load_two_towers(name, revision, trust_remote_code)


def load_image_classifier(
    towers: "PreTrainedModel", name: str, labels: Sequence[str] | None, revision: str | None, **options: Any
) -> tuple["PreTrainedModel", Origin, LearnedFrom]:
    """Return the image tower of a two-tower checkpoint as a classifier, its origin, and its known training images.

    Args:
        towers: Result of `load_own_towers`.
        name: Name of the checkpoint.
        labels: Class names, in the order of the logits (default: those of the config).
        revision: Branch, tag or commit on the Hub.
        options: Other arguments of `image_classifier`.
    """
    config = towers.config
    names = [config.id2label[index] for index in range(config.num_labels)] if labels is None else labels
    model = image_classifier(towers, name, names, revision=revision, **options)
    return model, *origin_of(name, config, revision, "new")


def add_text_head(
    model: "PreTrainedModel",
    origin: Origin,
    labels: Sequence[str],
    text: TextInit,
    towers: "PreTrainedModel | None",
    name: str,
    revision: str | None,
) -> Origin:
    """Give a model a head from its class names, and return the origin of its weights.

    Args:
        model: Image classifier.
        origin: Origin of its weights so far.
        labels: Class names, in the order of the logits.
        text: Prompts, and the checkpoint of the text tower.
        towers: Both towers of the backbone's own checkpoint, if it has two.
        name: Name of that checkpoint.
        revision: Its branch, tag or commit on the Hub.

    Raises:
        ConfigError: The class names are numbers.
        ModelError: There is no text tower, or it is that of other weights.
    """
    source, version = (name, revision) if text.model is None else (text.model, None)
    if text.model is not None:
        towers = load_two_towers(text.model)
    if towers is None:
        raise ModelError(
            f"--head_init text needs the text tower of the backbone, and {Path(name).name} has none: name the CLIP or "
            "SigLIP checkpoint in transformers' format that holds it as --text_model, such as "
            "openai/clip-vit-base-patch32, or choose such a checkpoint as --model"
        )
    set_text_head(model, make_text_head(model, towers, source, labels, text.templates, version))
    return dataclasses.replace(origin, head="text")
