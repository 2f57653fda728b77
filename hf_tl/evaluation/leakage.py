"""Data leakage: reloading a training dataset, and selecting the images that are valid for evaluation.

Training, `evaluate`, `compare`, `export` and `recommend` share this module, which finds how many of the images the
weights were trained on.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

from hf_tl.config import READING
from hf_tl.data.datasets import load_arguments, load_data
from hf_tl.data.image_data import AnyDataset, ImageData
from hf_tl.data.learned import Leakage, leave_out_learned, resolve
from hf_tl.data.sources.opening import DIGITS
from hf_tl.errors import ConfigError, DataError
from hf_tl.record import DataRecord, LearnedFrom, RunRecord, split_digest


def measurable(
    data: ImageData,
    learned: Mapping[str, LearnedFrom],
    splits: Sequence[str] = ("validation", "test"),
    *,
    include_training_images: bool = False,
) -> tuple[ImageData, dict[str, Leakage]]:
    """Exclude training images of the models from the evaluation splits, and note it.

    Args:
        data: Dataset.
        learned: Training images of each model, by its name in messages: "the model", "the starting model", "A", ….
        splits: Evaluation splits.
        include_training_images: Whether to count training images without excluding them.

    Returns:
        Data, and the leakage of each split, whose `describe` is for the user.

    Raises:
        DataError: There is no such split, or the remaining images do not allow an evaluation.
    """
    for split in splits:
        if split not in data.splits:
            raise DataError(f"--split {split}: the dataset has the splits {', '.join(data.splits)}")
    resolved = {model: resolve(known, data) for model, known in learned.items()}
    models = [model for model, known in resolved.items() if _concerns(known, data, splits)]
    return leave_out_learned(
        data,
        reduce(LearnedFrom.union, resolved.values(), LearnedFrom()),
        splits,
        keep=include_training_images,
        model=" or ".join(models) or "the model",
    )


def _concerns(learned: LearnedFrom, data: ImageData, splits: Sequence[str]) -> bool:
    """Return whether a model was trained on images of the splits, or may have been."""
    if not learned.splits:
        return False
    if not learned.is_complete or not data.digests:
        return True
    return any(learned.mask(data.digests[split]).any() for split in splits)


def open_again(
    record: RunRecord | None,
    learned: LearnedFrom,
    dataset: AnyDataset | None,
    **reading: Any,
) -> ImageData:
    """Load a dataset with the splits of a model's training, where hf_tl drew them.

    Args:
        record: Record of the training; None for a model that hf_tl did not train.
        learned: Training images of the model. They stay in train, even if images were added since.
        dataset: Dataset (default: the one of the training). An `ImageData` keeps its splits.
        reading: Other arguments of `load_data` about how to read the dataset.

    Raises:
        ConfigError: No dataset is named, and that of the training cannot be loaded by name.
        DataError: The dataset cannot be used.
    """
    if isinstance(dataset, ImageData):
        return dataset
    source: dict[str, Any] | None = {"dataset": dataset} if dataset is not None else recorded_dataset(record)
    if source is None:
        was = f" ({record.data.name!r})" if record is not None else ""
        raise ConfigError(
            f"the dataset of the training{was} cannot be opened by its name: name images with --dataset, best those "
            "that the model was trained on"
        )
    source |= load_arguments(reading)
    recorded = None if record is None else record.data
    settings = {**source, **drawn_by(recorded)}

    def load(include_training_images: bool) -> ImageData:
        return load_data(**settings, learned=learned, include_training_images=include_training_images)

    return split_again(load, recorded)


def split_again(load: Callable[[bool], ImageData], recorded: DataRecord | None) -> ImageData:
    """Split a dataset as it was split in a training.

    Training images of the model stay in train, so the other images are the held-out ones, in the same order. If there
    were fewer of these than both splits request, they were divided between the splits.

    Args:
        load: Function that loads the data with the recorded draws; its argument is whether training images fill gaps.
        recorded: Data of the training.
    """
    data = load(True)
    if recorded is None or _are_test_images(data, recorded) or data.fingerprint != recorded.fingerprint:
        return data
    try:
        shared_out = load(False)
    except DataError:
        return data
    return shared_out if _are_test_images(shared_out, recorded) else data


def _are_test_images(data: ImageData, recorded: DataRecord) -> bool:
    """Return whether the test split is that of the training."""
    test = recorded.splits.get("test")
    return test is None or not data.digests or test.digest == split_digest(data.digests["test"])


def recorded_dataset(record: RunRecord | None) -> dict[str, Any] | None:
    """Return the dataset of a training as arguments of `load_data`; None if it cannot be loaded by name."""
    if record is None:
        return None
    data, settings = record.data, record.settings or {}
    if data.source == "built-in":
        return {"dataset": DIGITS}
    if not data.is_on_hub or data.revision is None or settings.get("streaming"):
        return None
    arguments = {name: settings[name] for name in ("dataset_config", *READING) if name in settings}
    return {"dataset": data.name, "dataset_revision": data.revision, **arguments}


def drawn_by(data: DataRecord | None) -> dict[str, Any]:
    """Return how a training drew its splits, as arguments of `load_data`: seed, fractions and groups."""
    splits = {} if data is None else data.splits
    drawn = {name: split for name, split in splits.items() if split.seed is not None and split.share is not None}
    shares = {f"{name}_fraction": split.share for name, split in drawn.items()}
    if data is None or not drawn:
        return {}
    groups = data.groups
    return {
        **shares,
        "seed": next(iter(drawn.values())).seed,
        "group_column": None if groups is None else groups.column,
        "group_pattern": "none" if groups is None else groups.pattern,
        "group_near_duplicates": groups is not None and groups.near_duplicates,
    }
