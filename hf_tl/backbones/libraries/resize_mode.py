"""Resize mode of a model, written where plain transformers and timm read it."""

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hf_tl.errors import ModelError
from hf_tl.phase import ResizeMode
from hf_tl.views.framing import resize_mode_of

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel, TimmWrapperConfig

    from hf_tl.backbones.libraries.preprocessing import Preprocessing

CROP_MODES: dict[ResizeMode, str] = {"crop": "center", "squash": "squash", "pad": "border"}
"""Names of timm for the resize modes."""


def with_resize_mode(model: "PreTrainedModel", preprocessing: "Preprocessing", mode: ResizeMode) -> "Preprocessing":
    """Return the preprocessing with another resize mode, and set it where the model is saved with it.

    Raises:
        ModelError: The image processor cannot express it, so no plain pipeline would do the same.
    """
    if model.config.model_type == "timm_wrapper":
        from hf_tl.backbones.libraries.timm import timm_preprocessing

        _set_timm_mode(model.config, mode)
        changed = timm_preprocessing(model.config)
    else:
        from hf_tl.backbones.libraries.processors import processor_preprocessing

        changed = processor_preprocessing(_resizing_processor(preprocessing, mode))
    if changed.input_size != preprocessing.input_size or resize_mode_of(changed.evaluation, changed.input_size) != mode:
        name = type(preprocessing.processor or preprocessing.evaluation).__name__
        raise ModelError(
            f"--resize_mode {mode}: {name}, the image processor of the checkpoint, cannot do it, and a plain pipeline "
            "would see other images than the training; choose another mode or another model"
        )
    return replace(changed, resize_mode=mode)


def _set_timm_mode(config: "TimmWrapperConfig", mode: ResizeMode) -> None:
    """Write a resize mode into a config, where timm and transformers' `TimmWrapperImageProcessor` read it."""
    whole = {} if mode == "crop" else {"crop_pct": 1.0}
    config.pretrained_cfg = {**config.pretrained_cfg, "crop_mode": CROP_MODES[mode], **whole}


def _resizing_processor(preprocessing: "Preprocessing", mode: ResizeMode) -> "BaseImageProcessor":
    """Return a copy of a checkpoint's image processor that crops, squashes or pads; not every class can."""
    processor = copy.deepcopy(preprocessing.processor)
    assert processor is not None, "a checkpoint of transformers has one"
    _, height, width = preprocessing.input_size
    whole = {"height": height, "width": width}
    settings: dict[str, dict[str, Any]] = {
        "crop": {"size": {"shortest_edge": min(height, width)}, "do_center_crop": True, "crop_size": whole},
        "squash": {"size": whole, "do_center_crop": False},
        "pad": {
            "size": {"max_height": height, "max_width": width},
            "do_center_crop": False,
            "do_pad": True,
            "pad_size": whole,
        },
    }
    return type(processor).from_dict({**processor.to_dict(), "do_resize": True, **settings[mode]})
