"""Two-tower models (CLIP, SigLIP) of transformers, and their image towers as timm networks.

The head that classifies by text needs the features that the model was trained to compare with text: the class token
(CLIP) or the attention pool (SigLIP). The image classifiers of transformers, `CLIPForImageClassification` and
`SiglipForImageClassification`, pool the mean of the patches instead, so no weights of theirs give the zero-shot
predictions. timm's vision transformers end in the features that are needed. So the image tower becomes a timm network
with the same weights and outputs, which transformers loads as `timm_wrapper`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.layers import get_act_layer
from torch import Tensor

from hf_tl.backbones.libraries.configs import load_config
from hf_tl.backbones.libraries.processors import load_processor
from hf_tl.backbones.libraries.timm import set_image_size, wrap
from hf_tl.errors import ModelError, name_some
from hf_tl.reporting.console import quiet_transformers
from hf_tl.storage.writing import library_writing

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

NAMES = (
    (r"embeddings\.class_embedding", "cls_token"),
    (r"embeddings\.position_embedding\.weight", "pos_embed"),
    (r"embeddings\.patch_embedding", "patch_embed.proj"),
    (r"pre_layrnorm", "norm_pre"),
    (r"post_layernorm", "norm"),
    (r"encoder\.layers", "blocks"),
    (r"layer_norm(\d)", r"norm\1"),
    (r"self_attn\.out_proj", "attn.proj"),
    (r"self_attn\.qkv", "attn.qkv"),
    (r"^head\.probe", "attn_pool.latent"),
    (r"^head\.attention\.out_proj", "attn_pool.proj"),
    (r"^head\.attention\.", "attn_pool."),
    (r"^head\.layernorm", "attn_pool.norm"),
    (r"^head\.mlp", "attn_pool.mlp"),
)
"""Names of transformers' tensors, and their names in timm."""
ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
"""Names of activations in transformers that differ from timm's."""
LARGEST_DIFFERENCE = 0.01
"""Largest relative difference of a tensor in two copies of the same weights, in half precision or not."""
LIKE_CLIP, LIKE_SIGLIP = "vit_base_patch32_clip_224", "vit_base_patch16_siglip_224"
"""Architectures that tower sizes without a timm architecture of their own are built from."""


def is_two_tower(config: "PreTrainedConfig") -> bool:
    """Return whether a config is that of a model with a text tower and an image tower of its own."""
    return hasattr(config, "text_config") and hasattr(config, "vision_config")


def load_two_towers(name: str, revision: str | None = None, trust_remote_code: bool = False) -> "PreTrainedModel":
    """Load both towers of a checkpoint in transformers' format, in float32.

    Raises:
        ModelError: The checkpoint has no text tower, or cannot be loaded.
    """
    from safetensors import SafetensorError
    from transformers import AutoModel

    config = load_config(name, revision, trust_remote_code)
    expected = "expected a CLIP or SigLIP checkpoint in transformers' format, with a text tower"
    if not is_two_tower(config):
        raise ModelError(
            f"{expected}, found {name!r} of type {config.model_type}: name a checkpoint such as "
            "openai/clip-vit-base-patch32"
        )
    try:
        with library_writing(), quiet_transformers():
            model, report = AutoModel.from_pretrained(
                name,
                config=config,
                dtype=torch.float32,
                revision=revision,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
    except (OSError, ValueError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(f"the weights of {name!r} cannot be loaded: {error}") from error
    if not callable(getattr(model, "get_text_features", None)) or not hasattr(model, "vision_model"):
        raise ModelError(f"{expected}, found {name!r}, a {type(model).__name__}: name a checkpoint of these families")
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{expected}, found {name!r}, which lacks {name_some(missing)}: name the checkpoint that it was made from"
        )
    return model.eval()


def image_classifier(
    towers: "PreTrainedModel",
    name: str,
    labels: Sequence[str],
    *,
    image_size: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> "PreTrainedModel":
    """Return the image tower of a two-tower model as a timm network with a new head, wrapped for transformers.

    Args:
        towers: Result of `load_two_towers`.
        name: Name of its checkpoint, which has an image processor.
        labels: Class names, in the order of the logits.
        image_size: Height and width in pixels (default: those of the checkpoint).
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether code from the repository may run.

    Raises:
        ModelError: timm has no network for the tower.
    """
    weights = timm_weights(towers.vision_model.state_dict())
    architecture, model_args = timm_architecture(towers.config.vision_config, weights)
    network = timm.create_model(architecture, num_classes=len(labels), **model_args)
    expected = {key for key in network.state_dict() if not key.startswith("head.")}
    if different := sorted(expected.symmetric_difference(weights)):
        raise ModelError(
            f"--head_init text supports image towers like CLIP's and SigLIP's, found {type(towers).__name__}, whose "
            f"tensors differ: {name_some(different)}. Choose another model"
        )
    network.load_state_dict(weights, strict=False)
    network.pretrained_cfg = {
        **_pixels(load_processor(name, None, revision, trust_remote_code)),
        "architecture": architecture,
        "classifier": "head",
        "first_conv": "patch_embed.proj",
        "fixed_input_size": True,
        "input_size": (weights["patch_embed.proj.weight"].shape[1], *[towers.config.vision_config.image_size] * 2),
    }
    model = wrap(network, labels, model_args)
    if image_size is not None:
        set_image_size(model, image_size)
    return model


def timm_weights(tower: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of an image tower of transformers as timm names them."""
    weights: dict[str, Tensor] = {}
    for name, tensor in _joined(tower).items():
        for pattern, new in NAMES:
            name = re.sub(pattern, new, name)
        weights[name] = tensor
    weights["pos_embed"] = weights["pos_embed"][None]
    if "cls_token" in weights:
        weights["cls_token"] = weights["cls_token"].reshape(1, 1, -1)
    return weights


def _joined(tower: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join the projections of an attention that timm holds in one tensor, and split that of the attention pool."""
    tensors = {name: tensor for name, tensor in tower.items() if not name.endswith("position_ids")}
    for name in [name for name in tensors if ".q_proj." in name]:
        parts = [tensors.pop(name.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        tensors[name.replace(".q_proj.", ".qkv.")] = torch.cat(parts)
    for kind in ("weight", "bias"):
        if (joined := tensors.pop(f"head.attention.in_proj_{kind}", None)) is not None:
            query, key, value = joined.chunk(3)
            tensors |= {f"head.attention.q.{kind}": query, f"head.attention.kv.{kind}": torch.cat([key, value])}
    return tensors


def timm_architecture(config: "PreTrainedConfig", weights: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """Return the timm architecture of an image tower, and arguments for sizes that timm has no name for.

    Args:
        config: Config of the tower.
        weights: Result of `timm_weights`.
    """
    has_class_token = "cls_token" in weights
    activation = ACTIVATIONS.get(config.hidden_act, config.hidden_act)
    family = "clip" if has_class_token else "siglip"
    alike = None
    network: Any
    for name in timm.list_models(f"vit_*_patch{config.patch_size}_{family}*_{config.image_size}"):
        with torch.device("meta"):
            network = timm.create_model(name, num_classes=1)
        shapes = {key: tensor.shape for key, tensor in network.state_dict().items() if not key.startswith("head.")}
        if shapes != {key: tensor.shape for key, tensor in weights.items()}:
            continue
        if network.blocks[0].attn.num_heads == config.num_attention_heads:
            alike = alike or name
            if _is_activation(network.blocks[0].mlp.act, activation):
                return name, {}
    if alike is not None:
        return alike, {"act_layer": activation}
    return LIKE_CLIP if has_class_token else LIKE_SIGLIP, {
        "patch_size": config.patch_size,
        "embed_dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": (config.intermediate_size + 0.5) / config.hidden_size,  # rounded down to intermediate_size
        "act_layer": activation,
        "img_size": config.image_size,
    }


def check_same_tower(network: Any, towers: "PreTrainedModel", source: str) -> None:
    """Check that a timm network is the image tower of a two-tower model.

    All tensors but those of the head and the position embeddings, which depend on the image size, must be equal up to
    rounding, and the activation up to its approximations.

    Args:
        network: timm network.
        towers: Two-tower model.
        source: Name of its checkpoint.

    Raises:
        ModelError: The network has other tensors, other weights or another activation.
    """
    expected = timm_weights(towers.vision_model.state_dict())
    own = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("head.")}
    advice = "name the text model of the same weights"
    if unfit := sorted(
        {name for name in expected.keys() | own.keys() if name not in own or name not in expected}
        | {name for name in expected.keys() & own.keys() - {"pos_embed"} if expected[name].shape != own[name].shape}
    ):
        raise ModelError(
            f"expected the image tower of the text model {source!r} as the backbone, found other tensors: "
            f"{name_some(unfit, 3)}: {advice}"
        )
    for name in own.keys() - {"pos_embed"}:
        difference = float((own[name] - expected[name]).norm() / expected[name].norm().clamp(min=1e-12))
        if difference > LARGEST_DIFFERENCE:
            raise ModelError(
                f"expected the weights of the image tower of {source!r}, found a backbone with others ({name} differs "
                f"by {difference:.1%}, at most {LARGEST_DIFFERENCE:.0%} is rounding): {advice}"
            )
    activation = towers.config.vision_config.hidden_act
    if not _is_activation(network.blocks[0].mlp.act, ACTIVATIONS.get(activation, activation), 0.01):
        raise ModelError(
            f"expected a backbone with the activation {activation} of the text model {source!r}, found "
            f"{type(network.blocks[0].mlp.act).__name__}: choose the architecture with it (timm marks quick_gelu by "
            "quickgelu)"
        )


def _is_activation(module: Any, name: str, tolerance: float = 1e-5) -> bool:
    """Return whether a layer computes the activation of a name; layers differ in class and in arguments."""
    values = torch.linspace(-3, 3, 50)
    layer = get_act_layer(name)
    return layer is not None and torch.allclose(module(values), layer()(values), atol=tolerance, rtol=0)


def _pixels(processor: Any) -> dict[str, Any]:
    """Return the settings of timm for the preprocessing of an image processor."""
    from PIL import Image

    settings = processor.to_dict()
    size, crop = dict(settings["size"]), settings.get("crop_size") or {}
    resampling = Image.Resampling(settings.get("resample", Image.Resampling.BICUBIC)).name.lower()
    shortest = size.get("shortest_edge")
    is_cropped = shortest is not None and settings.get("do_center_crop", True)
    crop_pct = dict(crop).get("height", shortest) / shortest if shortest is not None and is_cropped else 1.0
    return {
        "interpolation": resampling,
        "mean": tuple(settings["image_mean"]),
        "std": tuple(settings["image_std"]),
        "crop_pct": crop_pct,
        "crop_mode": "center" if is_cropped else "squash",
    }
