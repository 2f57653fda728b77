"""Embeddings of class names by a text tower."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from hf_tl.errors import ModelError
from hf_tl.storage.writing import library_writing

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def embed_classes(towers: "PreTrainedModel", tokenizer: Any, labels: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Embed class names: the mean of the normalized embeddings of all prompts of a class, normalized.

    Args:
        towers: Two-tower model.
        tokenizer: Its tokenizer.
        labels: Class names; underscores become spaces.
        templates: Templates with `{}` in place of the class name.

    Returns:
        Embeddings of unit norm, (classes, embedding width).
    """
    length = towers.config.text_config.max_position_embeddings
    rows = []
    for label in labels:
        prompts = [template.replace("{}", label.replace("_", " ")) for template in templates]
        # padded to the full length, as SigLIP was trained; CLIP reads the features at the end of the text
        tokens = tokenizer(prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        with torch.inference_mode():
            rows.append(functional.normalize(pooled(towers.get_text_features(**tokens)), dim=-1).mean(0))
    return functional.normalize(torch.stack(rows), dim=-1).clone()


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """Load the tokenizer of a two-tower checkpoint.

    Raises:
        ModelError: The checkpoint has none.
    """
    from transformers import AutoTokenizer

    try:
        with library_writing():
            return AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ModelError(
            f"{name!r} has no tokenizer that transformers can load ({error}): name a checkpoint with its tokenizer"
        ) from error


def pooled(features: Any) -> Tensor:
    """Return the embeddings that a two-tower model returns, alone or among other outputs."""
    embeddings = features if isinstance(features, Tensor) else features.pooler_output
    assert isinstance(embeddings, Tensor), "a two-tower model embeds each text and each image"
    return embeddings
