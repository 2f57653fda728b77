"""Predictions and measurements of a saved model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from datasets import Dataset

from hf_tl.backbones.load import load
from hf_tl.backbones.modules import inference
from hf_tl.data.columns import LABEL, holds_lists
from hf_tl.data.datasets import ImageData
from hf_tl.data.images import decode
from hf_tl.data.labels import encode_labels
from hf_tl.data.multi_label import match_classes
from hf_tl.errors import DataError, name_some
from hf_tl.evaluation.measure import measure
from hf_tl.evaluation.metrics import problem_type_of
from hf_tl.evaluation.trained_on import learned_from, load_images, record_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def predict_images(
    model_name: str, images: Sequence[str | Path], top_k: int = 5
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Classify image files.

    Args:
        model_name: a saved model's folder, or a Hub id.
        images: files of any format that Pillow reads.
        top_k: classes to return for each image.

    Yields:
        Each image's name with its most probable classes and their probabilities, the best first. Those of a
        multi-label model do not add up to one.

    Raises:
        DataError: a file is missing or no image; nothing is classified then.
        ModelError: the model is no classifier.
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
    """How good a model is on some images."""

    metrics: dict[str, float]
    images: int
    are_learned: bool
    """Whether the model was trained on them: then this is not how good it is on others."""


def evaluate_model(
    model_name: str,
    dataset: str,
    split: str = "test",
    batch_size: int = 64,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Evaluation:
    """Measure a saved model on a split of a dataset, whose classes are matched by name.

    What is missing is set apart from train as it was for the model's training, where that is recorded: the test images
    are those that it did not learn from.

    Args:
        model_name: a saved model's folder, or a Hub id.
        dataset: what `--dataset` takes.
        split: `"train"`, `"validation"` or `"test"`.
        batch_size: images a step.
        image_column: as in `load_data`.
        label_column: as in `load_data`.

    Raises:
        DataError: the dataset has no such split, classes that the model does not know, or labels of the other kind.
        ModelError: there is no such model.
    """
    from accelerate import Accelerator

    model, transforms = load(model_name)
    record = record_of(model_name)
    data = load_images(record, dataset, image_column, label_column)
    images = images_for(model, data, split)
    accelerator = Accelerator()
    metrics = measure(accelerator, model.to(accelerator.device), transforms.eval.over(images), batch_size)
    return Evaluation(metrics, len(images), learned_from(record, data, split))


def images_for(model: "PreTrainedModel", data: ImageData, split: str) -> Dataset:
    """Give a split of a dataset with its labels numbered as a model's classes, which are matched by name.

    Raises:
        DataError: as `evaluate_model`.
    """
    if split not in data.splits:
        raise DataError(f"--split {split}: the dataset has the splits {', '.join(data.splits)}")
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
