"""Evaluation of a model on images, each counted once regardless of the number of processes."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hf_tl.backbones.prefix.folding import folded_where_equal
from hf_tl.backbones.stages.modules import inference, is_sharded
from hf_tl.data.decoding.images import collate
from hf_tl.evaluation.metrics import problem_type_of
from hf_tl.processes.precision import timed

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset


FOLDED_FROM = 100
"""Smallest number of images for whose sake a network is folded, which takes about four passes of two images."""


def image_logits(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Compute the logits of a batch of `pixel_values`."""
    return model(pixel_values=batch["pixel_values"].contiguous(memory_format=torch.channels_last)).logits


@dataclass(frozen=True)
class Predictions:
    """Logits and labels of images, in order: the input of all metrics."""

    logits: np.ndarray
    """Logits of shape (images, classes)."""
    labels: np.ndarray
    """Class indices (images,), or zeros and ones (images, classes)."""


def predict_split(
    accelerator: "Accelerator",
    model: nn.Module,
    images: "Dataset | Any",
    batch_size: int,
    num_workers: int = 0,
    *,
    flip: bool = False,
    collate_fn: Callable[[Any], Mapping[str, Any]] = collate,
    logits_of: Callable[[nn.Module, Mapping[str, Any]], Tensor] = image_logits,
) -> Predictions:
    """Compute the logits of `model` on transformed images, in one pass.

    Args:
        accelerator: Accelerator that gathers from all processes.
        model: Model on the accelerator's device.
        images: Rows of `pixel_values` and `labels`, as returned by `dataset.with_transform(transforms.eval)`.
        batch_size: Number of images per step and device.
        num_workers: Number of processes that decode images.
        collate_fn: Function that collates rows of `images` into a batch.
        logits_of: Function of the model and a batch that returns logits.
        flip: Whether to average the logits of each image and its horizontal flip (test-time augmentation).

    Returns:
        Logits and labels of all images, the same on all processes.
    """
    loader = accelerator.prepare_data_loader(
        DataLoader(images, batch_size=batch_size, collate_fn=collate_fn, num_workers=num_workers)
    )
    all_logits, all_labels = [], []
    is_long = len(images) >= FOLDED_FROM and not is_sharded(model)
    with inference(model), contextlib.ExitStack() as stack:
        for number, batch in enumerate(loader):
            if number == 0 and is_long and "pixel_values" in batch:
                stack.enter_context(_folded(model, batch, logits_of))
            with accelerator.autocast():
                logits = logits_of(model, batch).float()
                if flip:
                    mirrored = {**batch, "pixel_values": batch["pixel_values"].flip(-1)}
                    logits = (logits + logits_of(model, mirrored).float()) / 2
            logits, labels = accelerator.gather_for_metrics((logits, batch["labels"]))
            all_logits.append(logits.cpu())
            all_labels.append(labels.cpu())
    return Predictions(torch.cat(all_logits).numpy(), torch.cat(all_labels).numpy())


def _folded(
    model: nn.Module, batch: Mapping[str, Any], logits_of: Callable[[nn.Module, Mapping[str, Any]], Tensor]
) -> contextlib.AbstractContextManager[None]:
    """Fold every BatchNorm while the context is open: the weights do not change in a pass."""
    some = {"pixel_values": batch["pixel_values"][:2]}
    return folded_where_equal(model, lambda: [logits_of(model, some)], lambda _: True)


def measure(accelerator: "Accelerator", model: nn.Module, *arguments: Any, **options: Any) -> dict[str, float]:
    """Compute the metrics of the model's problem type; the other arguments are those of `predict_split`."""
    predictions = predict_split(accelerator, model, *arguments, **options)
    return problem_type_of(model).compute(predictions.logits, predictions.labels)


def seconds_of(run: Callable[[], Any], device: torch.device) -> float:
    """Return the duration of the second of two runs in seconds; the first one warms up caches."""
    run()
    return timed(run, device)[1]
