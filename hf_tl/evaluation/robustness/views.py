"""Views of images under all corruptions, as inputs of a network."""

from dataclasses import dataclass, replace

import torch
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from hf_tl.data.decoding.images import ImageTransform
from hf_tl.data.decoding.scaling import Pipeline, PixelScaling
from hf_tl.errors import ModelError
from hf_tl.evaluation.robustness.corruptions import corrupt


@dataclass(frozen=True)
class CorruptedPipeline:
    """Transform of an image to a tensor of shape (variants, channels, height, width): one input for each corruption."""

    evaluation: Pipeline
    scaling: PixelScaling

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Resize and crop an image as for evaluation, and corrupt the result."""
        seen = to_pil_image(self.scaling.levels(self.evaluation(image)))
        return torch.stack([self.scaling(corrupted) for corrupted in corrupt(seen)])


def corrupted(transform: ImageTransform, scaling: PixelScaling | None) -> ImageTransform:
    """Return an evaluation transform with its images under all corruptions.

    Args:
        transform: Evaluation transform.
        scaling: Its map from pixel levels to network inputs; None if it is not linear in each channel.

    Raises:
        ModelError: The map is not linear, so the pixels that the network sees are unknown.
    """
    return replace(transform, pipeline=CorruptedPipeline(transform.pipeline, check_corruptible(scaling)))


def check_corruptible(scaling: PixelScaling | None) -> PixelScaling:
    """Return the map from pixel levels to network inputs, if corruptions can be applied to the inputs.

    Raises:
        ModelError: The map is not linear in each channel.
    """
    if scaling is None:
        raise ModelError(
            "--corruptions changes the pixels that the network sees, which needs a preprocessing that maps the levels "
            "of each channel linearly; that of this model does not: leave out --corruptions"
        )
    return scaling
