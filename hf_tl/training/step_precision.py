"""Precision of the training steps of a phase, chosen by measured time."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hf_tl.backbones.stages.modules import undisturbed
from hf_tl.config import TrainingConfig
from hf_tl.errors import ConfigError
from hf_tl.features.inputs import LogitsOf
from hf_tl.processes.precision import (
    BFLOAT16,
    FLOAT32,
    are_too_few,
    has_bfloat16,
    is_short,
    measure_precision,
    precise,
)
from hf_tl.processes.sharding import ShardedAccelerator
from hf_tl.processes.together import on_main_process
from hf_tl.record.parts import PrecisionRecord

if TYPE_CHECKING:
    from accelerate import Accelerator

IMAGES = 16
"""Largest number of images of a timed step."""
MIN_SECONDS = 30.0
"""Smallest duration of a phase in float32 for which the precision is measured."""
MAX_DIFFERENCE = 0.05
"""Largest difference of the losses, relative to the loss, at which bfloat16 is chosen."""

LossOf = Callable[[Tensor, Mapping[str, Any]], Tensor]


def check_step_precision(accelerator: "Accelerator", config: TrainingConfig) -> None:
    """Reject a precision that the launcher overrides.

    Raises:
        ConfigError: The launcher chose another precision, or FSDP takes only that of the launcher.
    """
    wanted, launched = config.mixed_precision, accelerator.mixed_precision
    if wanted in ("auto", launched):
        return
    if launched != "no" or isinstance(accelerator, ShardedAccelerator):
        raise ConfigError(
            f"--mixed_precision {wanted} contradicts the launcher, which chose {launched}"
            f"{' (FSDP has no other)' if isinstance(accelerator, ShardedAccelerator) else ''}: leave it out here, and "
            "choose the precision in accelerate launch"
        )


def choose_step_precision(
    accelerator: "Accelerator",
    model: nn.Module,
    logits_of: LogitsOf,
    loss_of: LossOf,
    batch: Callable[[], Mapping[str, Any]],
    images: float,
    config: TrainingConfig,
) -> PrecisionRecord | None:
    """Return the precision of training steps: that of `--mixed_precision`, or the result of a measurement.

    A step is a forward and a backward pass. The model is left as it was.

    Args:
        accelerator: Accelerator of the training.
        model: Model, frozen for the phase, on the accelerator's device.
        logits_of: Function from the model and a batch to logits.
        loss_of: Function from logits and their batch to a loss.
        batch: Function that returns training images on the device.
        images: Number of images of the phase on this device.
        config: Settings with `mixed_precision`.

    Returns:
        The precision; None if the launcher chose it, or if the model is sharded.
    """
    if accelerator.mixed_precision != "no" or isinstance(accelerator, ShardedAccelerator):
        return None
    if config.mixed_precision != "auto":
        return PrecisionRecord(BFLOAT16 if config.mixed_precision == "bf16" else FLOAT32)
    if not has_bfloat16(accelerator.device) or are_too_few(images / IMAGES):
        return PrecisionRecord(FLOAT32)
    return on_main_process(accelerator, lambda: _measure(accelerator, model, logits_of, loss_of, batch(), images))


def _measure(
    accelerator: "Accelerator",
    model: nn.Module,
    logits_of: LogitsOf,
    loss_of: LossOf,
    batch: Mapping[str, Any],
    images: float,
) -> PrecisionRecord:
    some = {name: _first(value) for name, value in batch.items()}
    count = len(some["labels"])

    def step() -> Tensor:
        torch.manual_seed(0)  # the same dropout each time; `undisturbed` restores the random state
        loss = loss_of(logits_of(model, some).float(), some)
        loss.backward()  # type: ignore[no-untyped-call]
        model.zero_grad()
        return loss.detach()

    def agree(exact: Tensor, rough: Tensor) -> tuple[float, bool]:
        difference = float((exact - rough).abs() / exact.abs().clamp(min=0.1))
        return difference, difference <= MAX_DIFFERENCE  # not a number compares as False

    if count < 2:  # BatchNorm in training mode needs two
        return PrecisionRecord(FLOAT32)
    with undisturbed(model):
        model.train()
        if is_short(step, images / count, MIN_SECONDS, accelerator.device):
            return PrecisionRecord(FLOAT32)
        return measure_precision(step, agree, count, accelerator.device)


def _first(value: Any) -> Any:
    """Return the first images of a tensor, or of each tensor of a list."""
    return value[:IMAGES] if isinstance(value, Tensor) else [part[:IMAGES] for part in value]


def in_precision(logits_of: LogitsOf, record: PrecisionRecord | None, accelerator: "Accelerator") -> LogitsOf:
    """Return a function to logits that runs in a precision; unchanged for None."""
    if record is None:
        return logits_of

    def in_its_precision(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        with precise(record.precision, accelerator.device):
            return logits_of(model, batch).float()

    return in_its_precision
