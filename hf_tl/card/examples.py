"""Images of the test split in a card, which only a user can allow: the mistakes, and where the model looked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from hf_tl.errors import ModelError
from hf_tl.reporting.canvas import INK, MUTED, new_figure, plain, write

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_tl.data.datasets import ImageData
    from hf_tl.data.images import ImageTransform

IN_A_ROW = 2
PANEL_HEIGHT = 1.5


@dataclass(frozen=True)
class Example:
    """An image as the model sees it, and where it saw the classes that it was to choose from."""

    pixels: np.ndarray
    """(height, width, 3), from 0 to 1."""
    maps: Mapping[str, np.ndarray]
    """By `predicted` and `true`: where that class was seen, (height, width), from 0 to 1; none where it is unknown."""


def collect_examples(
    model: "PreTrainedModel", transform: "ImageTransform", data: "ImageData", record: Mapping[str, Any]
) -> list[Example]:
    """Take the images of the recorded mistakes from the test split, and map where the model looked, if it can be told.

    Args:
        model: the trained model.
        transform: its evaluation transform, for the data's columns.
        data: what it was measured on.
        record: what `run.json` holds.
    """
    import torch
    from transformers.utils import logging

    from hf_tl.data.scaling import colors_of, measure_scaling
    from hf_tl.evaluation.activation_maps import class_activation_maps
    from hf_tl.views.stream_views import viewed

    mistakes = record["evaluation"]["splits"]["test"]["mistakes"]
    if not mistakes:
        return []
    images, places = viewed(data.splits["test"], transform), [mistake["image"] for mistake in mistakes]
    seen = {place: images[place]["pixel_values"] for place in sorted(places)}  # a stream is read in its order
    pixel_values = torch.stack([seen[place] for place in places]).to(model.device)
    size = pixel_values.shape
    pixels = colors_of(measure_scaling(transform.pipeline, (size[1], size[2], size[3])), pixel_values.cpu().numpy())
    maps: dict[str, np.ndarray] = {}
    try:
        for role, other in (("predicted", "true"), ("true", "predicted")):
            # where one is missing (any number of classes an image), the other stands in, and is left out below
            classes = [mistake[other] if mistake[role] is None else mistake[role] for mistake in mistakes]
            maps[role] = class_activation_maps(model, pixel_values, classes).numpy()
    except ModelError as error:
        logging.get_logger(__name__).warning(f"The card shows its images without maps: {error}")
    return [
        Example(pixels[index], {role: maps[role][index] for role in maps if mistake[role] is not None})
        for index, mistake in enumerate(mistakes)
    ]


def plot_examples(record: Mapping[str, Any], examples: Sequence[Example], path: str | Path) -> None:
    """Draw the mistakes: each image, where the predicted class was seen in it, and where the true one.

    Args:
        record: what `run.json` holds.
        examples: those of its mistakes.
        path: the PNG to write.
    """
    mistakes, labels = record["evaluation"]["splits"]["test"]["mistakes"], record["data"]["labels"]
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
            _show(axes, example.pixels.mean(axis=2), f"seen: {plain(labels[mistake[role]], 12)}")
            axes.imshow(seen, cmap="magma", alpha=0.6, vmin=0, vmax=1)
    write(figure, path)


def _caption(mistake: Mapping[str, Any], labels: Sequence[str]) -> str:
    true, predicted = (
        None if mistake[role] is None else plain(labels[mistake[role]], 18) for role in ("true", "predicted")
    )
    sure = f"{100 * mistake['probability']:.0f} %"
    if true is None:
        return f"{predicted} seen, not there ({sure})"
    return f"{true} overlooked ({sure})" if predicted is None else f"{true} taken for {predicted} ({sure})"


def _show(axes: Axes, pixels: np.ndarray, title: str) -> None:
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, color=MUTED, fontsize=8, parse_math=False, pad=3)
    axes.set_axis_off()
