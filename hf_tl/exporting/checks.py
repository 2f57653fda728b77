"""Verification of an export: its file, run by its own runtime on real images, reproduces the model's logits."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_tl.abstention.detector import Detector
from hf_tl.abstention.head_input import HeadReader
from hf_tl.backbones.stages.modules import inference
from hf_tl.errors import ModelError, SaveError, name_some
from hf_tl.evaluation.metrics import ProblemType, problem_type_of
from hf_tl.exporting.formats import explained
from hf_tl.exporting.images import BATCH, cut
from hf_tl.publish.save import TOLERANCE
from hf_tl.runtime.preprocessing import FILE, apply
from hf_tl.runtime.runners import Runner

if TYPE_CHECKING:
    from PIL import Image
    from transformers import PreTrainedModel

BATCH_SIZES = (1, 3, BATCH)
SCORE_TOLERANCE = 1e-3
"""Largest difference of out-of-distribution scores, relative to the largest; a distance takes the root of rounding."""
LEVELS = 1.0
"""Maximum mean pixel difference, in levels of 0 to 255, between the resizing of two libraries (observed: below 0.4 on
noise; shifting a photo by one pixel changes several levels)."""


def model_logits(model: "PreTrainedModel", pixels: np.ndarray) -> np.ndarray:
    """Compute the logits of the model itself, in batches."""
    with inference(model):
        batches = [model(pixel_values=torch.from_numpy(batch)).logits for batch in cut(pixels, [BATCH])]
    return torch.cat(batches).float().numpy()


def verify(run: Runner, model: "PreTrainedModel", pixels: np.ndarray, name: str) -> dict[str, Any]:
    """Compare an exported file with its model on real images, in batches of different sizes.

    Args:
        run: Exported file in its own runtime.
        model: Model on the CPU.
        pixels: Images of shape (images, channels, height, width).
        name: Name of the format.

    Returns:
        `batch_sizes` and `differences`, for `export.json`.

    Raises:
        SaveError: The file rejects other batch sizes, or its logits differ by more than float32 rounding.
    """
    if len(pixels) < sum(BATCH_SIZES):
        pixels = np.resize(pixels, (sum(BATCH_SIZES), *pixels.shape[1:]))  # repeats the images
    expected = model_logits(model, pixels)
    sizes = ", ".join(map(str, BATCH_SIZES))
    with explained(f"the {name} file does not run on batches of {sizes} images", "try another --format"):
        logits = np.concatenate([run(batch) for batch in cut(pixels, BATCH_SIZES)])
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    differences = compare(problem_type_of(model), logits, expected)
    if not differences["logits"] <= allowed:
        raise SaveError(
            f"the {name} file must give the logits of the model, up to {allowed:.2g} of rounding in float32; found a "
            f"difference of {differences['logits']:.2g}: nothing was exported, try another --format"
        )
    return {"batch_sizes": list(BATCH_SIZES), "differences": differences}


def verify_scores(run: Runner, model: "PreTrainedModel", detector: Detector, pixels: np.ndarray) -> float:
    """Compare the out-of-distribution scores of an exported file with those of its model.

    Returns:
        Largest absolute difference.

    Raises:
        SaveError: They differ by more than float32 rounding.
    """
    read = HeadReader(model)
    outputs = [[tensor.numpy() for tensor in read(torch.from_numpy(batch))] for batch in cut(pixels, [BATCH])]
    expected = np.concatenate([detector.scores(*each) for each in outputs])
    scores = np.concatenate([run.outputs(batch)[1] for batch in cut(pixels, [BATCH])])
    difference, allowed = float(np.abs(scores - expected).max()), SCORE_TOLERANCE * max(1.0, np.abs(expected).max())
    if not difference <= allowed:
        raise SaveError(
            f"expected the out-of-distribution scores of the model, up to {allowed:.2g} of rounding, found a "
            f"difference of {difference:.2g}: nothing was exported, try another --format"
        )
    return difference


def compare(problem: ProblemType, logits: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Compute the largest absolute differences of logits and probabilities, and the share of equal predictions."""
    probabilities = [problem.probabilities(torch.from_numpy(array)).numpy() for array in (logits, expected)]
    return {
        "logits": float(np.abs(logits - expected).max()),
        "probabilities": float(np.abs(probabilities[0] - probabilities[1]).max()),
        "same_prediction": float(np.mean(problem.decide(logits) == problem.decide(expected))),
    }


def verify_steps(
    steps: Mapping[str, Any],
    images: Sequence["Image.Image"],
    pixels: np.ndarray,
    run: Runner,
    model: "PreTrainedModel",
) -> dict[str, Any]:
    """Verify the whole path without hf_tl: the written steps with Pillow and NumPy, then the exported file.

    Args:
        steps: Preprocessing steps; see `hf_tl.exporting.preprocessing`.
        images: Sample images.
        pixels: Output of the model's own preprocessing for these images.
        run: Exported file in its own runtime.
        model: Model on the CPU.

    Returns:
        Pixel differences in levels of 0 to 255, and the differences of the model's outputs, for `export.json`.

    Raises:
        ModelError: The steps produce other pixels.
    """
    arrays = [apply(steps, image) for image in images]
    if other := {array.shape for array in arrays} - {pixels.shape[1:]}:
        raise ModelError(f"{_EXPECTED}, found images of {name_some(sorted(other))} for {pixels.shape[1:]}; {_ADVICE}")
    made = np.stack(arrays)
    scale = np.abs(steps["std"])[:, None, None] / steps["rescale_factor"]
    levels = np.abs(made - pixels) * scale
    if not (worst := levels.mean(axis=(1, 2, 3)).max()) <= LEVELS:
        raise ModelError(f"{_EXPECTED}, found a mean difference of {worst:.1f} levels of 255; {_ADVICE}")
    logits = np.concatenate([run(batch) for batch in cut(made, [BATCH])])
    differences = compare(problem_type_of(model), logits, model_logits(model, pixels))
    return {"pixel_levels": {"mean": float(levels.mean()), "largest": float(levels.max())}, "differences": differences}


_EXPECTED = f"expected that resize, crop, rescale and normalize ({FILE}) make the pixels of the model's preprocessing"
_ADVICE = "its preprocessing has steps that the file cannot describe: choose another backbone"
