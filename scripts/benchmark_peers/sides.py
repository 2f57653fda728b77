"""Commands that the benchmark compares, by piece of work."""

import csv
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmark_peers.processes import KEEP_MEMORY
from hf_tl.record import read_record

HERE = Path(__file__).parent
PYTHON = sys.executable
HF_TL, TRAINER, TRAINER_KEPT = "hf_tl", "Trainer recipe", "Trainer recipe, same memory setting"
IMAGE_FOLDER, DATASETS = "torchvision ImageFolder", "datasets imagefolder"
FASTAI, LIGHTLY, TIMM = "fastai vision_learner", "LightlyTrain", "timm train.py"

# These two tables contain all commands of hf_tl.
TRAIN: dict[str, str] = {
    "head": "--strategy transfer --num_train_epochs {epochs}",
    "head_again": "--strategy transfer --num_train_epochs {epochs} --learning_rate 1e-3 --seed {repeat}",
    "finetune": "--strategy finetune --trainable_stages 3 --num_train_epochs {epochs}",
    "full": "--strategy full --num_train_epochs 1",
}
WHERE_KNOWN = {"--feature_cache_dir": "{caches}/features"}
"""Flags that are passed if `hf-tl train` has them."""

PEER_RATES = {"head": 1e-3, "finetune": 3e-4, "full": 3e-4}
"""Peak learning rates of peers whose default suits other networks; see transformers_recipe.py."""
SCALING_IMAGE_SIZE = 112
"""Image size of hf_tl's demo on digits."""
GPU_MODELS = ("resnet50", "vit_base_patch16_224")


def read_result(folder: Path) -> dict[str, Any]:
    """Read the results of the scripts in this folder."""
    result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return result


def read_run(folder: Path) -> dict[str, Any]:
    """Read the record of `hf-tl train`."""
    record = read_record(folder)
    epochs = max(entry["epoch"] for entry in record.history)
    seen = record.data.splits["train"].images * epochs
    return {
        "accuracy": record.measured["test"].metrics["accuracy"],
        "images_per_second": seen / record.seconds.train,
    }


def read_summary(folder: Path) -> dict[str, Any]:
    """Read the summary of timm's train.py."""
    with (folder / "run" / "summary.csv").open(encoding="utf-8") as file:
        return {"accuracy": float(list(csv.DictReader(file))[-1]["eval_top1"]) / 100}


@dataclass(frozen=True)
class Side:
    """Compared command. `{output}`, `{caches}` and `{repeat}` in its words are filled in for each run."""

    name: str
    command: tuple[str, ...]
    read: Callable[[Path], dict[str, Any]] = read_result
    """Function that reads the results from the output folder."""
    environment: Mapping[str, str] = field(default_factory=dict)
    epochs: int = 1
    """Number of epochs that the figure stands for."""
    epochs_run: int = 1
    """Number of epochs run; each further epoch is taken to last as long as the last of them."""
    share: float = 1
    """Share of the training images in these epochs."""
    earlier: tuple[str, ...] = ()
    """Preparatory command, run once without measurement, whose caches all runs share."""
    missing: str = ""
    """Reason why the command cannot be run."""


@dataclass(frozen=True)
class Setting:
    """Settings of the command line, and prepared inputs."""

    folder: Path
    """Folder with `images`, `images-of-peers` for a share below 1, `model`, `digits-N` of each size and, with a GPU,
    each of `GPU_MODELS`, and `start`, the images of that work."""
    about: dict[str, Any]
    """Facts about the model, from prepare.py."""
    image_size: int
    epochs: int
    peer_epochs: float
    """Number of epochs of the peers; a number below 1 means one epoch over that share of the training images."""
    sizes: tuple[int, ...]
    seconds: float
    backbone: str | None
    """`timm:ARCH` with random weights; `None` is the demo's backbone."""
    fastai_python: str | None
    lightly_python: str | None
    timm_train: Path | None
    known_flags: frozenset[str]
    """Flags of `hf-tl train`."""
    hf_tl_flags: tuple[str, ...]
    """Additional flags of the user."""

    def hf_tl(self, flags: str, dataset: Path, image_size: int) -> tuple[str, ...]:
        """Return a command of hf_tl."""
        optional = [word for flag, value in WHERE_KNOWN.items() if flag in self.known_flags for word in (flag, value)]
        words = (f"--dataset {dataset} --image_size {image_size} --output_dir {{output}}").split()
        model = ("--model", self.backbone, "--pretrained", "false") if self.backbone else ()
        return (PYTHON, "-m", "hf_tl", "train", *words, *model, *flags.split(), *optional, *self.hf_tl_flags)

    @property
    def share(self) -> float:
        """Return the share of the training images that peers use."""
        return min(1, self.peer_epochs)

    def peer(self, script: str, layers: str, epochs: int, model: str = "model") -> tuple[str, ...]:
        """Return the command of a peer's recipe, without its program."""
        images = self.folder / ("images" if self.share == 1 else "images-of-peers")
        paths = f"--model {self.folder / model} --dataset {images} --output_dir {{output}}"
        return (str(HERE / script), *paths.split(), "--layers", layers, "--epochs", str(epochs))


def training(work: str) -> Callable[[Setting], list[Side]]:
    """Return a function that lists the commands of a training."""

    def sides(setting: Setting) -> list[Side]:
        epochs = 1 if work == "full" else setting.epochs
        run = min(epochs, max(1, round(setting.peer_epochs)))
        flags = TRAIN[work].replace("{epochs}", str(epochs))
        hf_tl = Side(
            HF_TL, setting.hf_tl(flags, setting.folder / "images", setting.image_size), read_run, {}, epochs, epochs
        )
        rate = ("--stop_after", str(run), "--learning_rate", str(PEER_RATES[work]))
        trainer = (PYTHON, *setting.peer("transformers_recipe.py", work, epochs), *rate)
        recipe = Side(TRAINER, trainer, read_result, {}, epochs, run, setting.share)
        kept = [replace(recipe, name=TRAINER_KEPT, environment=KEEP_MEMORY)] if work != "finetune" else []
        peers = fastai(setting, work, epochs), lightly(setting, work, epochs), timm(setting, work)
        return [hf_tl, recipe, *kept, *peers]

    return sides


def fastai(setting: Setting, work: str, epochs: int) -> Side:
    """Return fastai's command. Its schedule cannot be stopped early, so fewer epochs mean a shorter schedule."""
    run = min(epochs, max(round(setting.peer_epochs), 2 if work == "finetune" else 1))
    size = ("--image_size", str(setting.image_size))
    command = (setting.fastai_python or "", *setting.peer("fastai_recipe.py", work, run), *size)
    missing = "" if setting.fastai_python else "no --fastai_python given"
    return Side(FASTAI, command, read_result, {"PYTHONPATH": ""}, epochs, run, setting.share, missing=missing)


def lightly(setting: Setting, work: str, epochs: int) -> Side:
    """Return LightlyTrain's command, for an epoch: it evaluates after a number of steps that it chooses."""
    size = ("--image_size", str(setting.image_size))
    command = (setting.lightly_python or "", *setting.peer("lightly_recipe.py", work, 1), *size)
    missing = "" if setting.lightly_python else "no --lightly_python given"
    if work == "finetune":
        missing = "it freezes all of a backbone or nothing"
    return Side(LIGHTLY, command, read_result, {"PYTHONPATH": ""}, epochs, 1, setting.share, missing=missing)


def timm(setting: Setting, work: str) -> Side:
    """Return timm's command: its training script, which freezes nothing.

    The batch size of 128 and the four loader workers are its defaults.
    """
    missing = "" if setting.timm_train else "no --timm_train given"
    if work != "full":
        missing = "its script cannot freeze"
    weights = setting.folder / "model" / "model.safetensors"
    flags = f"--model {setting.about['architecture']} --initial-checkpoint {weights} --img-size {setting.image_size}"
    flags += f" --data-dir {setting.folder / 'images'} --num-classes {setting.about['classes']} --val-split test"
    flags += f" --epochs 1 --warmup-epochs 0 --opt adamw --lr {PEER_RATES['full']} --device cpu"
    output = ("--output", "{output}", "--experiment", "run")
    return Side(TIMM, (PYTHON, str(setting.timm_train), *flags.split(), *output), read_summary, missing=missing)


def head_again(setting: Setting) -> list[Side]:
    """Return the command of a second run on the same data, for which only hf_tl has caches."""
    first, again = (
        setting.hf_tl(
            TRAIN[work].replace("{epochs}", str(setting.epochs)), setting.folder / "images", setting.image_size
        )
        for work in ("head", "head_again")
    )
    return [Side(HF_TL, again, read_run, {}, setting.epochs, setting.epochs, earlier=first)]


def limit(what: str, setting: Setting, flags: str = "") -> tuple[str, ...]:
    """Return a command of limits.py."""
    words = f"{what} --output_dir {{output}} --image_size {setting.image_size} --seconds {setting.seconds} {flags}"
    return (PYTHON, str(HERE / "limits.py"), *words.split())


def forward(architecture: str) -> Callable[[Setting], list[Side]]:
    """Return a function that lists the commands of a frozen forward pass: hf_tl's, and a plain call of the network."""
    flags = f"--architecture {architecture}"
    return lambda setting: [
        Side(HF_TL, limit("forward", setting, flags)),
        Side("plain PyTorch", limit("forward", setting, f"{flags} --plain")),
    ]


def decode(setting: Setting) -> list[Side]:
    """Return the commands that read images to batches: hf_tl's, and Pillow alone."""
    flags = f"--dataset {setting.folder / 'images'}"
    return [
        Side(HF_TL, limit("decode", setting, flags)),
        Side("Pillow alone", limit("decode", setting, f"{flags} --plain")),
    ]


def scaling(setting: Setting) -> list[Side]:
    """Return commands for the head's first epoch on increasing numbers of images, one per size."""
    flags = "--strategy transfer --num_train_epochs 1"
    size = min(setting.image_size, SCALING_IMAGE_SIZE)
    return [
        Side(f"{count:,} images", setting.hf_tl(flags, setting.folder / f"digits-{count}", size), read_run)
        for count in setting.sizes
    ]


def start(setting: Setting) -> list[Side]:
    """Return the commands that start on many images: for the first time, and again with what was kept."""
    words = "--cache {caches} --output_dir {output}"
    sides = []
    for name, what in ((HF_TL, "hf_tl"), (IMAGE_FOLDER, "torchvision"), (DATASETS, "datasets")):
        command = (PYTHON, str(HERE / "start.py"), what, str(setting.folder / "start"), *words.split())
        first = Side(f"{name}, first", command)
        sides += [first, replace(first, name=f"{name}, again", earlier=command)]
    return sides


def gpu(work: str, strategy: str, synthetic: str) -> Callable[[Setting], list[Side]]:
    """Return a function that lists GPU trainings in bf16: hf_tl, a loop on synthetic images, and Trainer."""

    def sides(setting: Setting) -> list[Side]:
        missing = "" if setting.about["gpu"] else "not run: no GPU here"
        launch = (PYTHON, "-m", "accelerate.commands.launch", "--mixed_precision", "bf16", "-m", "hf_tl", "train")
        compared = []
        for model in GPU_MODELS:
            flags = f"--strategy {strategy} --num_train_epochs 1 --model timm:{model} --pretrained false"
            hf_tl = setting.hf_tl(flags, setting.folder / "images", setting.image_size)[4:]
            loop = limit(synthetic, setting, f"--architecture {model} --device cuda --dtype bfloat16")
            rate = ("--stop_after", "1", "--learning_rate", str(PEER_RATES[work]), "--bf16")
            peer = (*setting.peer("transformers_recipe.py", work, 1, model), *rate)
            compared += [
                Side(f"{HF_TL}, {model}", (*launch, *hf_tl), read_run, missing=missing),
                Side(f"synthetic images, {model}", loop, missing=missing),
                Side(f"{TRAINER}, {model}", (PYTHON, *peer), missing=missing),
            ]
        return compared

    return sides


WORKS: dict[str, Callable[[Setting], list[Side]]] = {
    "head": training("head"),
    "head_again": head_again,
    "finetune": training("finetune"),
    "full": training("full"),
    "forward_resnet50": forward("resnet50"),
    "forward_lite0": forward("tf_efficientnet_lite0"),
    "scaling": scaling,
    "decode": decode,
    "start": start,
    "gpu_extract": gpu("head", "transfer", "forward"),
    "gpu_full": gpu("full", "full", "train"),
}
