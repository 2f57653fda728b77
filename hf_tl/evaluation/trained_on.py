"""What a saved model was trained on: its images again, split as then, and which of them it learned from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_tl.data.datasets import ImageData, load_data
from hf_tl.errors import ConfigError, ModelError
from hf_tl.publish.checks import RECORD_FILE

SPLIT_SETTINGS = {"validation_fraction": 0.1, "test_fraction": 0.2, "seed": 0}
"""What decides which images are set apart, where a dataset has no split of its own; the defaults of `load_data`."""


def record_of(model_name: str) -> dict[str, Any]:
    """Read the record of a model's training from its folder or the Hub; empty of a model that hf_tl did not train.

    Raises:
        ModelError: it cannot be read, or fetched.
    """
    from transformers.utils import cached_file

    try:
        file = cached_file(model_name, RECORD_FILE, _raise_exceptions_for_missing_entries=False)
        return {} if file is None else dict(json.loads(Path(file).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"{RECORD_FILE} of {model_name}, the record of its training, cannot be read: {error}"
        ) from error


def split_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Give that by which the splits of a training were made, as arguments of `load_data`."""
    settings = {**(record.get("hyperparameters") or {}), **(record.get("settings") or {})}
    return {name: settings.get(name, default) for name, default in SPLIT_SETTINGS.items()}


def learned_from(record: Mapping[str, Any], data: ImageData, split: str) -> bool:
    """Tell whether a model learned from a split of a dataset.

    From that of validation it did where, once these images had chosen, it was trained again on them too (`refit`).

    Args:
        record: of the model's training.
        data: split as for that training.
        split: its name.
    """
    if (record.get("data") or {}).get("fingerprint") != data.fingerprint:
        return False
    refit = record.get("refit") or {"learned_validation": False}
    return split == "train" or (split == "validation" and refit.get("learned_validation", True))


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
        ConfigError: none are named, and there is no telling where those of the training are.
        DataError: the dataset cannot be used.
    """
    settings = record.get("settings") or {}
    columns: dict[str, Any] = {"image_column": image_column, "label_column": label_column}
    source: dict[str, Any] = {}
    if dataset is None:
        dataset, source = _dataset_of(record, settings)
        columns = {name: columns[name] or settings.get(name) for name in columns}
    return load_data(dataset, **source, **columns, **split_settings(record))


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
