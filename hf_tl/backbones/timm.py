"""timm backbones, as the `timm_wrapper` models of transformers."""

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import timm
import torch
from timm.data import create_transform, resolve_data_config
from torch import nn

import hf_tl.classics  # noqa: F401  registers AlexNet, ZFNet and GoogLeNet with timm
from hf_tl.backbones.preprocessing import Preprocessing
from hf_tl.backbones.stages import list_stages
from hf_tl.backbones.transformers import reset_head
from hf_tl.backbones.weights import describe_weights, load_weights
from hf_tl.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TimmWrapperConfig


def create_timm_backbone(
    architecture: str,
    labels: Sequence[str],
    *,
    weights: str | None = None,
    pretrained: bool = True,
    model_args: dict[str, Any] | None = None,
) -> tuple["PreTrainedModel", dict[str, Any]]:
    """Create a timm architecture as a transformers model, with timm's own initialisation and a new head.

    Args:
        architecture: `ARCH` or `ARCH.TAG`, as in `timm.list_models(pretrained=True)`.
        labels: names of the classes, in the order of the logits.
        weights: a local file with the backbone's weights.
        pretrained: whether to load timm's weights where `weights` is None.
        model_args: further arguments of `timm.create_model` (`in_chans`, `img_size`), kept in the config.

    Returns:
        The model in inference mode, and where its weights come from (`name`, `revision`, `license`, `weights`).

    Raises:
        ModelError: there is no such architecture, it has no such weights, or `weights` does not fit.
    """
    check_architecture(architecture)
    arguments = {"num_classes": len(labels), **(model_args or {})}
    download = pretrained and weights is None
    try:
        network = timm.create_model(architecture, pretrained=download, **arguments)
    except (RuntimeError, OSError, TypeError, AssertionError) as error:
        raise ModelError(
            f"timm cannot create {architecture!r} with {arguments}: {_first_line(error)}. "
            + ("Its weights come from the Hub: check the network, or give --weights FILE." if download else "")
        ) from error
    if weights is not None and pretrained:
        load_weights(network, weights, frozenset(list_stages(network)[-1].parameter_names))
    model = wrap(network, labels, model_args)
    reset_head(model)
    settings = _settings(network) if download else {}
    return model, {
        "name": settings.get("hf_hub_id") or None,
        "revision": None,
        "license": settings.get("license"),
        "weights": describe_weights(weights) if weights is not None and pretrained else None,
    }


def wrap(network: nn.Module, labels: Sequence[str], model_args: dict[str, Any] | None = None) -> "PreTrainedModel":
    """Put a timm network into `TimmWrapperForImageClassification`, its weights untouched.

    The wrapper's own initialisation (a normal distribution for every layer) would replace timm's, so the wrapper is
    built without memory and given the network.
    """
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    pretrained_cfg = {key: value for key, value in _settings(network).items() if key != "num_classes"}
    global_pool = getattr(network, "global_pool", None)
    config = TimmWrapperConfig(
        architecture=pretrained_cfg["architecture"],
        num_labels=len(labels),
        model_args=model_args or None,
        pretrained_cfg=pretrained_cfg,
        num_features=network.num_features,
        global_pool=global_pool if isinstance(global_pool, str) else None,
    )
    with torch.device("meta"):
        model = TimmWrapperForImageClassification(config)
    model.timm_model = network
    return model.eval()


def timm_preprocessing(config: "TimmWrapperConfig", image_size: int | None = None) -> Preprocessing:
    """Read the preprocessing from a timm checkpoint's config.

    Args:
        config: the model's; its `pretrained_cfg` says size, crop, interpolation, mean and std.
        image_size: height and width in pixels, instead of the checkpoint's.
    """
    settings = dict(config.pretrained_cfg)
    if image_size is not None:
        settings = {**settings, "input_size": (settings["input_size"][0], image_size, image_size)}
        config.pretrained_cfg = settings
    data = resolve_data_config(pretrained_cfg=settings)
    return Preprocessing(
        input_size=tuple(data["input_size"]),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=data["interpolation"],
        evaluation=create_transform(**data, is_training=False),
        evaluation_settings={"crop_pct": data["crop_pct"], "crop_mode": data["crop_mode"]},
    )


def check_architecture(architecture: str) -> None:
    """Check that timm knows `ARCH` or `ARCH.TAG`.

    Raises:
        ModelError: it does not; the message names the nearest that it knows.
    """
    name, _, tag = architecture.partition(".")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
        raise ModelError(f"timm has no architecture {name!r}; {hint}")
    tags = [known.partition(".")[2] for known in timm.list_models(f"{name}.*", pretrained=True)]
    if tag and tag not in tags:
        raise ModelError(f"timm has no weights {architecture!r}; it has the tags {', '.join(tags) or 'none'}")


def _settings(network: nn.Module) -> dict[str, Any]:
    return cast(dict[str, Any], network.pretrained_cfg)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
