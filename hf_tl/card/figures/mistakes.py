"""Test images in a card, with the user's permission: the most confident mistakes, with activation maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from hf_tl.errors import ModelError
from hf_tl.record import RunRecord
from hf_tl.reporting.canvas import INK, MUTED, new_figure, plain, write
from hf_tl.reporting.fonts import drawn_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_tl.data.datasets import ImageData
    from hf_tl.data.decoding.images import ImageTransform

IN_A_ROW = 2
PANEL_HEIGHT = 1.5


@dataclass(frozen=True)
class Example:
    """Input image of the model, with activation maps of the predicted and the true class."""

    pixels: np.ndarray
    """Pixels of shape (height, width, 3), from 0 to 1."""
    maps: Mapping[str, np.ndarray]
    """Activation map of the `predicted` and the `true` class, (height, width), from 0 to 1; without unknown classes."""


def collect_examples(
    model: "PreTrainedModel", transform: "ImageTransform", data: "ImageData", record: RunRecord
) -> list[Example]:
    """Collect the images of the recorded mistakes from the test split, with activation maps where available.

    Args:
        model: Trained model.
        transform: Evaluation transform, for the data's columns.
        data: Data of the evaluation.
        record: Record of the run.
    """
    import torch
    from transformers.utils import logging

    from hf_tl.data.decoding.scaling import colors_of, measure_scaling
    from hf_tl.evaluation.activation_maps import class_activation_maps
    from hf_tl.views.stream_views import viewed

    mistakes = record.measured["test"].mistakes if "test" in record.measured else ()
    if not mistakes:
        return []
    images, places = viewed(data.splits["test"], transform), [mistake["image"] for mistake in mistakes]
    seen = {place: images[place]["pixel_values"] for place in sorted(places)}  # streams are read in order
    pixel_values = torch.stack([seen[place] for place in places]).to(model.device)
    size = pixel_values.shape
    pixels = colors_of(measure_scaling(transform.pipeline, (size[1], size[2], size[3])), pixel_values.cpu().numpy())
    maps: dict[str, np.ndarray] = {}
    try:
        for role, other in (("predicted", "true"), ("true", "predicted")):
            # the other class replaces a missing one (multi-label data), and is dropped below
            classes = [mistake[other] if mistake[role] is None else mistake[role] for mistake in mistakes]
            maps[role] = class_activation_maps(model, pixel_values, classes).numpy()
    except ModelError as error:
        logging.get_logger(__name__).warning(f"The card shows its images without maps: {error}")
    return [
        Example(pixels[index], {role: maps[role][index] for role in maps if mistake[role] is not None})
        for index, mistake in enumerate(mistakes)
    ]


def plot_examples(record: RunRecord, examples: Sequence[Example], path: str | Path) -> None:
    """Draw the mistakes: each image, with the activation maps of its predicted and its true class.

    Args:
        record: Record of the run.
        examples: The images of its mistakes.
        path: The PNG to write.
    """
    mistakes, labels = record.measured["test"].mistakes, drawn_names(record.data.labels)
    rows = -(-len(examples) // IN_A_ROW)
    figure = new_figure(PANEL_HEIGHT * rows + 0.2)
    groups = np.ravel(figure.subfigures(rows, IN_A_ROW, wspace=0.03, squeeze=False))
    for group, mistake, example in zip(groups, mistakes, examples, strict=False):
        group.suptitle(_caption(mistake, labels), color=INK, fontsize=9, parse_math=False)
        image, *others = group.subplots(1, 3)
        _show(image, example.pixels, "image")
        for axes in others:
            axes.set_axis_off()
        for axes, (role, seen) in zip(others, example.maps.items(), strict=False):
            _show(axes, example.pixels.mean(axis=2), f"map: {plain(labels[mistake[role]], 12)}")
            axes.imshow(seen, cmap="magma", alpha=0.6, vmin=0, vmax=1)
    write(figure, path)


def _caption(mistake: Mapping[str, Any], labels: Sequence[str]) -> str:
    true, predicted = (
        None if mistake[role] is None else plain(labels[mistake[role]], 18) for role in ("true", "predicted")
    )
    sure = f"{100 * mistake['probability']:.0f}%"
    if true is None:
        return f"{predicted} predicted, not present ({sure})"
    return f"{true} missed ({sure})" if predicted is None else f"{true} predicted as {predicted} ({sure})"


def _show(axes: Axes, pixels: np.ndarray, title: str) -> None:
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, color=MUTED, fontsize=8, parse_math=False, pad=3)
    axes.set_axis_off()
