"""A model behind a page: what it says of an image, and where in the image it saw that.

Plain transformers loads it, as anyone would, so the page needs neither hf_tl's training nor the data.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from PIL import Image

from hf_tl.data.colors import to_rgb
from hf_tl.data.images import decode
from hf_tl.data.scaling import PixelScaling, colors_of, measure_scaling
from hf_tl.errors import ModelError
from hf_tl.evaluation.activation_maps import class_activation_maps
from hf_tl.evaluation.metrics import problem_type_of
from hf_tl.reporting.markdown import one_line

SMALLEST_MAP = 448
"""Pixels of the shorter side; the network's own input may be too small to be looked at."""
MAP_OPACITY = 0.6
MAGMA = ((0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191))
"""Colours from cold to hot: five of matplotlib's magma, which tell high from low in print and to the colour-blind."""


class DemoModel:
    """An image classifier that answers one request at a time.

    Args:
        name: a saved model's folder, or a Hub id.
        revision: branch, tag or commit on the Hub.

    Raises:
        ModelError: there is no such classifier, or it cannot be loaded without running its own code.
    """

    def __init__(self, name: str, revision: str | None = None) -> None:
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        import hf_tl.classics  # noqa: F401  a checkpoint of theirs needs them registered with timm

        try:
            self.processor = AutoImageProcessor.from_pretrained(name, revision=revision)
            model = AutoModelForImageClassification.from_pretrained(name, revision=revision, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"no image classifier {name!r}: {error}\nname a trained model's folder, or a Hub id"
            ) from error
        self.model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self.problem = problem_type_of(self.model)
        self.labels = distinct([one_line(model.config.id2label[index]) for index in range(model.config.num_labels)])
        self._one_at_a_time = Lock()

    def rank(self, image: Image.Image) -> list[tuple[int, float]]:
        """Give the index and the probability of each class, the most probable first."""
        with self._one_at_a_time, torch.inference_mode():
            logits = self.model(pixel_values=self._pixel_values(image)).logits
        probabilities = self.problem.probabilities(logits)[0]
        return [(index, probabilities[index].item()) for index in probabilities.argsort(descending=True).tolist()]

    def look(self, image: Image.Image, index: int) -> Image.Image | None:
        """Show what the network was given of the image, hot where it saw a class; None where nothing speaks for it.

        Raises:
            ModelError: it cannot be told where a network of this kind looks.
        """
        pixel_values = self._pixel_values(image)
        with self._one_at_a_time:
            found = class_activation_maps(self.model, pixel_values, [index])[0].numpy()
        return blend(self._colors(pixel_values[0].cpu().numpy()), found) if found.any() else None

    def why_it_cannot_look(self) -> str | None:
        """Tell why it cannot be told where this network looks; None where it can."""
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
        """The input's channels, which only timm's processor states."""
        return (getattr(self.processor, "data_config", None) or {"input_size": (3,)})["input_size"][0]

    @cached_property
    def _scaling(self) -> PixelScaling | None:
        channels, height, width = self._transform(Image.new("RGB", (64, 64))).shape
        return measure_scaling(self._transform, (channels, height, width))

    def _colors(self, pixels: np.ndarray) -> np.ndarray:
        """Turn a model's numbers (channels, height, width) back into colors (height, width, 3) from 0 to 1."""
        return colors_of(self._scaling, pixels)


def read_image(file: str | Path) -> Image.Image:
    """Read an image that somebody uploaded, as training reads its own.

    Raises:
        DataError: it is none, is damaged, or is too large; the message does not tell where it lies.
    """
    return to_rgb(decode(Path(file).read_bytes(), "the file"))


def distinct(labels: Sequence[str]) -> list[str]:
    """Number the labels that several classes have (ImageNet has two cranes).

    >>> distinct(["crane", "owl", "crane"])
    ['crane (class 0)', 'owl', 'crane (class 2)']
    """
    counts = Counter(labels)
    return [f"{label} (class {index})" if counts[label] > 1 else label for index, label in enumerate(labels)]


def blend(colours: np.ndarray, heat: np.ndarray) -> Image.Image:
    """Lay a map over an image in gray, as the card's figures do.

    Args:
        colours: (height, width, 3), from 0 to 1.
        heat: (height, width), from 0 to 1.
    """
    places = np.linspace(0, 1, len(MAGMA))
    hot = np.stack([np.interp(heat, places, [colour[channel] for colour in MAGMA]) for channel in range(3)], axis=2)
    gray = 255 * colours.mean(axis=2, keepdims=True)
    image = Image.fromarray(np.rint(MAP_OPACITY * hot + (1 - MAP_OPACITY) * gray).astype(np.uint8))
    scale = max(1.0, SMALLEST_MAP / min(image.size))
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
