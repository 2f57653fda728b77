"""A head from class names, fitted to the training images, and the strategies that train on from it."""

from typing import TYPE_CHECKING, Any

import torch

from hf_tl.backbones.stages.modules import inference
from hf_tl.backbones.text.text_head import head_features, set_text_head, text_head_of
from hf_tl.backbones.weights.provenance import provenance_of, set_provenance
from hf_tl.data.streaming.streams import StreamedImages
from hf_tl.errors import ConfigError
from hf_tl.evaluation.metrics import MULTI_LABEL, problem_type_of
from hf_tl.optimization.head_penalty import check_head_penalty
from hf_tl.processes.together import agree
from hf_tl.prompts import NEEDS_WEIGHTS
from hf_tl.recipes.sizes import HEAD_PENALTY
from hf_tl.reporting.console import say
from hf_tl.reporting.numbers import counted
from hf_tl.strategy import Strategy
from hf_tl.views.stream_views import viewed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_tl.data.decoding.images import ImageTransform

IMAGES = 64
"""Number of training images whose embeddings set the scale of the logits."""
BATCH = 16


def fit_text_head(
    accelerator: Any, model: "PreTrainedModel", images: Any, transform: "ImageTransform", seed: int
) -> None:
    """Scale the logits of a text head by the mean norm of the embeddings of training images; other heads stay.

    Args:
        accelerator: Accelerator, or the `PartialState` of a Trainer.
        model: Model with the classes of the data, before training.
        images: Training images, not transformed.
        transform: Evaluation transform.
        seed: Random seed of the sample; a stream gives its first images.

    Raises:
        ConfigError: The problem is multi-label, and the text tower was not trained for it.
    """
    head = text_head_of(model)
    if head is None:
        return
    if problem_type_of(model) is MULTI_LABEL and head.logit_bias is None:
        raise ConfigError(
            "--head_init text with several labels per image needs a text tower that decides each label alone, such as "
            f"SigLIP's, found {head.source!r}: choose a SigLIP backbone, or leave out --head_init text"
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    places = range(len(images)) if isinstance(images, StreamedImages) else order.tolist()
    views = viewed(images, transform)
    pixels = torch.stack([views[place]["pixel_values"] for place in places[:IMAGES]])
    with inference(model):
        features = torch.cat([head_features(model, part.to(model.device)).cpu() for part in pixels.split(BATCH)])
    fitted, provenance = agree(accelerator, head.with_norm_of(features)), provenance_of(model)
    set_text_head(model, fitted)
    set_provenance(model, provenance.origin, provenance.learned)
    made_of = f"{counted(len(head.embeddings), 'class name')} and {counted(len(head.templates), 'prompt')}"
    say(
        accelerator,
        f"Made the head from {made_of}; logits are {fitted.logit_scale:.3g} times the cosine, for embeddings of norm "
        f"{fitted.norm:.3g} (mean of {counted(len(pixels), 'training image')})",
    )


def check_text_strategy(strategy: Strategy) -> None:
    """Reject strategies that do not train on from a text head.

    Raises:
        ConfigError: The strategy solves the head anew, or starts from random weights.
    """
    if strategy.from_scratch:
        raise ConfigError(NEEDS_WEIGHTS)
    if any(phase.is_solved for phase in strategy.phases):
        raise ConfigError(
            "--head_init text needs a head that is trained on from there, and --head_solver lbfgs fits it anew: leave "
            "out one of the two flags"
        )


def check_head(model: "PreTrainedModel", strategy: Strategy, accelerator: Any = None) -> None:
    """Reject a strategy that does not suit the first weights of the head.

    Args:
        model: Model before training.
        strategy: Strategy.
        accelerator: Accelerator of the training, which may shard weights.

    Raises:
        ConfigError: The strategy does not train on from a text head, or draws the head to random weights.
    """
    check_head_penalty(model, strategy.phases, accelerator)
    if text_head_of(model) is not None:
        check_text_strategy(strategy)


def with_head_penalty(strategy: Strategy, model: "PreTrainedModel") -> Strategy:
    """Return a strategy that keeps a text head near its starting weights, unless it says otherwise.

    Args:
        strategy: Strategy. Phases that were written out stay as they are.
        model: Model before training.

    Raises:
        ConfigError: See `check_text_strategy`.
    """
    if text_head_of(model) is None:
        return strategy
    check_text_strategy(strategy)
    if strategy.preset is None:
        return strategy
    return Strategy.of(strategy.preset.name, **{"head_penalty": HEAD_PENALTY, **strategy.preset.arguments})
