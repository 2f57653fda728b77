"""Metrics of a model on images, each counted once on however many processes."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils.data import DataLoader

from hf_tl.data.images import collate
from hf_tl.evaluation.metrics import problem_type_of

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset


def measure(
    accelerator: "Accelerator",
    model: nn.Module,
    images: "Dataset",
    batch_size: int,
    num_workers: int = 0,
    *,
    flip: bool = False,
) -> dict[str, float]:
    """Compute the metrics of `model` on transformed images.

    Args:
        accelerator: gathers from all processes.
        model: on the accelerator's device.
        images: rows of `pixel_values` and `labels`, as `dataset.with_transform(transforms.eval)` gives them.
        batch_size: images a step on each device.
        num_workers: processes that decode images.
        flip: whether to take the mean of the logits of each image and its mirror image (test-time augmentation).

    Returns:
        The metrics of the model's problem type (see `hf_tl.evaluation.metrics`), the same on all processes.
    """
    loader = accelerator.prepare_data_loader(
        DataLoader(images, batch_size=batch_size, collate_fn=collate, num_workers=num_workers)
    )
    all_logits, all_labels = [], []
    with inference(model):
        for batch in loader:
            pixel_values = batch["pixel_values"].contiguous(memory_format=torch.channels_last)
            with accelerator.autocast():
                logits = model(pixel_values=pixel_values).logits.float()
                if flip:
                    logits = (logits + model(pixel_values=pixel_values.flip(-1)).logits.float()) / 2
            logits, labels = accelerator.gather_for_metrics((logits, batch["labels"]))
            all_logits.append(logits.cpu())
            all_labels.append(labels.cpu())
    return problem_type_of(model).compute(torch.cat(all_logits).numpy(), torch.cat(all_labels).numpy())


@contextlib.contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Run `model` in inference mode, and put its mode back."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
