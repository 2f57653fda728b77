"""A head from class names: a linear layer that classifies as the text tower does (zero-shot).

Zero-shot classification predicts the class c with the largest logit scale * cos(P f, t_c), of the features f of an
image, the projection P of the image tower and the embedding t_c of the class name. The norm of P f is one positive
factor for all classes. So the linear layer with the weights (scale / norm) * T P has the same predictions for every
norm. With the mean norm of the embeddings of training images, its probabilities are right on average too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_tl.backbones.stages.stage import list_stages
from hf_tl.backbones.text.embedding import embed_classes, load_tokenizer, pooled
from hf_tl.backbones.text.towers import check_same_tower
from hf_tl.backbones.weights.digest import digest
from hf_tl.backbones.weights.provenance import commit_of
from hf_tl.errors import ModelError
from hf_tl.prompts import check_class_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TEXT_HEAD = "_hf_tl_text_head"
"""Model attribute that holds its text head; copies of the model keep it."""
SMALLEST_COSINE = 0.99
"""Smallest mean cosine similarity of the image embeddings of a backbone and of the image tower beside the text tower.
For another image size, the libraries interpolate position embeddings differently."""
PROBES = 4
"""Number of synthetic images on which the two are compared."""


@dataclass(frozen=True)
class TextHead:
    """Head from class names, and what it was made of."""

    source: str
    """Name of the checkpoint of the text tower."""
    revision: str | None
    """Its commit on the Hub."""
    templates: tuple[str, ...]
    embeddings: Tensor
    """Embeddings of the class names, (classes, embedding width)."""
    projection: Tensor | None
    """Projection of the image tower, (embedding width, features). None if the features are the embedding."""
    logit_scale: float
    logit_bias: float | None
    """Bias of each logit, the same for all classes: of SigLIP, whose sigmoid decides each class alone. None for CLIP.
    """
    norm: float
    """Mean norm of the image embeddings."""
    weight: Tensor = field(init=False)
    """Weights of the linear layer, (classes, features)."""

    def __post_init__(self) -> None:
        directions = self.embeddings if self.projection is None else self.embeddings @ self.projection
        object.__setattr__(self, "weight", directions * (self.logit_scale / self.norm))

    def identity(self) -> dict[str, Any]:
        """Return what a checkpoint and the run that resumes from it must share."""
        return {"prompts": list(self.templates), "embeddings": digest({"embeddings": self.embeddings})}

    def embed(self, features: Tensor) -> Tensor:
        """Embed features of images, (images, features)."""
        return features if self.projection is None else features @ self.projection.to(features.device).T

    def with_norm_of(self, features: Tensor) -> Self:
        """Return the head for the mean norm of the embeddings of features, (images, features)."""
        return replace(self, norm=float(self.embed(features.float()).norm(dim=-1).mean()))

    @torch.no_grad()
    def write(self, model: nn.Module) -> None:
        """Write the weights into the head of a model."""
        layer = head_layer(model)
        layer.weight.copy_(self.weight)
        layer.bias.fill_(self.logit_bias or 0.0)

    def is_head_of(self, model: nn.Module) -> bool:
        """Return whether a model still has these weights in its head."""
        layer = head_layer(model)
        return torch.equal(layer.weight.detach().cpu(), self.weight)


def text_head_of(model: nn.Module) -> TextHead | None:
    """Return the text head that a model was loaded with; None without one, or after other code changed the head."""
    head: TextHead | None = model.__dict__.get(_TEXT_HEAD)
    return head if head is not None and head.is_head_of(model) else None


def set_text_head(model: nn.Module, head: TextHead) -> None:
    """Give a model a text head, and remember it."""
    head.write(model)
    model.__dict__[_TEXT_HEAD] = head


def make_text_head(
    model: "PreTrainedModel",
    towers: "PreTrainedModel",
    source: str,
    labels: Sequence[str],
    templates: Sequence[str],
    revision: str | None = None,
) -> TextHead:
    """Make a head from class names, after a check that the text tower fits the backbone.

    Args:
        model: Image classifier, whose head is a linear layer.
        towers: Two-tower model with the image tower of the backbone.
        source: Name of its checkpoint, with the tokenizer.
        labels: Class names, in the order of the logits.
        templates: Prompts with `{}` in place of the class name.
        revision: Branch, tag or commit of `source` on the Hub.

    Raises:
        ConfigError: The class names are numbers.
        ModelError: The head is not a linear layer, or the text tower is that of other weights.
    """
    check_class_names(labels)
    if model.config.model_type != "timm_wrapper":
        raise ModelError(
            f"--head_init text needs a backbone that ends in the features which are compared with text, found a "
            f"{type(model).__name__}: choose a CLIP or SigLIP backbone of timm, or such a checkpoint with both towers"
        )
    layer, projection = head_layer(model), getattr(towers, "visual_projection", None)
    matrix = None if projection is None else projection.weight.detach().clone()
    embeddings = embed_classes(towers, load_tokenizer(source, revision), labels, templates)
    width = (embeddings if matrix is None else matrix).shape[1]
    if width != layer.in_features:
        raise ModelError(
            f"expected a text model for features of {layer.in_features} values, as the backbone has, found {source!r} "
            f"for {width}: name the checkpoint with the image tower of the backbone as --text_model"
        )
    bias, scale = getattr(towers, "logit_bias", None), float(towers.logit_scale.detach().exp())
    head = TextHead(
        source,
        commit_of(source, revision),
        tuple(templates),
        embeddings,
        matrix,
        scale,
        None if bias is None else float(bias.detach()),
        norm=1.0,
    )
    check_same_tower(model.timm_model, towers, source)
    return _checked(head, model, towers)


def _checked(head: TextHead, model: "PreTrainedModel", towers: "PreTrainedModel") -> TextHead:
    """Check that the backbone embeds synthetic images as the image tower beside the text tower does.

    Raises:
        ModelError: It does not.
    """
    channels, *size = model.config.pretrained_cfg["input_size"]
    if channels != 3:
        raise ModelError(f"--head_init text needs color images, found --in_chans {channels}: leave out --in_chans")
    coarse = torch.randn(PROBES, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = functional.interpolate(coarse, size=tuple(size), mode="bicubic")
    is_resized = set(size) != {towers.config.vision_config.image_size}
    features = head_features(model, pixels)
    with torch.inference_mode():
        expected = pooled(towers.get_image_features(pixel_values=pixels, interpolate_pos_encoding=is_resized))
    cosine = float(functional.cosine_similarity(head.embed(features), expected, dim=-1).mean())
    if cosine < SMALLEST_COSINE:
        raise ModelError(
            f"expected the backbone of the text model {head.source!r}, found other embeddings of the same images (mean "
            f"cosine similarity {cosine:.3f}, at least {SMALLEST_COSINE:g} needed): choose another backbone"
        )
    return head.with_norm_of(features)


def head_features(model: nn.Module, pixel_values: Tensor) -> Tensor:
    """Return the inputs of the linear layer of the head for a batch of images, (images, features)."""
    inputs: list[Tensor] = []
    hook = head_layer(model).register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    try:
        with torch.inference_mode():
            model(pixel_values=pixel_values)
    finally:
        hook.remove()
    [features] = inputs
    return features.float().clone()


def head_layer(model: nn.Module) -> nn.Linear:
    """Return the linear layer of the head.

    Raises:
        ModelError: The head is not one linear layer with a bias.
    """
    modules = dict(model.named_modules())
    layers = [modules[name] for name in list_stages(model)[-1].module_names]
    layers = [layer for layer in layers if any(True for _ in layer.parameters(recurse=False))]
    if len(layers) == 1 and isinstance(layers[0], nn.Linear) and layers[0].bias is not None:
        return layers[0]
    raise ModelError(
        "--head_init text needs a head that is one linear layer with a bias, found "
        f"{', '.join(type(layer).__name__ for layer in layers)}: choose a backbone such as a ViT of CLIP or SigLIP"
    )
