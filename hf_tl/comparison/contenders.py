"""The two models of a comparison, and the images that both can be evaluated on."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tl.backbones.load import load
from hf_tl.backbones.stages.modules import inference
from hf_tl.backbones.weights.provenance import provenance_of, saved_record
from hf_tl.data.columns import IMAGE
from hf_tl.data.datasets import ImageData
from hf_tl.data.streaming.streams import streams_of
from hf_tl.errors import DataError, ModelError, name_some
from hf_tl.evaluation.leakage import open_again, recorded_dataset
from hf_tl.evaluation.measure import Predictions, image_logits, predict_split, seconds_of
from hf_tl.evaluation.metrics import ProblemType, problem_type_of
from hf_tl.record import LearnedFrom, RunRecord

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedModel

    from hf_tl.data.decoding.images import Transforms

TIMED = 8
"""Number of images in the timed batch."""


@dataclass(frozen=True)
class Contender:
    """Model of a comparison."""

    letter: str
    """Letter of the model: A or B."""
    name: str
    """Name as given by the user."""
    model: "PreTrainedModel"
    transforms: "Transforms"

    @classmethod
    def load(cls, letter: str, name: str | os.PathLike[str]) -> "Contender":
        """Load a model.

        Raises:
            ModelError: There is no such model.
        """
        model, transforms = load(name)
        return cls(letter, os.fspath(name), model, transforms)

    @cached_property
    def record(self) -> RunRecord | None:
        """Record of the training; None for a model that hf_tl did not train.

        Raises:
            ModelError: The record cannot be read or downloaded.
        """
        return saved_record(self.name)

    @cached_property
    def learned(self) -> LearnedFrom:
        """Training images of the model."""
        return provenance_of(self.model).learned

    @property
    def labels(self) -> list[str]:
        """Class names, in the order of the logits."""
        return [self.model.config.id2label[index] for index in range(self.model.config.num_labels)]

    @property
    def problem(self) -> ProblemType:
        """Problem type of the model."""
        return problem_type_of(self.model)

    def describe(self) -> dict[str, Any]:
        """Describe the model without its path, so that the result can be published."""
        config = self.model.config
        return {
            "name": Path(self.name).resolve().name if Path(self.name).exists() else self.name,
            "architecture": config.architecture if config.model_type == "timm_wrapper" else config.model_type,
            "strategy": ((getattr(config, "hf_tl", None) or {}).get("strategy") or {}).get("name"),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
        }


def check_alike(first: Contender, second: Contender) -> None:
    """Check that two models have the same classes.

    Raises:
        ModelError: They do not, or one is single-label and the other multi-label.
    """
    if first.problem is not second.problem:
        raise ModelError(
            f"expected two models with the same problem type, found {first.problem.name} (A) and {second.problem.name} "
            "(B); compare models for the same kind of labels"
        )
    if first.labels == second.labels:
        return
    pair = (first, second)
    extra = [sorted(set(a.labels) - set(b.labels)) for a, b in (pair, pair[::-1])]
    if any(extra):
        differences = "; ".join(
            f"only {letter} has {name_some(names)}" for letter, names in zip("AB", extra, strict=True) if names
        )
        raise ModelError(
            f"expected the same classes in A and B, found differences: {differences}; compare other models"
        )
    if any(len(set(contender.labels)) < len(contender.labels) for contender in pair):
        raise ModelError(
            "expected unique class names, found duplicates in A or B, whose classes are in different orders; rename "
            "them in config.json (id2label)"
        )


def open_images(pair: Sequence[Contender], dataset: "str | ImageData | None", reading: Mapping[str, Any]) -> ImageData:
    """Load the images that both models are evaluated on, with the splits of their trainings where hf_tl drew them.

    Args:
        pair: The two models.
        dataset: Value of `--dataset`, or prepared data (default: the dataset that both were trained on).
        reading: Other arguments of `load_data` about how to read the dataset.

    Raises:
        DataError: There is no such dataset, or it must be named.
    """
    if isinstance(dataset, ImageData):
        if streams_of(dataset.splits):
            raise DataError(
                "expected images that can be read twice, once for each model, found a stream; load them with "
                "hf_tl.load_data(name), without streaming"
            )
        return dataset
    if dataset is None:
        _check_dataset(pair)
    record = next((contender.record for contender in pair if contender.record is not None), None)
    data = open_again(record, pair[0].learned.union(pair[1].learned), dataset, **reading)
    if dataset is None and record is not None and data.fingerprint != record.data.fingerprint:
        raise DataError(
            f"expected the dataset {data.name} that A and B were trained on (fingerprint "
            f"{record.data.fingerprint:.12}), found a changed one (fingerprint {data.fingerprint:.12}); name the "
            "images to compare on with --dataset"
        )
    return data


def _check_dataset(pair: Sequence[Contender]) -> None:
    """Check that both models were trained on one dataset that can be loaded by name."""
    advice = "name the images to compare on with --dataset"
    if without_record := [contender.letter for contender in pair if contender.record is None]:
        raise DataError(f"no record names the training dataset of {' and '.join(without_record)}; {advice}")
    first, second = (contender.record.data for contender in pair if contender.record is not None)
    if first.fingerprint != second.fingerprint:
        raise DataError(
            f"A was trained on {first.name} (fingerprint {first.fingerprint:.12}), B on different images: "
            f"{second.name} (fingerprint {second.fingerprint:.12}); {advice}"
        )
    if recorded_dataset(pair[0].record) is None:
        raise DataError(f"A and B were trained on {first.name}, which cannot be loaded by its name; {advice}")


def predict(
    accelerator: "Accelerator",
    contender: Contender,
    images: "Dataset",
    labels: Sequence[str],
    batch_size: int,
) -> Predictions:
    """Compute the predictions of a model.

    Args:
        accelerator: Accelerator with the device.
        contender: Model.
        images: Images with labels in the order of `labels`.
        labels: Class names that set the order of the returned logits, whatever the model's own order.
        batch_size: Number of images per step.
    """
    model = contender.model.to(accelerator.device)
    predictions = predict_split(accelerator, model, contender.transforms.eval.over(images), batch_size)
    if contender.labels == list(labels):
        return predictions
    order = [contender.labels.index(label) for label in labels]
    return replace(predictions, logits=predictions.logits[:, order])


def measure_speed(contender: Contender, data: ImageData, split: str, device: "torch.device") -> float:
    """Measure the throughput of a model on this machine in images per second, without decoding and resizing."""
    row = data.splits[split][0][IMAGE]
    batch = {"pixel_values": contender.transforms.eval(row)[None].repeat(TIMED, 1, 1, 1).to(device)}
    with inference(contender.model):
        return TIMED / min(seconds_of(partial(image_logits, contender.model, batch), device) for _ in range(3))
