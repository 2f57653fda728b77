"""Description of a model's preprocessing as plain values, which `hf_tl.runtime.preprocessing` applies."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_tl.backbones.libraries.processors import ProcessorPipeline
from hf_tl.errors import ModelError, name_some

if TYPE_CHECKING:
    from hf_tl.backbones.libraries.preprocessing import Preprocessing

SCHEMA_VERSION = 1
CONVNEXT_UNCROPPED = 384
"""Size in pixels from which ConvNeXt's image processor resizes to that size without cropping."""


def describe(preprocessing: "Preprocessing") -> dict[str, Any]:
    """Describe the evaluation transform of a model as plain values.

    Raises:
        ModelError: The transform contains other steps.
    """
    channels, height, width = preprocessing.input_size
    if (scaling := preprocessing.scaling) is None:
        raise _unsupported(preprocessing, "a map of pixels to numbers that is not linear in each channel")
    is_processor = isinstance(preprocessing.evaluation, ProcessorPipeline)
    steps = _transformers_sizes(preprocessing) if is_processor else _timm_sizes(preprocessing)
    _check_sizes(steps, preprocessing)
    ends = (np.array([[0.0], [1.0]]) - scaling.mean) / scaling.std
    return {
        "schema_version": SCHEMA_VERSION,
        "mode": "L" if channels == 1 else "RGB",
        "background": "white",
        "channel_order": scaling.channel_order,
        **steps,
        "rescale_factor": 1 / 255,
        "mean": list(scaling.mean),
        "std": list(scaling.std),
        "layout": "NCHW",
        "dtype": "float32",
        "size": {"height": height, "width": width},
        "value_range": [float(ends.min()), float(ends.max())],
    }


def _timm_sizes(preprocessing: "Preprocessing") -> dict[str, Any]:
    """Read the sizes from timm's evaluation transform (`timm.data.create_transform`)."""
    from timm.data.transforms import CenterCropOrPad, MaybeToTensor, ResizeKeepRatio
    from torchvision import transforms

    steps: Sequence[Any] = getattr(preprocessing.evaluation, "transforms", ())
    is_padded = tuple(map(type, steps)) == (ResizeKeepRatio, CenterCropOrPad, MaybeToTensor, transforms.Normalize)
    if is_padded and tuple(steps[0].size) == tuple(steps[1].size):
        return _timm_padding(*steps)
    expected = (transforms.Resize, transforms.CenterCrop, MaybeToTensor, transforms.Normalize)
    if tuple(map(type, steps)) != expected:
        raise _unsupported(preprocessing, f"the steps {name_some(type(step).__name__ for step in steps)}")
    resize, crop, *_ = steps
    size = resize.size
    return {
        "resize": {"shortest_edge": size} if isinstance(size, int) else {"height": size[0], "width": size[1]},
        "interpolation": resize.interpolation.value,
        "center_crop": {"height": crop.size[0], "width": crop.size[1], "offset": "round"},
    }


def _timm_padding(resize: Any, pad: Any, _: Any, normalize: Any) -> dict[str, Any]:
    fill, mean, std = (np.asarray(values, dtype=np.float64) for values in (pad.fill, normalize.mean, normalize.std))
    height, width = resize.size
    return {
        "resize": {"max_height": height, "max_width": width, "rounding": "round"},
        "interpolation": resize.interpolation.value,
        "center_crop": None,
        "pad": {
            "height": pad.size[0],
            "width": pad.size[1],
            "position": "center",
            "value": ((fill / 255 - mean) / std).tolist(),
        },
    }


def _transformers_sizes(preprocessing: "Preprocessing") -> dict[str, Any]:
    """Read the sizes from a transformers image processor's settings, whose meaning differs by class."""
    processor = preprocessing.processor
    settings: dict[str, Any] = processor.to_dict() if processor is not None else {}
    size = dict(settings["size"]) if settings.get("do_resize") else None
    crop = dict(settings["crop_size"]) if settings.get("do_center_crop") else None
    match str(settings.get("image_processor_type")).removesuffix("Fast"):  # of transformers 5.0
        case "ConvNextImageProcessor":
            size, crop = _convnext_sizes(size["shortest_edge"], settings["crop_pct"]) if size else (None, crop)
        case "LevitImageProcessor":
            size = {"shortest_edge": int(256 / 224 * size["shortest_edge"])} if size else None
        case "PoolFormerImageProcessor":
            size = {"shortest_edge": int(next(iter(size.values())) / settings["crop_pct"])} if size else None
    pad = None
    if size is not None and settings.get("do_pad") and set(size) == {"max_height", "max_width"}:
        size["rounding"] = "truncate"
        pad = {**settings["pad_size"], "position": "top left", "value": [0.0] * preprocessing.input_size[0]}
    return {
        "resize": size,
        "interpolation": preprocessing.interpolation,
        "center_crop": None if crop is None else {**crop, "offset": "truncate"},
        **({} if pad is None else {"pad": pad}),
    }


def _convnext_sizes(size: int, crop_pct: float) -> tuple[dict[str, int], dict[str, int] | None]:
    square = {"height": size, "width": size}
    return (square, None) if size >= CONVNEXT_UNCROPPED else ({"shortest_edge": int(size / crop_pct)}, square)


def _check_sizes(steps: Mapping[str, Any], preprocessing: "Preprocessing") -> None:
    """Check that the steps can express the sizes."""
    known = {
        "resize": ({"shortest_edge"}, {"height", "width"}, {"max_height", "max_width", "rounding"}),
        "center_crop": ({"height", "width", "offset"},),
    }
    for name, kinds in known.items():
        if steps[name] is not None and set(steps[name]) not in kinds:
            raise _unsupported(preprocessing, f"a {name} of {name_some(sorted(steps[name]))}")


def _unsupported(preprocessing: "Preprocessing", steps: str) -> ModelError:
    name = type(preprocessing.processor or preprocessing.evaluation).__name__
    return ModelError(
        "expected a preprocessing that resizes (to the shortest edge, or to height and width), crops the center, "
        f"rescales and normalizes; found {steps} in {name}: choose another backbone"
    )
