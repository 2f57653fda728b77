"""Images of a run: loaded, split, checked, and without those that the starting weights learned from."""

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from hf_tl.config import READING, SOURCE, DataConfig, TrainingConfig
from hf_tl.processes.together import node_by_node
from hf_tl.record import LearnedFrom
from hf_tl.reporting.console import say

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hf_tl.backbones.candidates import Backbone
    from hf_tl.data.image_data import AnyDataset, ImageData
    from hf_tl.data.learned import Leakage
    from hf_tl.evaluation.holdout.loaded import LoadedClassifier

SPLIT_SETTINGS = (*READING, "validation_fraction", "test_fraction")
"""Fields of `DataConfig` that `load_data` takes."""


def open_data(
    accelerator: "Accelerator",
    dataset: "AnyDataset",
    config: DataConfig,
    training: TrainingConfig,
    learned: LearnedFrom,
    name: str | None = None,
    teacher: "LoadedClassifier | None" = None,
) -> "tuple[ImageData, dict[str, Leakage]]":
    """Load, split and check the images of a run, from Python and from the command line alike.

    Args:
        accelerator: Accelerator of the run.
        dataset: Value of `--dataset`, a loaded dataset, or the result of `hf_tl.load_data`.
        config: Columns and splits.
        training: Training settings; their seed draws the splits.
        learned: Images that the starting weights learned from.
        name: Name of a loaded dataset.
        teacher: Teacher, whose training images count like those of the starting weights.

    Returns:
        The data, and for each split how many of its images the starting weights or the teacher learned from.

    Raises:
        DataError: The dataset cannot be used for training.
        ModelError: The teacher has other classes.
    """
    from hf_tl.data.datasets import check_images, load_data
    from hf_tl.evaluation.leakage import measurable

    origins = {"the starting model": learned}
    if teacher is not None:
        from hf_tl.distillation.teacher import check_teacher, learned_by_teacher
        from hf_tl.evaluation.metrics import PROBLEM_TYPES

        origins["the teacher"] = learned_by_teacher(teacher)
    shared: dict[str, Any] = {
        **{name: getattr(config, name) for name in SPLIT_SETTINGS},
        "seed": training.seed,
        "learned": reduce(LearnedFrom.union, origins.values()),
        "include_training_images": config.include_training_images,
    }

    def load() -> "tuple[ImageData, tuple[str, ...]]":
        """Return the checked data, and their notes before the check."""
        source: dict[str, Any] = {name: getattr(config, name) for name in SOURCE}
        data = load_data(dataset, dataset_name=name, **source, **shared, streaming=config.streaming)
        _say(accelerator, "Data", [*data.describe(), *data.notes])
        if teacher is not None:
            check_teacher(teacher, data.labels, PROBLEM_TYPES[data.problem_type])
        checked = check_images(
            data,
            skip_bad_images=config.skip_bad_images,
            verbose=accelerator.is_main_process,
            just_loaded=data is not dataset,
        )
        return checked, data.notes

    # the first process of a node keeps an index of the images, which spares the others to read them
    data, shown = node_by_node(accelerator, load)
    data, leakage = measurable(data, origins, include_training_images=config.include_training_images)
    _say(accelerator, "Images", [note for note in data.notes if note not in shown])
    data = data.with_inspection(config.inspection)
    _say(accelerator, "Inspected", [] if data.inspection is None else [data.inspection.describe()])
    return data, leakage


def _say(accelerator: "Accelerator", title: str, lines: Sequence[str]) -> None:
    if lines:
        say(accelerator, f"{title:<10}" + ("\n" + " " * 10).join(lines))


def learned_by(backbones: "Sequence[Backbone]") -> LearnedFrom:
    """Return the union of the images that the weights of several backbones learned from."""
    learned = LearnedFrom()
    for backbone in backbones:
        learned = learned.union(backbone.learned())
    return learned


def flips(config: DataConfig, data: "ImageData") -> bool:
    """Return whether mirrored images keep their labels: the setting, else the default of the dataset, else True."""
    return data.defaults.get("horizontal_flip", True) if config.horizontal_flip is None else config.horizontal_flip
