"""Model of a web page: predictions for an image, with activation maps.

The model is loaded by plain transformers, so the page needs neither hf_tl's training code nor the data.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from threading import Lock

import numpy as np
import torch
from PIL import Image

from hf_tl.abstention.detector import Detector
from hf_tl.abstention.head_input import HeadReader
from hf_tl.backbones.libraries.class_names import class_names
from hf_tl.backbones.weights.repository import check_checkpoint, check_config
from hf_tl.data.decoding.scaling import PixelScaling, colors_of, measure_scaling
from hf_tl.errors import ModelError
from hf_tl.evaluation.activation_maps import class_activation_maps
from hf_tl.evaluation.metrics import problem_type_of
from hf_tl.reporting.console import quiet_transformers
from hf_tl.reporting.plain import one_line

SMALLEST_MAP = 448
"""Smallest shorter side of a map in pixels; the network's own input may be too small to view."""
MAP_OPACITY = 0.6
MAGMA = ((0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191))
"""Colors from cold to hot: five of matplotlib's magma, which are distinct in print and for color-blind readers."""


class DemoModel:
    """Image classifier that handles one request at a time.

    Args:
        name: Folder of a saved model, or a Hub id.
        revision: Branch, tag or commit on the Hub.
        detector: Detector of images unlike the training images, if the model was calibrated.

    Raises:
        ModelError: The classifier does not exist, needs code of its repository to load, or fails the safety checks of
            `hf_tl.backbones.weights.repository`.
    """

    def __init__(self, name: str, revision: str | None = None, detector: Detector | None = None) -> None:
        from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedConfig

        import hf_tl.classics  # noqa: F401  registers the classic architectures with timm

        check_checkpoint(name, revision)
        try:
            content, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
            check_config(content, name)
            self.processor = AutoImageProcessor.from_pretrained(name, revision=revision)
            with quiet_transformers():
                model = AutoModelForImageClassification.from_pretrained(name, revision=revision, use_safetensors=True)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(
                f"no image classifier {name!r}: {reason}; name a trained model's folder, or a Hub id"
            ) from error
        self.model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self.problem = problem_type_of(self.model)
        self.labels = distinct([one_line(name) for name in class_names(model.config)])
        self.detector, self._read_head = detector, HeadReader(self.model)
        self._one_at_a_time = Lock()

    def rank(self, image: Image.Image) -> list[tuple[int, float]]:
        """Return the index and the probability of each class, the most probable first."""
        with self._one_at_a_time, torch.inference_mode():
            logits = self.model(pixel_values=self._pixel_values(image)).logits
        probabilities = self.problem.probabilities(logits)[0]
        return [(index, probabilities[index].item()) for index in probabilities.argsort(descending=True).tolist()]

    def abstains(self, image: Image.Image) -> bool:
        """Return whether an image is unlike the training images; never without a detector."""
        if self.detector is None:
            return False
        with self._one_at_a_time:
            features, logits = self._read_head(self._pixel_values(image))
        scores = self.detector.scores(features.cpu().numpy(), logits.cpu().numpy())
        return not self.detector.limits.accepts(scores)[0]

    def look(self, image: Image.Image, index: int) -> Image.Image | None:
        """Draw the activation map of a class over the input image; None where no region supports the class.

        Raises:
            ModelError: There are no activation maps for this kind of network.
        """
        pixel_values = self._pixel_values(image)
        with self._one_at_a_time:
            heat = class_activation_maps(self.model, pixel_values, [index])[0].numpy()
        return blend(self._colors(pixel_values[0].cpu().numpy()), heat) if heat.any() else None

    def why_it_cannot_look(self) -> str | None:
        """Return the reason why this network has no activation maps; None where it has them."""
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        try:
            self.look(Image.fromarray(noise), 0)
        except ModelError as error:
            return str(error)
        return None

    def _pixel_values(self, image: Image.Image) -> torch.Tensor:
        return self._transform(image)[None].to(self.model.device)

    def _transform(self, image: Image.Image) -> torch.Tensor:
        image = image.convert("L") if self._channels == 1 else image
        return self.processor(image, return_tensors="pt")["pixel_values"][0]

    @property
    def _channels(self) -> int:
        """Return the number of input channels, which only timm's processor states."""
        return (getattr(self.processor, "data_config", None) or {"input_size": (3,)})["input_size"][0]

    @cached_property
    def _scaling(self) -> PixelScaling | None:
        channels, height, width = self._transform(Image.new("RGB", (64, 64))).shape
        return measure_scaling(self._transform, (channels, height, width))

    def _colors(self, pixels: np.ndarray) -> np.ndarray:
        """Turn pixel values (channels, height, width) back into colors (height, width, 3) from 0 to 1."""
        return colors_of(self._scaling, pixels)


def distinct(labels: Sequence[str]) -> list[str]:
    """Number the labels that several classes share (ImageNet has two cranes).

    >>> distinct(["crane", "owl", "crane"])
    ['crane (class 0)', 'owl', 'crane (class 2)']
    """
    counts = Counter(labels)
    return [f"{label} (class {index})" if counts[label] > 1 else label for index, label in enumerate(labels)]


def blend(colors: np.ndarray, heat: np.ndarray) -> Image.Image:
    """Draw a heat map over the image in gray, like the card's figures.

    Args:
        colors: Image of shape (height, width, 3), from 0 to 1.
        heat: Heat map of shape (height, width), from 0 to 1.
    """
    places = np.linspace(0, 1, len(MAGMA))
    hot = np.stack([np.interp(heat, places, [color[channel] for color in MAGMA]) for channel in range(3)], axis=2)
    gray = 255 * colors.mean(axis=2, keepdims=True)
    image = Image.fromarray(np.rint(MAP_OPACITY * hot + (1 - MAP_OPACITY) * gray).astype(np.uint8))
    scale = max(1.0, SMALLEST_MAP / min(image.size))
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
