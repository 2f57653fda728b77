"""Image processors of transformers, and the preprocessing that they define."""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from hf_tl.backbones.libraries.preprocessing import Preprocessing
from hf_tl.backbones.weights.limits import check_sides, settings_of
from hf_tl.backbones.weights.repository import check_needs_no_code
from hf_tl.errors import ModelError, name_some
from hf_tl.storage.writing import library_writing

if TYPE_CHECKING:
    from transformers import BaseImageProcessor


@dataclass(frozen=True)
class ProcessorPipeline:
    """transformers image processor as a transform of one image."""

    processor: "BaseImageProcessor"

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Convert an RGB image to a tensor of shape (channels, height, width)."""
        return self.processor(image, return_tensors="pt")["pixel_values"][0]

    def without_resizing(self) -> "ProcessorPipeline":
        """Return a copy without the steps that change the size of an image."""
        processor = copy.deepcopy(self.processor)
        for step in ("do_resize", "do_center_crop", "do_pad"):
            if getattr(processor, step, None):
                setattr(processor, step, False)
        return ProcessorPipeline(processor)

    def __repr__(self) -> str:
        return " ".join(str(self.processor.to_dict()).split())


def processor_preprocessing(processor: "BaseImageProcessor") -> Preprocessing:
    """Read the preprocessing from a transformers image processor.

    Raises:
        ModelError: The processor's output is not `pixel_values` alone, or not a batch of images.
    """
    evaluation = ProcessorPipeline(processor)
    inputs = processor(Image.new("RGB", (64, 64)), return_tensors="pt")
    pixel_values = inputs.get("pixel_values")
    if set(inputs) != {"pixel_values"} or pixel_values.ndim != 4 or not pixel_values.is_floating_point():
        shape = "" if pixel_values is None else f" of the shape {tuple(pixel_values.shape)}, {pixel_values.dtype}"
        raise ModelError(
            "expected an image processor that gives pixel_values of the shape (images, channels, height, width), "
            f"float32; found {type(processor).__name__}, which gives {name_some(inputs)}{shape}; choose another model"
        )
    channels, height, width = pixel_values.shape[1:]
    settings: dict[str, Any] = processor.to_dict()
    resample = settings.get("resample")
    return Preprocessing(
        input_size=(channels, height, width),
        interpolation=Image.Resampling(resample).name.lower() if resample is not None else "bilinear",
        evaluation=evaluation,
        processor=processor,
        unresized=evaluation.without_resizing(),
        evaluation_settings={key: settings[key] for key in ("size", "crop_size", "crop_pct") if settings.get(key)},
    )


def load_processor(
    name: str, image_size: int | None = None, revision: str | None = None, trust_remote_code: bool = False
) -> "BaseImageProcessor":
    """Load the image processor of a checkpoint, optionally for another image size.

    Raises:
        ModelError: The checkpoint has none.
    """
    from transformers import AutoImageProcessor

    with settings_of(name, "preprocessor_config.json"):
        try:
            with library_writing():
                processor = AutoImageProcessor.from_pretrained(
                    name, revision=revision, trust_remote_code=trust_remote_code
                )
        except (OSError, ValueError) as error:
            check_needs_no_code(name, error)
            raise ModelError(f"{name!r} has no image processor (preprocessor_config.json): {error}") from error
        _check_sizes(processor.to_dict(), name)
    if image_size is not None:
        square = {"height": image_size, "width": image_size}
        processor.size = {"shortest_edge": image_size} if "shortest_edge" in dict(processor.size) else square
        if getattr(processor, "crop_size", None):
            processor.crop_size = square
    return processor


def _check_sizes(settings: dict[str, Any], name: str) -> None:
    """Check the sizes to which a processor resizes, crops and pads."""
    sizes = [size for key in ("size", "crop_size", "pad_size") if (size := settings.get(key)) is not None]
    check_sides(sizes, name)
    if crop := settings.get("crop_pct"):
        check_sides([side / crop for size in sizes for side in dict(size).values() if side], name)
