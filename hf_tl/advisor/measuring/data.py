"""Data of a recommendation: the splits of a training, without images that a backbone was trained on."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_tl.advisor.measuring.sample import Sample
from hf_tl.backbones.candidates import Backbone
from hf_tl.errors import ModelError
from hf_tl.record import LearnedFrom, split_digest

if TYPE_CHECKING:
    from hf_tl.data.image_data import AnyDataset, ImageData


def known_images(choices: Sequence[Backbone]) -> tuple[dict[str, LearnedFrom], dict[str, str]]:
    """Return the images that hf_tl trained each backbone on, and the errors of unreadable records, both by name."""
    learned: dict[str, LearnedFrom] = {}
    unreadable: dict[str, str] = {}
    for backbone in choices:
        try:
            learned[backbone.name] = learned.get(backbone.name, LearnedFrom()).union(backbone.learned())
        except ModelError as error:
            unreadable[backbone.name] = str(error)
    return learned, unreadable


def open_data(
    dataset: "AnyDataset", learned: Mapping[str, LearnedFrom], include_training_images: bool, **settings: Any
) -> "tuple[ImageData, LearnedFrom]":
    """Return the data in the splits of a training, and those of their images that a backbone was trained on."""
    from hf_tl.data.datasets import load_arguments, load_data
    from hf_tl.data.learned import resolve
    from hf_tl.evaluation.leakage import measurable

    known = reduce(LearnedFrom.union, learned.values(), LearnedFrom())
    settings = {**load_arguments(settings), "learned": known, "include_training_images": include_training_images}
    data = load_data(dataset, **settings)
    data, _ = measurable(data, learned, include_training_images=include_training_images)
    return data, resolve(known, data)


def describe_data(data: "ImageData", sample: Sample) -> dict[str, Any]:
    """Return the facts about the data that a recommendation states."""
    counts = data.class_counts("train")
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "classes": list(data.labels),
        "training_images": sum(counts),
        "class_counts": counts,
        "median_class": float(np.median(counts)),
        "measured_on": len(sample.labels),
        "available": sample.available,
        "copies": sample.copies,
        "conflicts": sample.conflicts,
        "groups_of_copies": [vars(group) for group in sample.named],
        "notes": list(data.notes),
        "splits": split_digests(data),
    }


def split_digests(data: "ImageData") -> dict[str, str]:
    """Return a digest of the images of each split, independent of their order."""
    return {split: split_digest(digests) for split, digests in data.digests.items()}
