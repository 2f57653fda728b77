"""Preprocessing of an exported model with Pillow and NumPy alone.

The steps, in order: apply the EXIF orientation, composite transparent pixels on `background`, scale gray of more than 8
bits to 8, convert to `mode`; `resize`, `center_crop`, reorder the channels to `channel_order`, multiply by
`rescale_factor`, subtract `mean`, divide by `std`, `pad`, move the channels first.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from hf_tl.data.decoding.colors import to_rgb

FILE = "preprocessing.json"


def apply(steps: Mapping[str, Any], image: Image.Image) -> np.ndarray:
    """Apply the steps with Pillow and NumPy: an image to a float32 array (channels, height, width)."""
    image = to_rgb(image).convert(steps["mode"])
    image = _resize(image, steps["resize"], Image.Resampling[steps["interpolation"].upper()])
    if (crop := steps["center_crop"]) is not None:
        image = _center_crop(image, crop)
    pixels: np.ndarray = np.asarray(image, dtype=np.float32).reshape(image.height, image.width, -1)
    pixels = pixels[..., [steps["mode"].index(channel) for channel in steps["channel_order"]]]
    pixels = pixels * np.float32(steps["rescale_factor"])
    pixels = (pixels - np.array(steps["mean"], np.float32)) / np.array(steps["std"], np.float32)
    if (pad := steps.get("pad")) is not None:
        pixels = _pad(pixels, pad)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _resize(image: Image.Image, size: Mapping[str, Any] | None, interpolation: Image.Resampling) -> Image.Image:
    if size is None:
        return image
    if "max_width" in size:
        rounded = round if size["rounding"] == "round" else int
        scale = min(size["max_width"] / image.width, size["max_height"] / image.height)
        return image.resize((rounded(image.width * scale), rounded(image.height * scale)), interpolation)
    if "shortest_edge" not in size:
        return image.resize((size["width"], size["height"]), interpolation)
    width, height = (size["shortest_edge"] * side // min(image.size) for side in image.size)
    return image.resize((width, height), interpolation)


def _center_crop(image: Image.Image, crop: Mapping[str, Any]) -> Image.Image:
    sides = zip(image.size, (crop["width"], crop["height"]), strict=True)
    rounded = round if crop["offset"] == "round" else int
    left, top = (rounded((whole - part) / 2) for whole, part in sides)
    return image.crop((left, top, left + crop["width"], top + crop["height"]))


def _pad(pixels: np.ndarray, pad: Mapping[str, Any]) -> np.ndarray:
    """Place an image (height, width, channels) at the top left or in the center of a larger one."""
    height, width, channels = pixels.shape
    padded = np.empty((pad["height"], pad["width"], channels), np.float32)
    padded[:] = np.array(pad["value"], np.float32)
    is_centered = pad["position"] == "center"
    top, left = ((pad["height"] - height) // 2, (pad["width"] - width) // 2) if is_centered else (0, 0)
    padded[top : top + height, left : left + width] = pixels
    return padded


def probabilities(scores: str, logits: np.ndarray) -> np.ndarray:
    """Convert logits (images, classes) to the probability of each class, in double precision.

    Args:
        scores: `softmax`, or `sigmoid` for models with any number of classes per image.
        logits: Logits of the network.

    >>> probabilities("softmax", np.array([[0.0, 0.0, -1000.0]]))
    array([[0.5, 0.5, 0. ]])
    """
    values = np.asarray(logits, np.float64)
    if scores == "sigmoid":
        return 0.5 * (1 + np.tanh(values / 2))
    weights = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
