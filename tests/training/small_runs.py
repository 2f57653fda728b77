"""A training of seconds, for tests in this process and in processes that they start and kill."""

import copy
import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import ClassLabel, Dataset, Features, Image
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map_only
from torchvision.transforms import v2
from training.faulty_models import FLAT, inject_fault
from training.small_phases import PHASES
from transformers import SiglipConfig, SiglipForImageClassification, set_seed

from hf_tl.backbones.load import load_backbone
from hf_tl.backbones.stages.freezing import frozen_tensors
from hf_tl.checkpoints.state import Contents
from hf_tl.config import TrainingConfig
from hf_tl.data.decoding.images import ImageTransform, Transforms
from hf_tl.processes.accelerator import make_accelerator
from hf_tl.processes.sharding import launcher_asks, part, whole
from hf_tl.record.codec import encode
from hf_tl.strategy import Phase, Strategy
from hf_tl.training.loop import Training
from hf_tl.training.phase_data import TrainingImages
from hf_tl.training.phase_run import PhaseRun
from hf_tl.training.refit import Refit

gc.freeze()  # accelerate collects garbage after each phase; exclude the objects of the imports

LABELS = ["cat", "dog", "owl"]
AUTO = {"resume_from_checkpoint": "auto"}
SIDE, IMAGES = 32, 14
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": SIDE,
    "patch_size": 8,
}


@dataclass
class Run:
    """Task of a process; it is passed as JSON."""

    output: str
    phases: str = "gradual"
    config: dict[str, Any] = field(default_factory=dict)
    """Arguments of `TrainingConfig` or `TrainingArguments`."""
    seed: int = 0
    """Seed of the random state before the run: a result that does not depend on it came from a checkpoint."""
    model: str = "resnet"
    """Network: `resnet`; `vit`; or `siglip`, a part of which never gets a gradient."""
    dropout: float = 0.2
    """Dropout before the head of a `resnet`; the others have none."""
    fault: str = ""
    """Injected fault. `image`: image 5 has one color, so that it becomes NaN when divided by its own standard
    deviation. `loss`: its class has the logit minus infinity, with finite gradients. `gradient`: one is NaN in the last
    process."""
    way: str = "loop"
    """Loop: `loop`, or `trainer`."""
    expected_rung: int | None = None
    """Expected stage depth of a climb, whose stage depths are the phases; None for no climb."""
    refit: bool = False
    """Whether a refit on the validation images follows; the weights are from it, the other results are not."""
    signal_at: tuple[int, int, int] | None = None
    """Step, rank and signal: the rank sends itself the signal after the step."""
    accelerator: dict[str, Any] = field(default_factory=dict)
    """Arguments of `Accelerator`."""
    is_measured: bool = False
    """Whether precisions are measured in short phases too, and bfloat16 taken; for runs in processes of their own."""

    @property
    def strategy(self) -> Strategy:
        return Strategy(self.phases, PHASES[self.phases], expected_rung=self.expected_rung)


def make_images(run: Run) -> Dataset:
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    if run.fault in ("image", "loss"):
        pixels[FLAT] = 128
    features = Features(image=Image(), label=ClassLabel(names=LABELS))
    return Dataset.from_dict({"image": list(pixels), "label": [i % 3 for i in range(IMAGES)]}, features=features)


def make_transforms(run: Run, augmentation: str = "light") -> Transforms:
    def standardize(image: Tensor) -> Tensor:
        centered = image - image.mean()
        return centered if run.fault == "loss" else centered / centered.std()

    plain = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), standardize]
    random = [v2.RandomResizedCrop(SIDE, scale=(0.5, 1)), v2.RandomHorizontalFlip()]
    random = [] if augmentation == "none" else random
    return Transforms(ImageTransform(v2.Compose([*random, *plain])), ImageTransform(v2.Compose(plain)))


def make_model(run: Run) -> nn.Module:
    set_seed(0)
    if run.model == "siglip":
        return SiglipForImageClassification(SiglipConfig(vision_config=TINY, num_labels=len(LABELS)))
    model, _ = load_backbone(f"timm:test_{run.model}", LABELS, Strategy.transfer(), pretrained=False, image_size=SIDE)
    model.timm_model.drop_rate = run.dropout
    set_seed(run.seed)
    inject_fault(model, run.fault)
    return model


Recorded = TypeVar("Recorded", bound="RecordedTraining")


def report_progress() -> None:
    """Report the start of a step or a checkpoint to the test that kills the process."""


class StoppedError(Exception):
    """Exception in place of a kill, within the process."""


class RecordedTraining(Training):
    """Training that records its course, and can stop as if it were killed."""

    run_of: Run
    stop: int | None = None

    def record(self, run: Run, stop: int | None) -> None:
        self.run_of, self.stop = run, stop
        self.seen: dict[int, list[int]] = {}
        self.pixels: dict[int, list[Tensor]] = {}
        self.weights: dict[int, dict[str, Tensor]] = {}
        self.frozen: dict[int, set[str]] = {}
        self.optimizer: dict[str, Any] = {}
        self.held = 0

    def _steps(self, run: PhaseRun) -> Iterator[float]:
        self.weights.setdefault(self.state.step, snapshot(run.model))
        run.loader = self._watched(run.loader)
        for loss in super()._steps(run):
            step = self.state.step + 1
            self.weights[step], self.frozen[step] = snapshot(run.model), set(frozen_tensors(run.model))
            self.held = sum(part(parameter).numel() for parameter in run.wrapped.parameters())
            self.optimizer = tree_map_only(DTensor, whole, copy.deepcopy(run.optimizer.state_dict()))
            yield loss
            self._interrupt(step)

    def _watched(self, loader: Any) -> Iterator[dict[str, Tensor]]:
        for batch in loader:
            report_progress()
            self.seen.setdefault(self.state.step + 1, []).extend(batch["index"].tolist())
            self.pixels.setdefault(self.state.step + 1, []).extend(batch.get("pixel_values", batch["index"]))
            yield batch

    def _contents(self, *arguments: Any) -> Contents:
        report_progress()
        return super()._contents(*arguments)

    def _interrupt(self, step: int) -> None:
        """Stop between two steps, after a checkpoint that was due."""
        if self.stop == step:
            raise StoppedError
        if self.run_of.signal_at is not None:
            at, rank, number = self.run_of.signal_at
            if step == at and self.accelerator.process_index == rank:
                os.kill(os.getpid(), number)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: whole(tensor).to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def make_training(run: Run, stop: int | None = None, kind: type[Recorded] = RecordedTraining) -> Recorded:
    settings = {"per_device_train_batch_size": 4, "report_to": "none", **run.config}
    config = TrainingConfig(output_dir=run.output, **settings)
    steps = config.gradient_accumulation_steps
    if AcceleratorState._shared_state.get("_mixed_precision") != run.accelerator.get("mixed_precision", "no"):
        AcceleratorState._reset_state()  # accelerate keeps one setting per process, and this one replaces several
    if launcher_asks():
        accelerator = make_accelerator(config)
    else:
        accelerator = Accelerator(**{"cpu": True, "gradient_accumulation_steps": steps, **run.accelerator})
    images, model = make_images(run), make_model(run)

    def transforms_of(phase: Phase) -> Transforms:
        return make_transforms(run, phase.augmentation)

    splits = TrainingImages(images, images, transforms_of, "made images")
    training = kind(accelerator, model, run.strategy, splits, config)
    training.record(run, stop)
    return training


def train(run: Run, stop: int | None = None, kind: type[Recorded] = RecordedTraining) -> Recorded:
    training = make_training(run, stop, kind)
    refit = Refit.of(training) if run.refit else None
    if training.config.resume_from_checkpoint is not None:
        training.restore(training.config.resume_from_checkpoint)
    training.run()
    if refit is not None:
        refit.run()
    return training


def stopped_at(run: Run, stop: int) -> RecordedTraining:
    """Train until after a step, as if the process were killed there."""
    training = make_training(run, stop)
    try:
        if training.config.resume_from_checkpoint is not None:
            training.restore(training.config.resume_from_checkpoint)
        training.run()
    except StoppedError:
        return training
    raise AssertionError(f"the run ended before step {stop}")


def resumed(run: Run, **config: Any) -> Run:
    """Return the resumed run: with a checkpoint, from another random state."""
    has_checkpoint = any(Path(run.output).glob("*/step-*"))
    return replace(run, seed=run.seed + has_checkpoint, config={**run.config, **AUTO, **config})


def result_of(training: RecordedTraining) -> dict[str, Any]:
    """Return all results that must not depend on an interruption."""
    log = training.state.log
    last = max(training.weights)
    return {
        "last step": last,
        "weights": training.weights[last],
        "best weights": snapshot(training.model),
        "log": {
            **{name: timeless(encode(getattr(log, name))) for name in ("history", "phases", "rungs")},
            **{"best": log.best, "stopped": log.stopped},
        },
        "requires grad": {name: parameter.requires_grad for name, parameter in training.model.named_parameters()},
        "optimizer": training.optimizer,
        "random state": torch.get_rng_state(),
    }


def timeless(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return entries without what a resume changes: times, and whether features came from an earlier phase or run."""
    # the mean loss of the log's last entry counts from the resume on, like Trainer's
    times = (
        "seconds",
        "reuses_features",
        "train_loss" if entries and "train_runtime" in entries[-1] else "",
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
        "total_flos",
    )
    return [{name: value for name, value in entry.items() if name not in times} for entry in entries]


def differences(a: Any, b: Any, name: str = "") -> list[str]:
    """Return the names of all entries in which two nested results differ in a single bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        is_same = a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
        return [] if is_same else [name]
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [*a, *(key for key in b if key not in a)]
        return [path for key in keys for path in differences(a.get(key), b.get(key), f"{name}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [path for i, (x, y) in enumerate(zip(a, b, strict=True)) for path in differences(x, y, f"{name}/{i}")]
    return [] if a == b else [name]
