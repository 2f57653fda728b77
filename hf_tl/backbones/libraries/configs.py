"""Configs of transformers, and untrained models that are built from them."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hf_tl.backbones.weights.limits import check_numbers, settings_of, within_limits
from hf_tl.backbones.weights.repository import check_checkpoint, check_config, check_needs_no_code
from hf_tl.errors import ModelError
from hf_tl.storage.writing import library_writing

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_OF_TIMM = ("num_classes", "label_names", "pretrained_cfg")
"""Settings of timm that the config class of transformers takes from a file without declaring them."""


def load_config(name: str, revision: str | None, trust_remote_code: bool) -> "PreTrainedConfig":
    """Load the config of a Hub id or a local directory.

    Raises:
        ModelError: There is none, or the checkpoint fails the safety checks of `hf_tl.backbones.weights.repository`.
    """
    import timm
    from transformers import AutoConfig, PreTrainedConfig
    from transformers.utils import CONFIG_NAME

    import hf_tl.classics  # noqa: F401  registers with timm the architectures that such a checkpoint may name

    check_checkpoint(name, revision)
    with settings_of(name, CONFIG_NAME):
        try:
            with library_writing():
                content, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
            if not content:  # transformers 5.0 would guess the type from the name
                raise OSError(f"{CONFIG_NAME} is missing or empty")
            check_numbers(_read_settings(content), name)
            if not trust_remote_code:
                check_config(content, name)
            with library_writing():
                config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
        except (OSError, ValueError) as error:
            check_needs_no_code(name, error)
            is_other_folder = Path(name).is_dir() and not (Path(name) / CONFIG_NAME).is_file()
            reason = f"the folder has no {CONFIG_NAME}" if is_other_folder else " ".join(str(error).split()).rstrip(".")
            if timm.is_model(name.partition(".")[0]):
                reason = f"did you mean timm:{name}?"
            kinds = f"a Hub id (user/name), a local directory with {CONFIG_NAME}, or timm:ARCHITECTURE"
            raise ModelError(f"no model {name!r}: {reason:.500}; a model is {kinds}".replace("?;", "?")) from error
        if config.model_type == "timm_wrapper":
            # timm's own push leaves num_classes in model_args, which would then be passed twice
            model_args = getattr(config, "model_args", None) or {}
            model_args = {key: value for key, value in model_args.items() if key != "num_classes"}
            config.model_args = {**model_args, **_pooling(config)} or None
    return config


def timm_settings(config: "PreTrainedConfig") -> Mapping[str, Any]:
    """Return the `pretrained_cfg` of a timm checkpoint; empty for any other model, whose entry means nothing."""
    return getattr(config, "pretrained_cfg", None) or {} if config.model_type == "timm_wrapper" else {}


def _read_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a library reads; transformers only keeps the others, such as notes of the author.

    Of types that transformers does not know, there are none: their own code reads them, which the user must trust.
    """
    from transformers import CONFIG_MAPPING

    kind = content.get("model_type", "timm_wrapper")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        return {}
    config_class = CONFIG_MAPPING[kind]
    names = {*dir(config_class), *inspect.signature(config_class).parameters, *config_class.attribute_map, *_OF_TIMM}
    return {key: value for key, value in content.items() if key in names}


def _pooling(config: "PreTrainedConfig") -> dict[str, str]:
    """Return the pooling of published weights without a classifier, in place of that of their config."""
    from hf_tl.backbones.libraries.pooling import pooling_args
    from hf_tl.backbones.weights.pretraining import weights_of

    tag = timm_settings(config).get("tag")
    return pooling_args(weights_of(config.architecture, tag), config.num_labels)


def model_from_config(config: "PreTrainedConfig", trust_remote_code: bool = False) -> "PreTrainedModel":
    """Build the image classifier of a config, in float32, with random weights.

    Raises:
        ModelError: A required package is missing, or the config is not that of an image classifier.
    """
    from transformers import AutoModelForImageClassification

    name = str(config.name_or_path)
    with settings_of(name, "config.json"), within_limits(name):
        try:
            return AutoModelForImageClassification.from_config(
                config, dtype=torch.float32, trust_remote_code=trust_remote_code
            )
        except (ImportError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(
                f"transformers cannot build an image classifier of type {config.model_type}: {reason}"
            ) from error
