"""The optimizer steps of a phase."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hf_tl.errors import TrainingError, name_some

if TYPE_CHECKING:
    from accelerate import Accelerator


def train_steps(
    accelerator: "Accelerator",
    model: nn.Module,
    optimizer: Any,
    schedule: Any,
    loader: DataLoader,
    logits_of: Callable[[nn.Module, Mapping[str, Any]], Tensor],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    max_grad_norm: float | None,
    steps_done: int,
) -> Iterator[float]:
    """Train over the loader, and yield the loss after each optimizer step, averaged over all its images.

    Args:
        accelerator: accumulates gradients, scales the loss, and knows the other processes.
        model: prepared by the accelerator, like `optimizer` and `loader`.
        optimizer: of the trainable parameters.
        schedule: of its rates, one move an optimizer step.
        loader: batches with `labels` and `index`.
        logits_of: from the model and a batch to logits.
        loss_of: from logits and labels to a mean loss.
        max_grad_norm: clip gradients to this L2 norm; None: no clipping.
        steps_done: before the first, for messages.

    Raises:
        TrainingError: the loss or a gradient is no number; the optimizer step was not taken.
    """
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    losses: list[Tensor] = []
    indices: list[int] = []
    for batch in loader:
        with accelerator.accumulate(model):
            loss = loss_of(logits_of(model, batch), batch["labels"])
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


def _finite_mean(accelerator: "Accelerator", loss: Tensor, norm: Tensor | None, indices: list[int], step: int) -> float:
    """Average the loss over the processes, and stop before the optimizer step where it or a gradient is no number.

    The mean tells all processes of a loss on one of them; gradients are summed before. Under fp16 a gradient that
    overflows is usual: the scaler leaves the step out.
    """
    mean_loss = float(accelerator.reduce(loss, "mean"))
    is_finite_gradient = norm is None or accelerator.mixed_precision == "fp16" or bool(torch.isfinite(norm))
    if math.isfinite(mean_loss) and is_finite_gradient:
        return mean_loss
    from accelerate.utils import gather_object

    everywhere = gather_object([(bool(torch.isfinite(loss)), indices)])
    suspects = [index for is_good, seen in everywhere if not is_good for index in seen]
    suspects = suspects or [index for _, seen in everywhere for index in seen]
    what = "a gradient" if math.isfinite(mean_loss) else "the loss"
    raise TrainingError(
        f"{what} is not finite in step {step}; the weights are as they were before it. "
        f"The images of that batch, by their row in the training split: {name_some(sorted(suspects), 64)}. "
        "Look at them, or lower --learning_rate"
    )
