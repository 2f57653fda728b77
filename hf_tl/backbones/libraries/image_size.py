"""Change of the image size that a model is built for: config and position embeddings."""

import contextlib
import copy
from typing import TYPE_CHECKING

import torch

from hf_tl.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def write_image_size(config: "PreTrainedConfig", image_size: int) -> bool:
    """Write an image size into a config, in place; return whether the config has one."""
    vision = getattr(config, "vision_config", config)
    if not hasattr(vision, "image_size"):
        return False
    vision.image_size = [image_size] * 2 if isinstance(vision.image_size, list | tuple) else image_size
    return True


def with_image_size(model: "PreTrainedModel", image_size: int) -> "PreTrainedModel":
    """Return the model for another image size; its own method interpolates position embeddings.

    Raises:
        ModelError: Other weights depend on the image size.
    """
    if model.config.model_type == "timm_wrapper":
        from hf_tl.backbones.libraries.timm import set_image_size

        set_image_size(model, image_size)
        return model
    config = copy.deepcopy(model.config)
    if not write_image_size(config, image_size):
        return model
    resized = type(model)(config)
    weights = model.state_dict()
    for name, expected in resized.state_dict().items():
        if weights[name].shape != expected.shape:
            weights[name] = _interpolate(model, name, expected, image_size)
    resized.load_state_dict(weights)
    return resized


def _interpolate(model: "PreTrainedModel", name: str, expected: torch.Tensor, image_size: int) -> torch.Tensor:
    """Interpolate the position embeddings `name` with `interpolate_pos_encoding` of the module that holds them.

    The method gets NaN tokens, which matter only for their shape. If it uses their values, the result is not finite and
    is rejected.
    """
    modules, path, width = dict(model.named_modules()), name, expected.shape[-1]
    while path and not hasattr(modules.get(path), "interpolate_pos_encoding"):
        path = path.rpartition(".")[0]
    tokens = result = expected.new_full((1, expected.numel() // width, width), torch.nan)
    if path:
        with contextlib.suppress(RuntimeError, TypeError):  # the method has another signature
            result = modules[path].interpolate_pos_encoding(tokens, image_size, image_size)
    if result.numel() != expected.numel() or not result.isfinite().all():
        raise ModelError(
            f"{type(model).__name__} does not support --image_size {image_size}: the shape of {name} depends on the "
            "size; omit it, or choose another model"
        )
    return result.detach().reshape(expected.shape)
