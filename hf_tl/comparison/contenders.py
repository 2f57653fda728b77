"""The two models of a comparison, and the images that both can be measured on."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tl.backbones.load import load
from hf_tl.backbones.modules import inference
from hf_tl.card.metadata import dataset_is_on_hub
from hf_tl.data.columns import IMAGE
from hf_tl.data.datasets import ImageData, load_data
from hf_tl.data.streams import streams_of
from hf_tl.errors import DataError, ModelError, name_some
from hf_tl.evaluation.measure import Predictions, image_logits, predict_split, seconds_of
from hf_tl.evaluation.metrics import ProblemType, problem_type_of
from hf_tl.evaluation.trained_on import SPLIT_SETTINGS, learned_from, record_of, split_settings

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedModel

    from hf_tl.data.images import Transforms

DIGITS = "digits"
TIMED = 8
"""Images in the batch that is timed."""


@dataclass(frozen=True)
class Contender:
    """One of the two models."""

    letter: str
    """A or B."""
    name: str
    """As it was given."""
    model: "PreTrainedModel"
    transforms: "Transforms"

    @classmethod
    def load(cls, letter: str, name: str | os.PathLike[str]) -> "Contender":
        """Load a model.

        Raises:
            ModelError: there is no such model.
        """
        model, transforms = load(name)
        return cls(letter, os.fspath(name), model, transforms)

    @cached_property
    def record(self) -> dict[str, Any]:
        """What `run.json` holds; empty of a model that hf_tl did not train.

        Raises:
            ModelError: it cannot be read, or fetched.
        """
        return record_of(self.name)

    @property
    def labels(self) -> list[str]:
        """In the order of the logits."""
        return [self.model.config.id2label[index] for index in range(self.model.config.num_labels)]

    @property
    def problem(self) -> ProblemType:
        """The kind of labels."""
        return problem_type_of(self.model)

    @property
    def data(self) -> Mapping[str, Any]:
        """What the model was trained on: `name`, `revision` and `fingerprint`; empty where it does not say."""
        data = (getattr(self.model.config, "hf_tl", None) or {}).get("data") or {}
        return data if {"name", "revision", "fingerprint"} <= data.keys() else {}

    def describe(self) -> dict[str, Any]:
        """Tell what it is, as it may be published: without the path."""
        config = self.model.config
        return {
            "name": Path(self.name).resolve().name if Path(self.name).exists() else self.name,
            "architecture": config.architecture if config.model_type == "timm_wrapper" else config.model_type,
            "strategy": ((getattr(config, "hf_tl", None) or {}).get("strategy") or {}).get("name"),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
        }


def check_alike(first: Contender, second: Contender) -> None:
    """Check that two models tell the same classes apart.

    Raises:
        ModelError: they do not, or one gives an image one class and the other any number of them.
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
    pair: Sequence[Contender], dataset: "str | ImageData | None", split: str, columns: Mapping[str, str | None]
) -> ImageData:
    """Find the images that both models can be measured on.

    Args:
        pair: the two models.
        dataset: what `--dataset` takes; where it is None, the one that both were trained on.
        split: of which the images are.
        columns: `image_column` and `label_column`, where they are not found by type or name.

    Raises:
        DataError: there is no such dataset, it must be named, or one model was trained on what is test for the other.
    """
    if isinstance(dataset, ImageData):
        if streams_of(dataset.splits):
            raise DataError(
                "each model of a comparison reads the images: load them with hf_tl.load_data(name), not streamed"
            )
        return dataset
    source = {"name": dataset} if dataset is not None else _recorded_source(pair)
    source |= {name: column for name, column in columns.items() if column is not None}
    data = load_data(**source)
    knowing = [one for one in pair if one.data.get("fingerprint") == data.fingerprint]
    if dataset is None and not knowing:
        raise DataError(
            f"the dataset {data.name} is not what A and B were trained on any more: its fingerprint is "
            f"{data.fingerprint:.12}, and was {_fingerprint(pair[0])}; name the images to compare on with --dataset"
        )
    ways = [split_settings(one.record) for one in knowing]
    found = [data if way == SPLIT_SETTINGS else load_data(**source, **way) for way in ways]
    if split in data.splits and len({_order(each, split) for each in found}) > 1:
        raise DataError(
            f"the {split} images that were set apart for A are others than those for B ({_told(pair[0])}; "
            f"{_told(pair[1])}), so that each may have been trained on some of the other's: "
            f"compare on a dataset with a split {split} of its own, or train both with the same --seed"
        )
    return found[0] if found else data


def check_learned(pair: Sequence[Contender], data: ImageData, split: str) -> None:
    """Check that no model learned from images that the other one did not.

    Raises:
        DataError: one did.
    """
    learned = [one.letter for one in pair if learned_from(one.record, data, split)]
    if len(learned) == 1:
        raise DataError(
            f"{learned[0]} learned from the {split} images, and the other model did not: compare with --split test"
        )


def _recorded_source(pair: Sequence[Contender]) -> dict[str, Any]:
    """Give the dataset that both models were trained on, as arguments of `load_data`."""
    advice = "name the images to compare on with --dataset"
    if silent := [one for one in pair if not one.data]:
        letters = " and ".join(one.letter for one in silent)
        raise DataError(f"nothing tells what {letters} {'were' if len(silent) > 1 else 'was'} trained on; {advice}")
    first, second = pair
    if first.data["fingerprint"] != second.data["fingerprint"]:
        raise DataError(
            f"A was trained on {first.data['name']} (fingerprint {_fingerprint(first)}) and B on "
            f"{second.data['name']} (fingerprint {_fingerprint(second)}), which are not the same images; {advice}"
        )
    if first.data["name"] == DIGITS:
        return {"name": DIGITS}
    if not dataset_is_on_hub(first.data):
        raise DataError(f"A and B were trained on {first.data['name']}, which lies on a disk; {advice}")
    settings = first.record.get("settings") or {}
    columns = {name: settings.get(name) for name in ("image_column", "label_column")}
    return {
        "name": first.data["name"],
        "revision": first.data["revision"],
        "config_name": settings.get("dataset_config"),
        **columns,
    }


def _fingerprint(one: Contender) -> str:
    return f"{one.data['fingerprint']:.12}"


def _order(data: ImageData, split: str) -> str:
    return data.orders[data.splits[split]._fingerprint]


def _told(one: Contender) -> str:
    return f"{one.letter}: " + ", ".join(f"{name} {value:g}" for name, value in split_settings(one.record).items())


def predict(
    accelerator: "Accelerator",
    one: Contender,
    images: "Dataset",
    labels: Sequence[str],
    batch_size: int,
) -> Predictions:
    """Let a model tell the classes of images.

    Args:
        accelerator: the device.
        one: the model.
        images: labelled in the order of `labels`.
        labels: in whose order the logits are given, whatever the model's own.
        batch_size: images a step.
    """
    model = one.model.to(accelerator.device)
    found = predict_split(accelerator, model, one.transforms.eval.over(images), batch_size)
    if one.labels == list(labels):
        return found
    return replace(found, logits=found.logits[:, [one.labels.index(label) for label in labels]])


def speed(one: Contender, data: ImageData, split: str, device: "torch.device") -> float:
    """Tell how many images a second a model classifies on this machine; reading and resizing them is not in it."""
    row = data.splits[split][0][IMAGE]
    batch = {"pixel_values": one.transforms.eval(row)[None].repeat(TIMED, 1, 1, 1).to(device)}
    with inference(one.model):
        return TIMED / min(seconds_of(partial(image_logits, one.model, batch), device) for _ in range(3))
