"""The two models of a comparison, and the images that both can be evaluated on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from hf_tl.backbones.stages.modules import inference
from hf_tl.data.columns import IMAGE
from hf_tl.data.image_data import AnyDataset, ImageData
from hf_tl.errors import DataError, ModelError, name_some
from hf_tl.evaluation.holdout.classifier import Classifier
from hf_tl.evaluation.holdout.images import Holdout, open_holdout
from hf_tl.evaluation.leakage import open_again, recorded_dataset
from hf_tl.evaluation.measure import Predictions, image_logits, predict_split, seconds_of

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset

TIMED = 8
"""Number of images in the timed batch."""


def check_alike(first: Classifier, second: Classifier) -> None:
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


def open_images(
    pair: Mapping[str, Classifier], dataset: AnyDataset | None, split: str | None, reading: Mapping[str, Any]
) -> Holdout:
    """Open the images that both models are evaluated on, with the splits of their trainings where hf_tl drew them.

    Args:
        pair: The two models, by their letters.
        dataset: Dataset (default: the one that both were trained on).
        split: Split to evaluate on.
        reading: Arguments of `load_data` about how to read the dataset.

    Raises:
        DataError: There is no such dataset, or it must be named.
    """
    if dataset is None:
        dataset, reading = _training_data(pair, reading), {}
    return open_holdout(dataset, pair, split, reading)


def _training_data(pair: Mapping[str, Classifier], reading: Mapping[str, Any]) -> ImageData:
    """Open the dataset that both models were trained on, with the splits of the training."""
    first, second = pair.values()
    _check_dataset(first, second)
    record = first.record
    data = open_again(record, first.learned.union(second.learned), None, **reading)
    if record is not None and data.fingerprint != record.data.fingerprint:
        raise DataError(
            f"expected the dataset {data.name} that A and B were trained on (fingerprint "
            f"{record.data.fingerprint:.12}), found a changed one (fingerprint {data.fingerprint:.12}); name the "
            "images to compare on with --dataset"
        )
    return data


def _check_dataset(*pair: Classifier) -> None:
    """Check that both models were trained on one dataset that can be loaded by name."""
    advice = "name the images to compare on with --dataset"
    records = [contender.record for contender in pair]
    if without_record := [letter for letter, record in zip("AB", records, strict=True) if record is None]:
        raise DataError(f"no record names the training dataset of {' and '.join(without_record)}; {advice}")
    first, second = (record.data for record in records if record is not None)
    if first.fingerprint != second.fingerprint:
        raise DataError(
            f"A was trained on {first.name} (fingerprint {first.fingerprint:.12}), B on different images: "
            f"{second.name} (fingerprint {second.fingerprint:.12}); {advice}"
        )
    if recorded_dataset(records[0]) is None:
        raise DataError(f"A and B were trained on {first.name}, which cannot be loaded by its name; {advice}")


def predict(
    accelerator: "Accelerator",
    contender: Classifier,
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
    network = contender.network.to(accelerator.device)
    predictions = predict_split(accelerator, network, contender.transform.over(images), batch_size)
    if contender.labels == tuple(labels):
        return predictions
    order = [contender.labels.index(label) for label in labels]
    return replace(predictions, logits=predictions.logits[:, order])


def measure_speed(contender: Classifier, images: "Dataset") -> float:
    """Measure the throughput of a model on this machine in images per second, without decoding and resizing.

    An exported file, whose network has no parameters, gets the images in the memory of the CPU.
    """
    network = contender.network
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    batch = {"pixel_values": contender.transform(images[0][IMAGE])[None].repeat(TIMED, 1, 1, 1).to(device)}
    with inference(network):
        return TIMED / min(seconds_of(partial(image_logits, network, batch), device) for _ in range(3))
