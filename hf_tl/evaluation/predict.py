"""Prediction and evaluation with a saved model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from datasets import Dataset

from hf_tl.backbones.load import load
from hf_tl.backbones.stages.modules import inference
from hf_tl.backbones.weights.provenance import provenance_of, saved_record
from hf_tl.data.columns import LABEL, holds_lists
from hf_tl.data.datasets import ImageData
from hf_tl.data.images import decode
from hf_tl.data.labels import encode_labels
from hf_tl.data.multi_label import match_classes
from hf_tl.errors import DataError, name_some
from hf_tl.evaluation.intervals import Interval
from hf_tl.evaluation.leakage import measurable, open_again
from hf_tl.evaluation.measure import predict_split
from hf_tl.evaluation.metrics import problem_type_of
from hf_tl.evaluation.report import metric_intervals
from hf_tl.record import LearnedSplit

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def predict_images(
    model_name: str, images: Sequence[str | Path], top_k: int = 5
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Classify image files.

    Args:
        model_name: Folder of a saved model, or a Hub id.
        images: Image files of any format that Pillow reads.
        top_k: Number of classes to return for each image.

    Yields:
        Name of each image, and its most probable classes with their probabilities, highest first. Those of a
        multi-label model do not sum to one.

    Raises:
        DataError: A file is missing or not an image; nothing is classified in this case.
        ModelError: The model is not a classifier.
    """
    missing = [str(image) for image in images if not Path(image).is_file()]
    if missing:
        raise DataError(f"no such image: {name_some(missing)}")
    decoded = [decode(str(image)) for image in images]
    model, transforms = load(model_name)
    top_k = min(top_k, model.config.num_labels)
    for name, image in zip(images, decoded, strict=True):
        with inference(model):
            logits = model(pixel_values=transforms.eval(image)[None]).logits
        probabilities = problem_type_of(model).probabilities(logits)[0]
        best = torch.topk(probabilities, top_k)
        yield (
            str(name),
            [
                (model.config.id2label[int(index)], float(value))
                for value, index in zip(best.values, best.indices, strict=True)
            ],
        )


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a model on a split of a dataset."""

    metrics: dict[str, float]
    images: int
    """Number of evaluated images."""
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """95% confidence intervals of the metrics that have one."""
    percentages: frozenset[str] = frozenset()
    """Metrics that are shown as percentages."""
    learned: int = 0
    """Number of training images of the model among them; if any, the metrics do not estimate generalization."""
    left_out: int = 0
    """Number of images of the split that were excluded as training images of the model."""
    unknown: tuple[LearnedSplit, ...] = ()
    """Training splits of the model that cannot be compared with these images, because digests are missing."""
    notes: tuple[str, ...] = ()
    """Notes on data leakage, for the user."""
    exclusions: tuple[str, ...] = ()
    """Notes on images that `--exclude_list` left out."""


def evaluate_model(
    model_name: str,
    dataset: str,
    split: str = "test",
    batch_size: int = 64,
    image_column: str | None = None,
    label_column: str | None = None,
    include_training_images: bool = False,
    exclude_list: str | None = None,
) -> Evaluation:
    """Evaluate a saved model on a split of a dataset, whose classes are matched by name.

    Missing splits are drawn as in the model's training. Training images of the model are excluded, even if they were
    renamed.

    Args:
        model_name: Folder of a saved model, or a Hub id.
        dataset: Value of `--dataset`.
        split: `"train"`, `"validation"` or `"test"`.
        batch_size: Number of images per step.
        image_column: As in `load_data`.
        label_column: As in `load_data`.
        include_training_images: Whether to evaluate on training images of the model too, and count them.
        exclude_list: As in `load_data`.

    Raises:
        DataError: The dataset has no such split, has classes that the model does not know, or has another problem type;
            or not enough images remain after excluding training images.
        ModelError: There is no such model.
    """
    from accelerate import Accelerator

    model, transforms = load(model_name)
    learned = provenance_of(model).learned
    data = open_again(saved_record(model_name), learned, dataset, image_column, label_column, exclude_list)
    data, leakage = measurable(data, {"the model": learned}, [split], include_training_images=include_training_images)
    images, overlap = images_for(model, data, split), leakage[split]
    accelerator = Accelerator()
    predictions = predict_split(accelerator, model.to(accelerator.device), transforms.eval.over(images), batch_size)
    problem, logits, labels = problem_type_of(model), predictions.logits, predictions.labels
    metrics = problem.compute(logits, labels)
    return Evaluation(
        metrics=metrics,
        images=len(images),
        intervals=metric_intervals(problem, metrics, logits, labels.astype(np.int64), problem.decide(logits)),
        percentages=frozenset(figure.key for figure in problem.figures if figure.is_percentage),
        learned=overlap.learned,
        left_out=overlap.left_out,
        unknown=overlap.unknown,
        notes=tuple(overlap.describe()),
        exclusions=tuple(note for note in data.notes if exclude_list and Path(exclude_list).name in note),
    )


def images_for(model: "PreTrainedModel", data: ImageData, split: str) -> Dataset:
    """Return a split of a dataset with its labels encoded by the model's classes, which are matched by name.

    Raises:
        DataError: The dataset has classes that the model does not know, or another problem type.
    """
    if (kind := problem_type_of(model).name) != data.problem_type:
        raise DataError(
            f"the model is for {kind}, and the labels of the dataset are for {data.problem_type}; "
            "name others with --label_column"
        )
    known = model.config.label2id
    if unknown := [label for label in data.labels if label not in known]:
        raise DataError(f"the model knows no class {name_some(unknown)}; it knows {name_some(known)}")
    names = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
    images = data.splits[split]
    if holds_lists(images.features[LABEL]):
        return match_classes(images, data.labels, names)
    return encode_labels({split: images}, names)[split]
