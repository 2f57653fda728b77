"""The Accelerate loop: the phases of a strategy, one after another."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_tl.backbones.freezing import digest, freeze, frozen_tensors
from hf_tl.backbones.stages import list_stages, trainable_parameters
from hf_tl.config import TrainingConfig
from hf_tl.data.images import Transforms, collate
from hf_tl.errors import TrainingError
from hf_tl.evaluation.metrics import compute_metrics
from hf_tl.strategy import Phase, Strategy
from hf_tl.training.optim import build_optimizer, build_schedule, phase_ends
from hf_tl.training.views import EpochSampler, TrainingViews

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedModel


@dataclass
class TrainingLog:
    """What a training did, in the shape of `run.json`."""

    history: list[dict[str, Any]] = field(default_factory=list)
    phases: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    seconds: float = 0.0


class Training:
    """One training of a model by a strategy; `run` does all of it."""

    def __init__(
        self,
        accelerator: "Accelerator",
        model: "PreTrainedModel",
        strategy: Strategy,
        transforms_of: Callable[[Phase], Transforms],
        train_images: "Dataset",
        validation_images: "Dataset",
        config: TrainingConfig,
    ) -> None:
        """Prepare the training.

        Args:
            accelerator: runs the steps, on whatever devices and in whatever precision it is set to.
            model: trained in place; it ends with the weights that were best on the validation images.
            strategy: its phases are walked in order.
            transforms_of: gives the transforms of a phase (they differ in augmentation).
            train_images: with an image and a label column, as the transforms name them.
            validation_images: chosen on; never trained on.
            config: batch sizes, seed and the like.

        Raises:
            StageError: a phase names stages that the model does not have.
            ConfigError: a phase is shorter than a step.
        """
        self.accelerator = accelerator
        self.model = model.to(memory_format=torch.channels_last)
        self.strategy = strategy
        self.transforms_of = transforms_of
        self.train_images = train_images
        self.validation_images = validation_images
        self.config = config
        self.stages = list_stages(model)
        self.phase_ends = phase_ends(strategy.phases, self._steps_per_epoch())
        self._ever_trained = self._tensors_of_any_phase()
        self.log = TrainingLog()
        self.epochs_done = 0
        self._best_weights: dict[str, Tensor] = {}

    def run(self) -> TrainingLog:
        """Train all phases and return the log; the model holds the best weights.

        Raises:
            TrainingError: a loss is not finite, or a frozen tensor moved.
        """
        start = time.perf_counter()
        ends = self.phase_ends
        with tqdm(total=ends[-1], unit="step", disable=not self.accelerator.is_main_process) as progress:
            for index, (phase, first, end) in enumerate(zip(self.strategy.phases, [0, *ends], ends, strict=False)):
                self._run_phase(index, phase, end - first, progress)
        self.model.load_state_dict(self._best_weights, strict=False)
        self.log.seconds = time.perf_counter() - start
        return self.log

    def _run_phase(self, index: int, phase: Phase, steps: int, progress: tqdm) -> None:
        """Freeze, train `steps` optimizer steps with an optimizer of their own, and prove the freezing."""
        start = time.perf_counter()
        frozen_stages = freeze(self.model, phase.trainable_stages, phase.norm)
        frozen = frozen_tensors(self.model)
        before = digest(frozen)
        sampler = EpochSampler(len(self.train_images), self.config.seed)
        optimizer = build_optimizer(self.model, self.stages, phase)
        schedule = build_schedule(optimizer, phase, steps)
        loader = self._train_loader(sampler, self.transforms_of(phase))
        # wrapped anew in each phase: DistributedDataParallel notes at its making which parameters get gradients
        wrapped, optimizer, loader = self.accelerator.prepare(self.model, optimizer, loader)
        trained = [stage.name for stage in self.stages if stage not in frozen_stages]
        progress.set_description(f"phase {index + 1}/{len(self.strategy.phases)}: {_short(trained)}")
        done = 0
        while done < steps:
            loader.set_epoch(self.epochs_done)
            epoch_start, losses = time.perf_counter(), []
            for loss in self._epoch(wrapped, optimizer, schedule, loader, phase):
                losses.append(loss)
                done += 1
                progress.update()
                if done == steps:
                    break
            self.epochs_done += 1
            self._evaluate(
                index, phase, losses, float(schedule.get_last_lr()[0]), time.perf_counter() - epoch_start, progress
            )
        self.accelerator.free_memory(wrapped, optimizer, loader)
        after = digest(frozen_tensors(self.model))
        if before != after:
            raise TrainingError(f"frozen tensors moved in phase {index + 1} ({before[:12]} became {after[:12]})")
        self.log.phases.append(
            {
                "trainable_stages": trained,
                "parameters_trained": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
                "frozen_tensors": len(frozen),
                "digest_before": before,
                "digest_after": after,
                "seconds": time.perf_counter() - start,
            }
        )

    def _epoch(
        self, model: nn.Module, optimizer: Any, schedule: Any, loader: DataLoader, phase: Phase
    ) -> Iterator[float]:
        """Train one pass over the loader, and yield the mean loss of each optimizer step on this process."""
        model.train()
        losses: list[Tensor] = []
        for batch in loader:
            with self.accelerator.accumulate(model):
                pixel_values = batch["pixel_values"].contiguous(memory_format=torch.channels_last)
                logits = model(pixel_values=pixel_values).logits
                loss = functional.cross_entropy(logits.float(), batch["labels"], label_smoothing=phase.label_smoothing)
                self._check_finite(loss)
                losses.append(loss.detach())
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(model.parameters(), self.config.max_grad_norm)
                optimizer.step()
                if self.accelerator.sync_gradients and not self.accelerator.optimizer_step_was_skipped:
                    schedule.step()
                optimizer.zero_grad()
            if self.accelerator.sync_gradients:
                yield torch.stack(losses).mean().item()
                losses = []

    def _check_finite(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} in epoch {self.epochs_done + 1}; the weights are as before this step. "
                "Lower --learning_rate, or look for bad images"
            )

    def _evaluate(
        self, index: int, phase: Phase, losses: list[float], rate: float, seconds: float, progress: tqdm
    ) -> None:
        metrics = evaluate(
            self.accelerator,
            self.model,
            self.validation_images.with_transform(self.transforms_of(phase).eval),
            self.config.per_device_eval_batch_size,
            self.config.dataloader_num_workers,
        )
        train_loss = self.accelerator.gather(
            torch.tensor([sum(losses) / len(losses)], device=self.accelerator.device)
        ).mean()
        entry = {
            "phase": index,
            "epoch": float(self.epochs_done),
            "learning_rate": rate,
            "train_loss": train_loss.item(),
            "validation": metrics,
            "seconds": seconds,
        }
        self.log.history.append(entry)
        self.accelerator.log(
            {"train/loss": entry["train_loss"], "train/learning_rate": rate}
            | {f"validation/{name}": value for name, value in metrics.items()},
            step=self.epochs_done,
        )
        progress.set_postfix_str(
            f"loss {entry['train_loss']:.3f}, validation accuracy {metrics['accuracy']:.1%}", refresh=True
        )
        best = self.log.best
        if best is None or _quality(metrics) > _quality(best["validation"]):
            self.log.best = {"phase": index, "epoch": entry["epoch"], "validation": metrics}
            self._keep_best()

    def _keep_best(self) -> None:
        """Copy what any phase trains to the CPU; the rest cannot change."""
        state = self.accelerator.unwrap_model(self.model).state_dict()
        self._best_weights = {
            name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items() if name in self._ever_trained
        }

    def _tensors_of_any_phase(self) -> frozenset[str]:
        """Name the tensors of the stages that some phase trains; all where norms do not stay frozen."""
        names: set[str] = set()
        for phase in self.strategy.phases:
            trainable = trainable_parameters(self.stages, phase.trainable_stages)
            for stage in self.stages:
                if phase.norm != "frozen" or not trainable.isdisjoint(stage.parameter_names):
                    names.update(stage.parameter_names, stage.buffer_names)
        return frozenset(names)

    def _train_loader(self, sampler: EpochSampler, transforms: Transforms) -> DataLoader:
        workers = self.config.dataloader_num_workers
        return DataLoader(
            TrainingViews(self.train_images, transforms.train, self.config.seed),
            batch_size=self.config.per_device_train_batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )

    def _steps_per_epoch(self) -> int:
        per_step = self.config.per_device_train_batch_size * self.accelerator.num_processes
        batches = math.ceil(len(self.train_images) / per_step)
        return math.ceil(batches / self.config.gradient_accumulation_steps)


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


def evaluate(
    accelerator: "Accelerator", model: nn.Module, images: "Dataset", batch_size: int, num_workers: int = 0
) -> dict[str, float]:
    """Compute the metrics of `model` on transformed images, each counted once on however many processes.

    Args:
        accelerator: gathers from all processes.
        model: on the accelerator's device.
        images: rows of `pixel_values` and `labels`, as `dataset.with_transform(transforms.eval)` gives them.
        batch_size: images a step on each device.
        num_workers: processes that decode images.

    Returns:
        `accuracy`, `top5_accuracy`, `macro_f1` and `loss`, the same on all processes.
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
            logits, labels = accelerator.gather_for_metrics((logits, batch["labels"]))
            all_logits.append(logits.cpu())
            all_labels.append(labels.cpu())
    return compute_metrics(torch.cat(all_logits).numpy(), torch.cat(all_labels).numpy())


def _quality(metrics: dict[str, float]) -> tuple[float, float]:
    """Order by accuracy, and among equals by loss."""
    return metrics["accuracy"], -metrics["loss"]


def _short(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
