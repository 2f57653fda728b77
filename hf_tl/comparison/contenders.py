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
from hf_tl.data.streams import streams_of
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

    from hf_tl.data.images import Transforms

TIMED = 8
"""Number of images in the timed batch."""


@dataclass(frozen=True)
class Contender:
    """One of the two models of a comparison."""

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
            f"A is for {first.problem.name} and B for {second.problem.name}: what they say of an image cannot be "
            "compared; name two models for the same kind of labels"
        )
    if first.labels == second.labels:
        return
    only = [sorted(set(one.labels) - set(other.labels)) for one, other in ((first, second), (second, first))]
    if any(only):
        told = "; ".join(
            f"only {letter} knows {name_some(names)}" for letter, names in zip("AB", only, strict=True) if names
        )
        raise ModelError(f"A and B must know the same classes: {told}; name two models of the same classes")
    if any(len(set(one.labels)) < len(one.labels) for one in (first, second)):
        raise ModelError("A and B have several classes of the same name, in another order, which no name tells apart")


def open_images(
    pair: Sequence[Contender], dataset: "str | ImageData | None", columns: Mapping[str, str | None]
) -> ImageData:
    """Load the images that both models are evaluated on, with the splits of their trainings where hf_tl drew them.

    Args:
        pair: The two models.
        dataset: Value of `--dataset`, or prepared data (default: the dataset that both were trained on).
        columns: `image_column` and `label_column`, if they cannot be found by type or name.

    Raises:
        DataError: There is no such dataset, or it must be named.
    """
    if isinstance(dataset, ImageData):
        if streams_of(dataset.splits):
            raise DataError(
                "each model of a comparison reads the images: load them with hf_tl.load_data(name), not streamed"
            )
        return dataset
    if dataset is None:
        _check_dataset(pair)
    record = next((one.record for one in pair if one.record is not None), None)
    data = open_again(record, pair[0].learned.union(pair[1].learned), dataset, **columns)
    if dataset is None and record is not None and data.fingerprint != record.data.fingerprint:
        raise DataError(
            f"the dataset {data.name} is not what A and B were trained on any more: its fingerprint is "
            f"{data.fingerprint:.12}, and was {record.data.fingerprint:.12}; name the images to compare on with "
            "--dataset"
        )
    return data


def _check_dataset(pair: Sequence[Contender]) -> None:
    """Check that both models were trained on one dataset that can be loaded by name."""
    advice = "name the images to compare on with --dataset"
    if silent := [one.letter for one in pair if one.record is None]:
        were = "were" if len(silent) > 1 else "was"
        raise DataError(f"no record states what {' and '.join(silent)} {were} trained on; {advice}")
    first, second = (one.record.data for one in pair if one.record is not None)
    if first.fingerprint != second.fingerprint:
        raise DataError(
            f"A was trained on {first.name} (fingerprint {first.fingerprint:.12}) and B on {second.name} (fingerprint "
            f"{second.fingerprint:.12}), which are not the same images; {advice}"
        )
    if recorded_dataset(pair[0].record) is None:
        raise DataError(f"A and B were trained on {first.name}, which cannot be opened by its name; {advice}")


def predict(
    accelerator: "Accelerator",
    one: Contender,
    images: "Dataset",
    labels: Sequence[str],
    batch_size: int,
) -> Predictions:
    """Compute the predictions of a model.

    Args:
        accelerator: Accelerator with the device.
        one: Model.
        images: Images with labels in the order of `labels`.
        labels: Class names that set the order of the returned logits, whatever the model's own order.
        batch_size: Number of images per step.
    """
    model = one.model.to(accelerator.device)
    found = predict_split(accelerator, model, one.transforms.eval.over(images), batch_size)
    if one.labels == list(labels):
        return found
    return replace(found, logits=found.logits[:, [one.labels.index(label) for label in labels]])


def speed(one: Contender, data: ImageData, split: str, device: "torch.device") -> float:
    """Return the throughput of a model on this machine in images per second, without decoding and resizing."""
    row = data.splits[split][0][IMAGE]
    batch = {"pixel_values": one.transforms.eval(row)[None].repeat(TIMED, 1, 1, 1).to(device)}
    with inference(one.model):
        return TIMED / min(seconds_of(partial(image_logits, one.model, batch), device) for _ in range(3))
