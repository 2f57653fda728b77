"""The images that an export is verified, calibrated and measured on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_tl.data.datasets import ImageData, load_data
from hf_tl.data.pixels import pixel_batches
from hf_tl.errors import ConfigError
from hf_tl.publish.checks import RECORD_FILE, read_record

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_tl.data.images import ImageTransform

SPLITTING = ("validation_fraction", "test_fraction")
BATCH = 16


def record_of(model_name: str) -> dict[str, Any]:
    """Read the record of a model's training from its folder or the Hub; empty where it has none."""
    if Path(model_name).exists():
        return read_record(Path(model_name)) if (Path(model_name) / RECORD_FILE).is_file() else {}
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return json.loads(Path(hf_hub_download(model_name, RECORD_FILE)).read_text(encoding="utf-8"))
    except EntryNotFoundError:
        return {}


def load_images(
    record: Mapping[str, Any],
    dataset: str | None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> ImageData:
    """Load the images that the user names, else those that the model was trained on, in the splits of its training.

    Args:
        record: of the model's training.
        dataset: what `--dataset` takes; by default the dataset of the Hub that the record names, or `digits`.
        image_column: as in `load_data`.
        label_column: as in `load_data`.

    Raises:
        ConfigError: there is no telling where the images of the training are.
        DataError: the dataset cannot be used.
    """
    settings = record.get("settings") or {}
    columns: dict[str, Any] = {"image_column": image_column, "label_column": label_column}
    source: dict[str, Any] = {}
    if dataset is None:
        dataset, source = _dataset_of(record, settings)
        columns = {name: columns[name] or settings.get(name) for name in columns}
    seed = settings.get("seed", record.get("hyperparameters", {}).get("seed", 0))
    splitting = {name: settings[name] for name in SPLITTING if name in settings}
    return load_data(dataset, **source, **columns, **splitting, seed=seed)


def _dataset_of(record: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name the dataset of a training, and which version and configuration of it."""
    name, revision = (record.get("data", {}).get(key) for key in ("name", "revision"))
    if name == "digits":
        return name, {}
    if revision is not None and not settings.get("streaming"):
        return name, {"revision": revision, "config_name": settings.get("dataset_config")}
    raise ConfigError(
        "an export is verified on real images: name some with --dataset, best those that the model was trained on"
        + (f" ({name!r})" if name else "")
    )


def evenly(images: "Dataset", count: int) -> "Dataset":
    """Choose so many images, or all, evenly over the split, and so over its classes where it is sorted by them."""
    return images.select(np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)))


def pixels_of(images: "Dataset", transform: "ImageTransform") -> Iterator[np.ndarray]:
    """Give what the model takes of the images, in batches of (images, channels, height, width)."""
    for batch in pixel_batches(images, transform, range(len(images)), BATCH, torch.device("cpu")):
        yield batch.contiguous().numpy()


def cut(pixels: np.ndarray, sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """Cut images into batches of the given sizes, the last of which is that of all that follow.

    >>> [len(batch) for batch in cut(np.zeros(10), [1, 3, 4])]
    [1, 3, 4, 2]
    """
    start = 0
    while start < len(pixels):
        size, sizes = sizes[0], sizes[1:] or sizes
        yield pixels[start : start + size]
        start += size
