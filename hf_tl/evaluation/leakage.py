"""Data leakage: the data of a training opened again, and the images that may be measured on.

Training, `evaluate`, `compare`, `export` and `recommend` ask one question here: how many of these images did the
weights learn from?
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

from hf_tl.data.datasets import ImageData, load_data
from hf_tl.data.learned import Leakage, leave_out_learned, resolve
from hf_tl.data.sources import DIGITS
from hf_tl.errors import ConfigError, DataError
from hf_tl.record import DataRecord, LearnedFrom, RunRecord, split_digest


def measurable(
    data: ImageData,
    learned: Mapping[str, LearnedFrom],
    splits: Sequence[str] = ("validation", "test"),
    *,
    include_training_images: bool = False,
) -> tuple[ImageData, dict[str, Leakage]]:
    """Leave training images of the models out of the splits that are measured on, and note it.

    Args:
        data: The dataset.
        learned: What each model learned from, by its name in messages: "the model", "the starting model", "A", ….
        splits: Splits that are measured on.
        include_training_images: Whether training images are only counted.

    Returns:
        The data, and the leakage of each split, whose `describe` is for the user.

    Raises:
        DataError: There is no such split, or the images that are left cannot be measured on.
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
    """Return whether a model learned from images of the splits, or may have."""
    if not learned.splits:
        return False
    return not learned.is_complete or any(learned.mask(data.digests.get(split, ())).any() for split in splits)


def open_again(
    record: RunRecord | None,
    learned: LearnedFrom,
    dataset: str | None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> ImageData:
    """Open a dataset in the splits of a model's training, where hf_tl drew them.

    Args:
        record: Record of the training. None for a model that hf_tl did not train.
        learned: What the model learned from: its training images stay in train, whatever was added since.
        dataset: What `--dataset` takes; by default the dataset of the training.
        image_column: As in `load_data`.
        label_column: As in `load_data`.

    Raises:
        ConfigError: No dataset is named, and that of the training cannot be opened by its name.
        DataError: The dataset cannot be used.
    """
    source: dict[str, Any] | None = {"name": dataset} if dataset is not None else recorded_dataset(record)
    if source is None:
        was = f" ({record.data.name!r})" if record is not None else ""
        raise ConfigError(
            f"the dataset of the training{was} cannot be opened by its name: name images with --dataset, best those "
            "that the model was trained on"
        )
    columns = {"image_column": image_column, "label_column": label_column}
    source |= {name: column for name, column in columns.items() if column is not None}
    recorded = None if record is None else record.data
    draws = drawn_by(recorded)

    def load(include_training_images: bool) -> ImageData:
        return load_data(**source, **draws, learned=learned, include_training_images=include_training_images)

    return split_again(load, recorded)


def split_again(load: Callable[[bool], ImageData], recorded: DataRecord | None) -> ImageData:
    """Split a dataset as it was split in a training.

    Images that the model learned from stay in train, so the others are the held-out ones of the training, in its order.
    Where these were fewer than both splits ask for, they were shared out.

    Args:
        load: Loads the data drawn as recorded; takes whether training images fill what is missing.
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
    """Return the dataset of a training as arguments of `load_data`; None where its name does not open it."""
    if record is None:
        return None
    data, settings = record.data, record.settings or {}
    if data.source == "built-in":
        return {"name": DIGITS}
    if not data.is_on_hub or data.revision is None or settings.get("streaming"):
        return None
    arguments = {"config_name": "dataset_config", "image_column": "image_column", "label_column": "label_column"}
    return {
        "name": data.name,
        "revision": data.revision,
        **{argument: settings.get(setting) for argument, setting in arguments.items()},
    }


def drawn_by(data: DataRecord | None) -> dict[str, Any]:
    """Return by which seed and shares the splits of a training were drawn, as arguments of `load_data`."""
    splits = {} if data is None else data.splits
    drawn = {name: split for name, split in splits.items() if split.seed is not None and split.share is not None}
    shares = {f"{name}_fraction": split.share for name, split in drawn.items()}
    return {**shares, **({"seed": next(iter(drawn.values())).seed} if drawn else {})}
