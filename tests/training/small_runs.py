"""A training of seconds, for tests in this process and in processes that they start and kill."""

import copy
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from datasets import ClassLabel, Dataset, Features, Image
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map_only
from torchvision.transforms import v2
from transformers import (
    SiglipConfig,
    SiglipForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

import hf_tl
from hf_tl.backbones.load import load_backbone
from hf_tl.backbones.stages.freezing import frozen_tensors
from hf_tl.config import TrainingConfig
from hf_tl.data.images import ImageTransform, Transforms, collate
from hf_tl.errors import HfTlError
from hf_tl.processes.accelerator import make_accelerator
from hf_tl.processes.sharding import launcher_asks, part, whole
from hf_tl.record.codec import encode
from hf_tl.strategy import Phase, Strategy
from hf_tl.trainer.trainer import StrategyCallback
from hf_tl.training.loop import Training
from hf_tl.training.refit import Refit
from hf_tl.views.views import TrainingViews

gc.freeze()  # accelerate collects garbage after each phase; exclude the objects of the imports

LABELS = ["cat", "dog", "owl"]
AUTO = {"resume_from_checkpoint": "auto"}
SIDE, IMAGES = 32, 14
HEAD = Phase(1, 1, 0.05)
PLAIN = replace(HEAD, augmentation="none")
KEPT = replace(PLAIN, learning_rate=0.01, batch_norm="keep")
LONG = replace(PLAIN, epochs=2, batch_norm="keep")
PHASES = {
    # with 4 images per step: steps 1 to 4, 5 to 11 and 12 to 14; epochs end within batches and within phases
    "gradual": (HEAD, Phase(2, 2, 0.02, layer_decay=0.5), Phase(1, 1, 0.02, norm="adapt")),
    # independent of how a batch is split: all norms freeze their statistics
    "norms frozen": (HEAD, Phase(1, 2, 0.02, norm="affine"), HEAD),
    "averaged": (replace(HEAD, mixup=0.2, cutmix=1.0), Phase(2, 2, 0.02, ema_decay=0.9, balanced_sampling=True)),
    "patient": (Phase(1, 6, 0.05, patience=3),),
    # without augmentation, so that each can train on features
    "transfer": (PLAIN,),
    "finetune": (PLAIN, replace(PLAIN, trainable_stages=2, learning_rate=0.02)),
    "unfreezing": tuple(replace(KEPT, trainable_stages=stages) for stages in (1, 2, 3, "all")),
    "short": (PLAIN, replace(PLAIN, trainable_stages=2, epochs=1, learning_rate=0.02)),
    "kept": (PLAIN, replace(KEPT, trainable_stages=2)),
    "balanced": (replace(PLAIN, epochs=3, balanced_sampling=True),),
    "views": (replace(HEAD, epochs=2), Phase(2, 1, 0.02)),
    "full": (HEAD, Phase("all", 1, 0.01)),
    # stage depths of climbs: steps 1 to 7, 8 to 14 and 15 to 21
    "climb": (LONG, *(replace(LONG, trainable_stages=stages, learning_rate=0.005) for stages in (2, "all"))),
    "climb to random weights": (
        LONG,
        replace(LONG, trainable_stages="all", learning_rate=0.005),
        replace(LONG, trainable_stages="all", learning_rate=0.005, from_random_weights=True),
    ),
    "first rung": (LONG,),
    # at learning rates at which rounding errors do not grow
    "gentle climb": (replace(LONG, learning_rate=1e-3), Phase("all", 1, 1e-4, augmentation="none", batch_norm="keep")),
    "averaged climb": (PLAIN, Phase(2, 2, 0.01, batch_norm="keep", ema_decay=0.9), Phase(3, 4, 1e-5, patience=1)),
    "solved": (Phase(1, steps=1, solver="lbfgs"), Phase(2, 1, 0.02, batch_norm="keep")),
    # all features of a run, with frozen statistics
    "all kept": (
        replace(HEAD, mixup=0.2),
        Phase(2, 1.5, 0.02, batch_norm="keep", layer_decay=0.5, ema_decay=0.9, class_weights="balanced"),
        Phase("all", 0.5, 0.01, batch_norm="keep"),
        Phase(1, 0.5, 0.02, norm="affine"),
    ),
}


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
    """Network: `resnet`, or `siglip`, a part of which never gets a gradient."""
    dropout: float = 0.2
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

    @property
    def strategy(self) -> Strategy:
        return Strategy(self.phases, PHASES[self.phases], expected_rung=self.expected_rung)


FLAT = 5


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
    model, _ = load_backbone("timm:test_resnet", LABELS, Strategy.transfer(), pretrained=False, image_size=SIDE)
    model.timm_model.drop_rate = run.dropout
    set_seed(run.seed)
    if run.fault == "loss":
        model.register_forward_hook(_make_the_loss_infinite, with_kwargs=True)
    is_last = os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1)
    if run.fault == "gradient" and is_last:
        calls = iter(range(100))

        def spoil(module: nn.Module, _: Any, output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(lambda grad: grad * float("nan") if next(calls) == 5 else grad)

        model.timm_model.fc.register_forward_hook(spoil)
    return model


def _make_the_loss_infinite(model: nn.Module, _: Any, arguments: dict[str, Tensor], output: Any) -> Any:
    is_flat = arguments["pixel_values"].abs().amax((1, 2, 3)) < 1e-3
    if model.training:
        is_class = torch.arange(len(LABELS)) == FLAT % len(LABELS)
        output.logits = output.logits.masked_fill(is_flat[:, None] & is_class, -torch.inf)
        if output.loss is not None:  # with Trainer the model computes it
            output.loss = nn.functional.cross_entropy(output.logits, arguments["labels"])
    return output


Recorded = TypeVar("Recorded", bound="RecordedTraining")


def tell() -> None:
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

    def _steps(self, model: nn.Module, optimizer: Any, schedule: Any, loader: Any, *rest: Any) -> Iterator[float]:
        self.weights.setdefault(self.state.step, snapshot(self.model))
        for loss in super()._steps(model, optimizer, schedule, self._watched(loader), *rest):
            step = self.state.step + 1
            self.weights[step], self.frozen[step] = snapshot(self.model), set(frozen_tensors(self.model))
            self.held = sum(part(parameter).numel() for parameter in model.parameters())
            self.optimizer = tree_map_only(DTensor, whole, copy.deepcopy(optimizer.state_dict()))
            yield loss
            self._interrupt(step)

    def _watched(self, loader: Any) -> Iterator[dict[str, Tensor]]:
        for batch in loader:
            tell()
            self.seen.setdefault(self.state.step + 1, []).extend(batch["index"].tolist())
            self.pixels.setdefault(self.state.step + 1, []).extend(batch.get("pixel_values", batch["index"]))
            yield batch

    def _checkpoint(self, *arguments: Any) -> None:
        tell()
        super()._checkpoint(*arguments)

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

    training = kind(accelerator, model, run.strategy, transforms_of, images, images, config, "made images")
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
            **{name: _timeless(encode(getattr(log, name))) for name in ("history", "phases", "rungs")},
            **{"best": log.best, "stopped": log.stopped},
        },
        "requires grad": {name: parameter.requires_grad for name, parameter in training.model.named_parameters()},
        "optimizer": training.optimizer,
        "random state": torch.get_rng_state(),
    }


def _timeless(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # the mean loss of the log's last entry counts from the resume on, like Trainer's
    times = (
        "seconds",
        "train_loss" if entries and "train_runtime" in entries[-1] else "",
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
        "total_flos",
    )
    return [{name: value for name, value in entry.items() if name not in times} for entry in entries]


def make_trainer(run: Run) -> Trainer:
    settings = {"per_device_train_batch_size": 4, "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    settings |= {"logging_steps": 1, "save_strategy": "steps", **run.config}
    model = make_model(run)
    args = TrainingArguments(run.output, **settings)
    set_seed(run.seed)
    rows = TrainingViews(make_images(run), make_transforms(run).train)
    callbacks = [StrategyCallback(run.strategy), Interruption(run)]
    return Trainer(model, args, train_dataset=rows, data_collator=collate, callbacks=callbacks)


def train_with_trainer(run: Run) -> dict[str, Any]:
    resume = run.config.pop("resume_from_checkpoint", None)
    trainer = make_trainer(run)
    trainer.train(resume_from_checkpoint=hf_tl.newest_checkpoint(run.output) if resume == "auto" else resume)
    last = trainer.state.global_step
    return {
        "last step": last,
        "weights": snapshot(trainer.model),
        "log": _timeless(trainer.state.log_history),
        "optimizer": trainer.optimizer.state_dict(),
        # random state of the last checkpoint: a run without remaining steps draws no number
        "random state": torch.load(Path(run.output, f"checkpoint-{last}", "rng_state.pth"), weights_only=False)["cpu"],
    }


class Interruption(TrainerCallback):
    """Callback that sends the signal of a `Run` with Trainer."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_step_begin(self, *arguments: Any, **kwargs: Any) -> None:
        tell()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        tell()
        if self.run.signal_at is not None and state.global_step == self.run.signal_at[0]:
            os.kill(os.getpid(), self.run.signal_at[2])


def differences(a: Any, b: Any, name: str = "") -> list[str]:
    """Return the names of all entries in which two nested results differ in a single bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        is_same = a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
        return [] if is_same else [name]
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [*a, *(key for key in b if key not in a)]
        return [found for key in keys for found in differences(a.get(key), b.get(key), f"{name}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [found for i, (x, y) in enumerate(zip(a, b, strict=True)) for found in differences(x, y, f"{name}/{i}")]
    return [] if a == b else [name]


def launch(run: Run, processes: int = 1, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a run in processes of its own, which write their results to `result_path`."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    paths = f"{Path(__file__).parents[2]}{os.pathsep}{Path(__file__).parents[1]}"
    variables = {**os.environ, "PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, __file__, json.dumps(asdict(run)), str(processes)],
        env={**variables, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result_path(run: Run, rank: int = 0) -> Path:
    return Path(run.output, f"result-{rank}.pt")


def read_result(run: Run, rank: int = 0) -> dict[str, Any]:
    """Read the results that must not depend on an interruption."""
    result = torch.load(result_path(run, rank))
    return {name: value for name, value in result.items() if name != "by step"}


def main(run: Run, processes: int) -> None:
    """Run as one process of a launch, and exit like the command line."""
    try:
        if run.way == "trainer":
            result = train_with_trainer(run)
        else:
            training = train(run)
            assert training.accelerator.num_processes == processes
            names = ("weights", "frozen", "seen", "pixels", "held")
            result = {**result_of(training), "by step": {name: getattr(training, name) for name in names}}
    except HfTlError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    rank = int(os.environ.get("RANK", "0"))
    torch.save(result, result_path(run, rank))
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main(Run(**json.loads(sys.argv[1])), int(sys.argv[2]))
