"""Choices made before training: learning rate of the head, and a batch size that fits into memory."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hf_tl.backbones.stages.freezing import freeze
from hf_tl.backbones.stages.modules import inference
from hf_tl.backbones.stages.paths import outermost
from hf_tl.backbones.stages.stage import Stage, list_stages
from hf_tl.config import TrainingConfig
from hf_tl.data.decoding.images import collate
from hf_tl.data.drawing import number_units
from hf_tl.errors import ConfigError
from hf_tl.evaluation.metrics import SINGLE_LABEL, ProblemType, problem_type_of
from hf_tl.optimization.loss import training_loss
from hf_tl.optimization.optim import build_schedule
from hf_tl.processes.together import agree
from hf_tl.strategy import Phase, Strategy

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedModel

LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""Learning rates of the head to try."""
MAX_IMAGES = 2_000
"""Maximum number of images in the learning rate sweep, a fifth of which are held out."""
MAX_STEPS = 500
"""Maximum number of training steps per learning rate."""


@dataclass(frozen=True)
class RateSweep:
    """Learning rates of the head, with their losses."""

    losses: dict[float, float]
    """Cross-entropy (binary for multi-label problems) on held-out images, by learning rate."""

    @property
    def best(self) -> float:
        """Learning rate with the lowest loss; the lowest one of equals."""
        return min(self.losses, key=lambda rate: (self.losses[rate], rate))

    def __str__(self) -> str:
        losses = ", ".join(f"{loss:.3g} at {rate:g}" for rate, loss in self.losses.items())
        return f"{self.best:g} (lowest of held-out losses {losses})"


def sweep_learning_rates(
    accelerator: "Accelerator",
    model: "PreTrainedModel",
    images: "Dataset",
    phase: Phase,
    config: TrainingConfig,
    units: Sequence[str | bytes] = (),
) -> RateSweep:
    """Train copies of the head on frozen features, one per learning rate, which takes seconds.

    The network processes each image of a sample once. Each copy starts from the current weights of the head and is
    trained with the loss, the schedule, the batch size and, up to `MAX_STEPS`, the number of steps of the phase. The
    weights and the random state of the run do not change.

    Args:
        accelerator: Accelerator; its main process decides.
        model: Model on the accelerator's device.
        images: Training images with the evaluation transform.
        phase: Phase that trains the head.
        config: Batch size and seed.
        units: Group of each image; no group is both trained on and held out. Defaults to independent images.

    Raises:
        ConfigError: The head is not a single module after the rest of the network.
    """
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * accelerator.num_processes
    steps = phase.steps or round((phase.epochs or 0) * len(images) / batch)
    generator = torch.Generator().manual_seed(config.seed)
    sample, held_out = by_groups(torch.randperm(len(images), generator=generator)[:MAX_IMAGES].tolist(), units)
    head = head_module(model, list_stages(model)[-1])
    with torch.random.fork_rng(devices=[]):
        features, labels = head_inputs(model, head, images.select(sample), config.per_device_eval_batch_size)
        losses = {
            rate: held_out_loss(
                copy.deepcopy(head), features, labels, replace(phase, learning_rate=rate),
                steps=max(1, min(steps, MAX_STEPS)), batch=batch, seed=config.seed, problem=problem_type_of(model),
                held_out=held_out,
            )
            for rate in LEARNING_RATES
        }  # fmt: skip
    return agree(accelerator, RateSweep(losses))


def by_groups(rows: Sequence[int], units: Sequence[str | bytes]) -> tuple[list[int], int]:
    """Sort rows so that those of a group follow one another, and return how many of the first to hold out: a fifth.

    The border lies between two groups, unless all rows are of one.

    >>> by_groups([0, 1, 2, 3, 4, 5], [])
    ([0, 1, 2, 3, 4, 5], 1)
    >>> by_groups([0, 1, 2, 3, 4, 5], ["a", "b", "a", "a", "c", "c"])
    ([0, 2, 3, 1, 4, 5], 3)
    """
    groups = number_units([units[row] for row in rows]) if units else np.arange(len(rows))
    order = np.argsort(groups, kind="stable")
    fifth = max(1, len(rows) // 5)
    held_out = int((groups <= groups[order[fifth - 1]]).sum())
    return [rows[place] for place in order], held_out if held_out < len(rows) else fifth


def head_module(
    model: nn.Module, head: Stage, flag: str = "--find_learning_rate", instead: str = "set --learning_rate"
) -> nn.Module:
    """Return the module of the head.

    Args:
        model: Classifier.
        head: Last stage of the classifier.
        flag: Flag that needs the module, for the error message.
        instead: Alternative, for the error message.

    Raises:
        ConfigError: The head has several modules.
    """
    modules = dict(model.named_modules())
    owners = [name for name in head.module_names if any(True for _ in modules[name].parameters())]
    roots = outermost(owners)
    if len(roots) != 1:
        raise ConfigError(f"{flag} needs a head of one module, found {', '.join(roots)}: {instead}")
    return modules[roots[0]]


def head_inputs(model: nn.Module, head: nn.Module, images: "Dataset", batch_size: int) -> tuple[Tensor, Tensor]:
    """Compute the head's input for each image.

    Returns:
        Features (images, …) and labels (images,) or (images, classes), on the model's device.
    """
    features: list[Tensor] = []
    labels: list[Tensor] = []
    device = next(model.parameters()).device
    hook = head.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0].float()))
    try:
        with inference(model):
            for batch in DataLoader(images, batch_size=batch_size, collate_fn=collate):
                model(pixel_values=batch["pixel_values"].to(device, memory_format=torch.channels_last))
                labels.append(batch["labels"].to(device))
    finally:
        hook.remove()
    # inference tensors cannot be trained on
    return torch.cat(features).clone(), torch.cat(labels)


def held_out_loss(
    head: nn.Module,
    features: Tensor,
    labels: Tensor,
    phase: Phase,
    *,
    steps: int,
    batch: int,
    seed: int,
    problem: ProblemType = SINGLE_LABEL,
    held_out: int | None = None,
) -> float:
    """Train `head` on four fifths of the features, or on all but the first ones; return its cross-entropy on the rest.

    Returns:
        The loss; infinity if it is not finite.
    """
    held_out = max(1, len(labels) // 5) if held_out is None else held_out
    train = len(labels) - held_out
    optimizer = torch.optim.AdamW(
        head.requires_grad_().parameters(), phase.learning_rate, weight_decay=phase.weight_decay
    )
    schedule = build_schedule(optimizer, phase, steps)
    generator = torch.Generator().manual_seed(seed)
    head.train()
    for _ in range(steps):
        rows = held_out + torch.randint(train, (min(batch, train),), generator=generator).to(labels.device)
        training_loss(head(features[rows]), labels[rows], phase, problem=problem).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    with inference(head):
        plain = replace(phase, label_smoothing=0.0)
        loss = training_loss(head(features[:held_out]), labels[:held_out], plain, problem=problem)
    return float(loss.nan_to_num(nan=torch.inf))


def fit_batch_size(
    accelerator: "Accelerator",
    model: nn.Module,
    strategy: Strategy,
    config: TrainingConfig,
    image: tuple[int, ...],
    teach: Callable[[Tensor], Tensor] | None = None,
) -> TrainingConfig:
    """Halve the batch size until a step of the largest phase fits into the memory of every device.

    The global batch size does not change: more smaller batches are accumulated. On a CPU the batch size stays as set,
    because running out of memory ends the process and cannot be tried.

    Args:
        accelerator: Accelerator; its number of accumulation steps is updated.
        model: Model on the accelerator's device. Its weights and statistics do not change.
        strategy: Strategy; the phase with the most trained parameters is tried.
        config: Settings with the initial batch size.
        image: (channels, height, width).
        teach: Function from images to the logits of a teacher, which needs memory too. Defaults to none.

    Raises:
        ConfigError: The batch size cannot be halved any further.
    """
    if accelerator.device.type == "cpu":
        return config
    largest = config.per_device_train_batch_size
    batch = largest_fitting(largest, lambda size: _fits(accelerator, model, strategy, (size, *image), teach))
    batch = int(accelerator.gather(torch.tensor([batch], device=accelerator.device)).min())
    accumulation = config.gradient_accumulation_steps * (largest // batch)
    accelerator.gradient_accumulation_steps = accumulation
    return replace(config, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)


def largest_fitting(batch: int, fits: Callable[[int], bool]) -> int:
    """Halve `batch` until it fits.

    Raises:
        ConfigError: The batch size is odd and does not fit.

    >>> largest_fitting(48, lambda size: size <= 20)
    12
    """
    while not fits(batch):
        if batch % 2:
            raise ConfigError(
                f"a batch of {batch} images does not fit into memory and cannot be halved: set another "
                "--per_device_train_batch_size (a power of two), a smaller --image_size, or --gradient_checkpointing"
            )
        batch //= 2
    return batch


def _fits(
    accelerator: "Accelerator",
    model: nn.Module,
    strategy: Strategy,
    shape: tuple[int, ...],
    teach: Callable[[Tensor], Tensor] | None,
) -> bool:
    from accelerate.utils import release_memory
    from accelerate.utils.memory import should_reduce_batch_size

    def trained(phase: Phase) -> int:
        freeze(model, phase)
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    largest = max(strategy.phases, key=trained)
    trained(largest)
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    moments: list[Tensor] = []
    was_training = model.training
    try:
        # AdamW stores two tensors per parameter
        moments += [torch.empty_like(p) for p in model.parameters() if p.requires_grad for _ in range(2)]
        pixel_values = torch.zeros(shape, device=accelerator.device).contiguous(memory_format=torch.channels_last)
        with torch.random.fork_rng(), accelerator.autocast():
            logits = model.train()(pixel_values=pixel_values).logits
            problem = problem_type_of(model)
            taught = None if teach is None else teach(pixel_values)
            labels = problem.probabilities(logits.detach())
            loss = training_loss(logits, labels, largest, problem=problem, taught=taught)
        loss.backward()
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        return False
    finally:
        model.train(was_training).zero_grad()
        for name, buffer in model.named_buffers():
            buffer.copy_(statistics[name])
        release_memory(*moments)
    return True
