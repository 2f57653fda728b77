"""Loading for a head from class names: the towers, the image classifier, and its first weights."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModel

from hf_tl.backbones.libraries.class_names import class_names
from hf_tl.backbones.libraries.configs import load_config
from hf_tl.backbones.libraries.transformers import origin_of
from hf_tl.backbones.text.text_head import make_text_head, set_text_head
from hf_tl.backbones.text.towers import image_classifier, is_two_tower, load_two_towers
from hf_tl.errors import ModelError
from hf_tl.prompts import TextInit
from hf_tl.record import LearnedFrom, Origin

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_image_classifier(
    name: str,
    labels: Sequence[str] | None,
    *,
    pretrained: bool,
    image_size: int | None,
    revision: str | None,
    trust_remote_code: bool,
) -> tuple["PreTrainedModel", Origin, LearnedFrom, "PreTrainedModel"] | None:
    """Load a two-tower checkpoint with its image tower as a classifier with a new head.

    Args:
        name: Hub id or directory.
        labels: Class names, in the order of the logits (default: those of the config).
        pretrained: Whether to load the weights.
        image_size: Height and width in pixels (default: those of the checkpoint).
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether code from the repository may run.

    Returns:
        Classifier, origin of its weights, their known training images, and the two-tower model. None for other
        checkpoints.
    """
    config = load_config(name, revision, trust_remote_code)
    if not is_two_tower(config):
        return None
    if pretrained:
        towers = load_two_towers(name, revision, trust_remote_code)
    else:
        towers = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code).eval()
    names = class_names(config) if labels is None else labels
    places: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    model = image_classifier(towers, name, names, image_size=image_size, **places)
    origin, learned = origin_of(name, config, revision, "new", has_classifier=False)
    return model, *((origin, learned) if pretrained else (Origin.random(), LearnedFrom())), towers


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
