"""Cost estimate of a strategy on this machine: one step of each phase is timed, without training."""

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_tl.backbones.candidates import Backbone
from hf_tl.backbones.stages.freezing import freeze, frozen_tensors
from hf_tl.backbones.stages.modules import inference
from hf_tl.backbones.weights.digest import digest
from hf_tl.config import TrainingConfig
from hf_tl.evaluation.measure import seconds_of
from hf_tl.features.feature_pass import list_feature_sets
from hf_tl.features.lookup import count_cached
from hf_tl.strategy import Strategy
from hf_tl.training.refit import is_refitted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_tl.data.datasets import ImageData
    from hf_tl.data.decoding.images import ImageTransform, Transforms
    from hf_tl.features.feature_store import FeatureStore
    from hf_tl.strategy import Phase

TIMED = 8
"""Batch size of the timed step."""
BATCH = 32
"""Batch size of training; the default of `--per_device_train_batch_size`."""
MOMENTS = 2
"""AdamW moments for each trained parameter."""


@dataclass(frozen=True)
class Cost:
    """Estimated cost of one run."""

    seconds: float
    """Duration of training and evaluation on this machine, with nothing else running."""
    memory: int
    """Bytes of weights, gradients, optimizer moments and the activations of a step of 32 images, without the libraries
    themselves."""
    parameters: int
    parameters_trained: int
    """Trained parameters of the phase that trains the most."""
    phase_seconds: tuple[float, ...]
    """Duration of each phase, run once."""
    cached_images: int = 0
    """Training and validation images whose features are in the cache: their pass through the frozen part is saved."""

    def __str__(self) -> str:
        cached = f"; features of {self.cached_images:,} images are in the cache" if self.cached_images else ""
        return (
            f"about {describe_seconds(self.seconds)} on this machine, {self.memory / 1e6:,.0f} MB of memory (batch "
            f"size {BATCH}), {self.parameters_trained:,} of {self.parameters:,} parameters trained{cached}"
        )


def estimate_cost(
    backbone: Backbone, data: "ImageData", strategy: Strategy, device: torch.device, store: "FeatureStore | None"
) -> Cost:
    """Time a step of each phase on a few images, and count the memory that it needs.

    Args:
        backbone: Backbone to train.
        data: Training data.
        strategy: Strategy whose phases are timed.
        device: Device of the training.
        store: Cache of the features of the frozen part; None if training uses none (`--feature_cache off`).
    """
    model, preprocessing = backbone.load(data.labels, pretrained=not strategy.from_scratch)
    model.to(device)
    train, validation = (len(data.splits[split]) for split in ("train", "validation"))
    seconds: list[float] = []
    memory, trained, cached = 0, 0, 0
    for phase in strategy.phases:
        freeze(model, phase)
        transforms = preprocessing.transforms(phase.augmentation)
        loading = _loading_seconds(data, transforms.train)
        pixel_values = torch.randn(TIMED, *preprocessing.input_size, device=device)
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        forward = seconds_of(partial(_forward, model, pixel_values), device) / TIMED
        step = seconds_of(partial(_train_step, model, pixel_values), device) / TIMED
        epochs = phase.epochs if phase.epochs is not None else (phase.steps or 1) * BATCH / train
        if store is not None and phase.augmentation == "none" and phase.trainable_stages != "all":
            # cached features: the frozen part runs once, each epoch runs the trained part alone
            reused = _cached_images(store, model, phase, data, transforms)
            missing = train + validation - reused
            seconds.append(missing * (loading + forward) + epochs * train * max(0.0, step - forward))
            cached = max(cached, reused)
        else:
            seconds.append(epochs * (train * (loading + step) + validation * (loading + forward)))
        numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
        memory = max(memory, _weight_bytes(model) + 4 * (1 + MOMENTS) * numbers + _kept_bytes(model, pixel_values))
        trained = max(trained, numbers)
    passes = 1.0
    if is_refitted(strategy, data) and not strategy.is_climb:  # the last depth of a climb is unknown
        passes += 1 + validation / train
    parameters = sum(p.numel() for p in model.parameters())
    return Cost(passes * sum(seconds), memory, parameters, trained, tuple(seconds), cached)


def _cached_images(
    store: "FeatureStore", model: "PreTrainedModel", phase: "Phase", data: "ImageData", transforms: "Transforms"
) -> int:
    """Count the training and validation images whose features an earlier run has left in the cache."""
    train, validation = data.splits["train"], data.splits["validation"]
    sets = list_feature_sets(TrainingConfig(), phase, transforms, train, validation)
    return count_cached(store, sets, digest(frozen_tensors(model)), data.orders)


def _loading_seconds(data: "ImageData", transform: "ImageTransform") -> float:
    """Return the seconds that decoding and transforming an image takes."""
    images = data.splits["train"]
    rows = transform.over(images.select(range(min(TIMED, len(images)))))
    start = time.perf_counter()
    [rows[row] for row in range(len(rows))]
    return (time.perf_counter() - start) / len(rows)


def _forward(model: "PreTrainedModel", pixel_values: Tensor) -> None:
    with inference(model):
        model(pixel_values=pixel_values)


def _train_step(model: "PreTrainedModel", pixel_values: Tensor) -> None:
    model.train()
    model(pixel_values=pixel_values).logits.float().logsumexp(1).sum().backward()
    model.zero_grad()


def _weight_bytes(model: "PreTrainedModel") -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def _kept_bytes(model: "PreTrainedModel", pixel_values: Tensor) -> int:
    """Return the bytes of activations that a step of `BATCH` images keeps for its backward pass."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = model(pixel_values=pixel_values).logits
    del logits
    return sum(kept.values()) * BATCH // len(pixel_values)


def describe_seconds(seconds: float) -> str:
    """Format a duration, rounded, in seconds, minutes or hours.

    >>> describe_seconds(8.4), describe_seconds(372), describe_seconds(9000)
    ('8 s', '6 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3600:.1f} h"
