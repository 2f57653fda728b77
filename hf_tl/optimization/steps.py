"""Optimizer steps of a phase."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hf_tl.errors import TrainingError, name_some

if TYPE_CHECKING:
    from accelerate import Accelerator

BATCH_OF_ONE = "Expected more than 1 value per channel"
"""Start of torch's message for BatchNorm in training mode."""


def train_steps(
    accelerator: "Accelerator",
    model: nn.Module,
    optimizer: Any,
    schedule: Any,
    loader: DataLoader,
    logits_of: Callable[[nn.Module, Mapping[str, Any]], Tensor],
    loss_of: Callable[[Tensor, Mapping[str, Any]], Tensor],
    max_grad_norm: float | None,
    steps_done: int,
) -> Iterator[float]:
    """Train over the loader, and yield the loss after each optimizer step, averaged over all images of the step.

    Args:
        accelerator: Accelerator; it accumulates gradients and scales the loss.
        model: Model, prepared by the accelerator like `optimizer` and `loader`.
        optimizer: Optimizer of the trainable parameters.
        schedule: Learning rate schedule, advanced once per optimizer step.
        loader: Batches with `labels` and `index`.
        logits_of: Function from the model and a batch to logits.
        loss_of: Function from logits and their batch to a mean loss.
        max_grad_norm: L2 norm to which gradients are clipped. None disables clipping.
        steps_done: Number of previous steps, for messages.

    Raises:
        TrainingError: The loss or a gradient is not finite; the optimizer step was not taken.
    """
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    losses: list[Tensor] = []
    indices: list[int] = []
    for batch in loader:
        with accelerator.accumulate(model):
            with _named_batch_of_one():
                logits = logits_of(model, batch)
            loss = loss_of(logits, batch)
            losses.append(loss.detach())
            indices += batch["index"].tolist()
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                steps_done += 1
                norm = accelerator.clip_grad_norm_(trained, math.inf if max_grad_norm is None else max_grad_norm)
                mean_loss = _finite_mean(accelerator, torch.stack(losses).mean(), norm, indices, steps_done)
            optimizer.step()
            if accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped:
                schedule.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            yield mean_loss
            losses, indices = [], []


@contextlib.contextmanager
def _named_batch_of_one() -> Iterator[None]:
    """Turn the error of a BatchNorm that sees a single value per channel into one that names the flags."""
    try:
        yield
    except ValueError as error:
        if BATCH_OF_ONE not in str(error):
            raise
        raise TrainingError(
            "BatchNorm cannot normalize a batch of one image: set --per_device_train_batch_size to at least 2, or keep "
            "the statistics of the pretrained weights with --batch_norm keep"
        ) from error


def _finite_mean(accelerator: "Accelerator", loss: Tensor, norm: Tensor | None, indices: list[int], step: int) -> float:
    """Average the loss over the processes; raise an error before the optimizer step if it or a gradient is not finite.

    The mean informs all processes of a loss on one of them; gradients are already summed. Under fp16, overflowing
    gradients are normal, and the scaler skips the step.
    """
    mean_loss = float(accelerator.reduce(loss, "mean"))
    is_finite_gradient = norm is None or accelerator.mixed_precision == "fp16" or bool(torch.isfinite(norm))
    if math.isfinite(mean_loss) and is_finite_gradient:
        return mean_loss
    from accelerate.utils import gather_object

    everywhere = gather_object([(bool(torch.isfinite(loss)), indices)])
    suspects = [index for is_finite, batch in everywhere if not is_finite for index in batch]
    suspects = suspects or [index for _, batch in everywhere for index in batch]
    what = "a gradient" if math.isfinite(mean_loss) else "the loss"
    raise TrainingError(
        f"{what} is not finite in step {step}; the step was not taken. "
        f"Images of the batch, by row in the training split: {name_some(sorted(suspects), 64)}. "
        "Check these images, or lower --learning_rate"
    )
