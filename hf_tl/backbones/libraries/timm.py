"""timm backbones, wrapped as transformers' `timm_wrapper` models."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import timm
import torch
from safetensors import SafetensorError
from timm.data import create_transform, resolve_data_config
from timm.models import get_model_input_config, get_pretrained_cfg
from torch import nn

import hf_tl.classics  # noqa: F401  registers AlexNet, ZFNet and GoogLeNet with timm
from hf_tl.backbones.libraries.pooling import pooling_args
from hf_tl.backbones.libraries.preprocessing import Preprocessing
from hf_tl.backbones.stages.head import reset_head
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.backbones.weights.license import announce_license
from hf_tl.backbones.weights.limits import check_input, check_sides
from hf_tl.backbones.weights.local_file import convert_weights, load_weights, sha256_of
from hf_tl.backbones.weights.pretraining import timm_pretraining, weights_of
from hf_tl.backbones.weights.provenance import commit_of
from hf_tl.backbones.weights.saved_model import damaged_download
from hf_tl.errors import ModelError, name_some
from hf_tl.record import Origin
from hf_tl.record.origin import HeadState
from hf_tl.storage.writing import library_writing

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TimmWrapperConfig


def create_timm_backbone(
    architecture: str,
    labels: Sequence[str] | None,
    *,
    weights: str | None = None,
    weights_license: str | None = None,
    pretrained: bool = True,
    model_args: dict[str, Any] | None = None,
    image_size: int | None = None,
) -> tuple["PreTrainedModel", Origin]:
    """Create a timm architecture as a transformers model, with timm's initialization and a new head.

    Args:
        architecture: `ARCH` or `ARCH.TAG`, as in `timm.list_models(pretrained=True)`.
        labels: Class names, in the order of the logits. If None, the head of the weights is kept, with numbered
            classes.
        weights: Local file with the backbone's weights.
        weights_license: License of `weights`, if their source states one.
        pretrained: Whether to load timm's weights if `weights` is None.
        model_args: Further arguments of `timm.create_model` (`in_chans`), saved in the config.
        image_size: Height and width in pixels (default: those of the architecture).

    Returns:
        Model in inference mode, and the origin of its weights.

    Raises:
        ModelError: There is no such architecture, it has no such weights, or `weights` does not fit.
    """
    check_architecture(architecture)
    model_args = dict(model_args or {})
    settings = get_pretrained_cfg(architecture)
    if image_size is not None and settings is not None and settings.fixed_input_size:
        model_args["img_size"] = [image_size, image_size]
    download = pretrained and weights is None
    has_new_head = labels is not None
    source_classes = settings.num_classes if settings is not None else 0
    # an architecture without classes (self-supervised pretraining) gets a head too, because the wrapper needs one
    names = list(labels) if labels is not None else [f"class {number}" for number in range(source_classes or 2)]
    keeps_head = pretrained and not has_new_head and source_classes > 0
    if pretrained and settings is not None:
        model_args = {**pooling_args(weights_of(architecture, settings.tag), source_classes), **model_args}
    if download and settings is not None:
        announce_license(settings.license, settings.hf_hub_id or architecture)
    network = _create_network(architecture, download, len(names), model_args)
    if weights is not None and pretrained:
        try:
            keeps_head &= load_weights(network, weights, frozenset(list_stages(network)[-1].parameter_names))
        except ModelError as error:
            if image_size is None:
                raise
            raise ModelError(f"{error}; --image_size {image_size} may not fit these weights") from error
    model = wrap(network, names, model_args)
    if pretrained and has_new_head:
        reset_head(model)
    if image_size is not None:
        _note_image_size(model, image_size)
    head: HeadState = "kept" if keeps_head else "new"
    if not pretrained:
        return model, Origin.random()
    if weights is not None:
        return model, Origin(
            "file", file=Path(weights).name, sha256=sha256_of(weights), license=weights_license, head=head
        )
    return model, _downloaded(_settings(network), head)


def _downloaded(settings: dict[str, Any], head: HeadState) -> Origin:
    """Return the origin of weights that timm downloaded, from the Hub or from their authors' URL."""
    stated: dict[str, Any] = {
        "license": settings.get("license"),
        "pretraining": timm_pretraining(weights_of(settings["architecture"], settings.get("tag"))),
        "head": head,
    }
    if repository := settings.get("hf_hub_id"):
        return Origin("hub", name=repository, revision=commit_of(repository), **stated)
    return Origin("file", file=Path(settings.get("url") or "").name, **stated)


def wrap(network: nn.Module, labels: Sequence[str], model_args: dict[str, Any] | None = None) -> "PreTrainedModel":
    """Wrap a timm network in `TimmWrapperForImageClassification` without changing its weights.

    The wrapper's own initialization (a normal distribution for every layer) would replace timm's. The wrapper is
    therefore built on the meta device, and its network is replaced.
    """
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    pretrained_cfg = {key: value for key, value in _settings(network).items() if key != "num_classes"}
    pretrained_cfg |= _input_settings(network, pretrained_cfg)
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


def _create_network(architecture: str, download: bool, num_classes: int, model_args: dict[str, Any]) -> nn.Module:
    try:
        with library_writing():
            return timm.create_model(architecture, pretrained=download, num_classes=num_classes, **model_args)
    except (RuntimeError, OSError, TypeError, ValueError, AssertionError, SafetensorError) as error:
        if download and (damaged := _damaged_download(architecture)) is not None:
            raise ModelError(
                f"the cached file {damaged} is damaged ({_first_line(error)}): delete it, and it is downloaded again"
            ) from error
        hint = "Its weights come from the Hub: check the network, or pass --weights FILE. " if download else ""
        if "img_size" in model_args:
            hint += "It may not support this --image_size: omit it, or choose another model."
        raise ModelError(
            f"timm cannot create {architecture!r} with {model_args}: {_first_line(error)}. {hint}".rstrip()
        ) from error


def _damaged_download(architecture: str) -> Path | None:
    settings = get_pretrained_cfg(architecture)
    if settings is None or not settings.hf_hub_id:
        return None
    return damaged_download(settings.hf_hub_id, settings.hf_hub_filename)


def set_image_size(model: "PreTrainedModel", image_size: int) -> None:
    """Change the image size of a wrapped timm network and of its config, in place.

    A network of fixed size is rebuilt with its weights. timm interpolates position embeddings where it can.

    Raises:
        ModelError: The network supports one size only.
    """
    network, config = model.timm_model, model.config
    current = get_model_input_config(network)["input_size"][1:]
    if _settings(network).get("fixed_input_size") and tuple(current) != (image_size, image_size):
        model_args = {**(config.model_args or {}), "img_size": [image_size, image_size]}
        resized = _create_network(config.architecture, False, config.num_labels, model_args)
        weights, expected = convert_weights(network.state_dict(), resized), resized.state_dict()
        if unfit := [name for name, tensor in expected.items() if weights[name].shape != tensor.shape]:
            raise ModelError(
                f"{config.architecture} supports images of {current[0]} x {current[1]} pixels only, found --image_size "
                f"{image_size}: timm cannot convert {name_some(unfit, 2)}; omit it, or choose another model"
            )
        resized.load_state_dict(weights)
        model.timm_model, config.model_args = resized.eval(), model_args
    _note_image_size(model, image_size)


def _note_image_size(model: "PreTrainedModel", image_size: int) -> None:
    settings = model.config.pretrained_cfg
    model.config.pretrained_cfg = {**settings, "input_size": (settings["input_size"][0], image_size, image_size)}


def timm_preprocessing(config: "TimmWrapperConfig") -> Preprocessing:
    """Read the preprocessing from a timm checkpoint's config.

    Args:
        config: Config of the model; its `pretrained_cfg` sets size, crop, interpolation, mean and std.
    """
    from transformers import TimmWrapperImageProcessor

    data = resolve_data_config(pretrained_cfg=config.pretrained_cfg)
    check_input(data["input_size"], config.name_or_path)
    check_sides([side / data["crop_pct"] for side in data["input_size"]], config.name_or_path)
    return Preprocessing(
        input_size=tuple(data["input_size"]),
        interpolation=data["interpolation"],
        evaluation=create_transform(**data, is_training=False),
        processor=TimmWrapperImageProcessor(pretrained_cfg=config.pretrained_cfg, architecture=config.architecture),
        evaluation_settings={"crop_pct": data["crop_pct"], "crop_mode": data["crop_mode"]},
    )


def check_architecture(architecture: str) -> None:
    """Check that timm knows `ARCH` or `ARCH.TAG`.

    Raises:
        ModelError: It does not. The message suggests the nearest known names.
    """
    name, _, tag = architecture.partition(".")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
        raise ModelError(f"timm has no architecture {name!r}; {hint}")
    tags = [known.partition(".")[2] for known in timm.list_models(f"{name}.*", pretrained=True)]
    if tag and tag not in tags:
        raise ModelError(f"timm has no weights {architecture!r}; available tags: {', '.join(tags) or 'none'}")


def _settings(network: nn.Module) -> dict[str, Any]:
    return cast(dict[str, Any], network.pretrained_cfg)


def _input_settings(network: nn.Module, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the network's input settings where they differ from `settings` of its pretrained weights.

    For a network with one channel, timm sums the first layer over the colors. It gets the mean of their statistics.
    """
    input_size = tuple(get_model_input_config(network)["input_size"])
    statistics = {key: settings[key] for key in ("mean", "std") if len(settings.get(key) or ()) > 1}
    if input_size[0] == settings["input_size"][0]:
        statistics = {}
    return {
        "input_size": input_size,
        **{key: (sum(values) / len(values),) * input_size[0] for key, values in statistics.items()},
    }


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
