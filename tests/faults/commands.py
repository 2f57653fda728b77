"""Commands that write, on small inputs, and what their results must be at every moment."""

import csv
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image

LABELS = ["blue", "green", "red"]
SMALL = ("--report_to", "none", "--cpu_threads", "1")
TRAIN = ("train", "--dataset", "{inputs}/images", "--image_size", "32", "--per_device_train_batch_size", "8", *SMALL)
RANDOM = ("--model", "timm:test_resnet", "--no_pretrained")
PHASES = ("--strategy", "finetune", "--num_train_epochs", "2", "--feature_cache", "on")
AUTO = ("--model", "{inputs}/backbone", "--strategy", "auto", "--trial_budget", "0", "--num_train_epochs", "1")
LOGS = ("--report_to", "tensorboard")
RESUME = ("--resume_from_checkpoint", "auto")
RESULT = "out"
"""Name of the result of each command, in the folder whose writes fail."""
REPOSITORY = "TEST_REPOSITORY"
"""Environment variable with the repository that `push` pushes to."""


@dataclass(frozen=True)
class Command:
    """A command whose writes fail, or that is killed."""

    arguments: tuple[str, ...]
    """Its words, with `{inputs}` for the folder of the inputs, and relative to the folder that it writes to."""
    old: tuple[str, ...] = ()
    """Command that made an earlier result of the same name; none if there was none."""
    again: tuple[str, ...] = ()
    """Flags of the command that completes a disturbed one, besides its own."""
    read: Callable[[Path], Any] = field(default=lambda result: None)
    """Function that reads what a result must have in common with that of an undisturbed command, or fails."""

    may_lose_old: bool = False
    """Whether the old result may be absent, where the command ends among the renames that replace it."""
    is_in_folder: bool = True
    """Whether the result is the folder `RESULT`."""
    is_unfinished: Callable[[Any], bool] = lambda essence: False
    """Whether a disturbed command may leave a result with this essence."""

    @property
    def words(self) -> tuple[str, ...]:
        """Words of the command and of the one before it."""
        return (*self.old, *self.arguments)

    def essence(self, disk: Path) -> Any:
        """Return what the result on a disk must have in common with others; None without a result."""
        result = disk / RESULT
        return None if self.is_in_folder and not (result.is_dir() and any(result.iterdir())) else self.read(result)


def opened(file: Path) -> None:
    """Check that a file is complete, by its format."""
    content = file.read_bytes()
    match file.suffix:
        case ".json":
            json.loads(content)
        case ".png":
            Image.open(io.BytesIO(content)).load()
        case ".html":
            assert content.rstrip().endswith(b"</html>"), "no end"
        case ".csv" | ".md" | ".jsonl":
            assert content.endswith(b"\n"), "no last line"
        case ".onnx":
            import onnx

            onnx.load_from_string(content)


def files_of(folder: Path) -> list[str] | None:
    """Return the names of the files of a report, all of them complete; None for a folder that is still empty."""
    files = [file for file in folder.rglob("*") if file.is_file() and not file.parent.name.startswith(".")]
    for file in files:
        opened(file)
    return sorted(str(file.relative_to(folder)) for file in files) or None


def model_of(folder: Path) -> Any:
    """Return the digest of the weights of a model that loads in transformers and in hf_tl; None without a record."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    import hf_tl
    from hf_tl.record import read_record

    if not (folder / "run.json").exists():  # the last file of a model: the training has committed nothing so far
        return None
    model = AutoModelForImageClassification.from_pretrained(folder)
    pixels = AutoImageProcessor.from_pretrained(folder)(Image.new("RGB", (32, 32)), return_tensors="pt")
    assert model(**pixels).logits.isfinite().all()
    record = read_record(folder)
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    assert labels == list(record.data.labels), "labels of another model"
    hf_tl.load(folder)
    for file in folder.iterdir():
        if file.is_file():
            opened(file)
    digest = sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return [digest, record.status, [phase.trained_stages for phase in record.phases]]


def table_of(file: Path) -> Any:
    with file.open(encoding="utf-8", newline="") as rows:
        table = list(csv.DictReader(rows))
    assert all(None not in row.values() for row in table), "half a row"
    return [[Path(row["image"]).name, *list(row.values())[1:]] for row in table]


def export_of(folder: Path) -> Any:
    report = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    return [files_of(folder), report["format"]]


def is_unmeasured(essence: Any) -> bool:
    """Return whether a model is complete, but not evaluated."""
    return essence[1] in ("training", "trained")


def pulled_of(folder: Path) -> Any:
    return [files_of(folder), model_of(folder)]


def pushed_of(folder: Path) -> Any:
    """Return the files of the repository that `push` pushes to."""
    from huggingface_hub import HfApi

    name = os.environ[REPOSITORY]
    return sorted(HfApi().list_repo_files(name)) if HfApi().repo_exists(name) else []


def cached_of(folder: Path) -> Any:
    """Return the number of entries of the cache; the manifest of a half-removed one shows its damage to readers."""
    from hf_tl.features.feature_store import open_store

    return len(open_store(None, 0).entries())


COMMANDS = {
    "train": Command(
        (*TRAIN, *RANDOM, *PHASES, "--output_dir", RESULT),
        again=RESUME,
        read=model_of,
        is_unfinished=is_unmeasured,
    ),
    "train-over": Command(
        (*TRAIN, *RANDOM, *PHASES, "--output_dir", RESULT, "--overwrite_output_dir", *LOGS),
        old=(*TRAIN, *RANDOM, "--dataset", "{inputs}/others", "--num_train_epochs", "1", "--output_dir", RESULT),
        may_lose_old=True,
        again=RESUME,
        read=model_of,
        is_unfinished=is_unmeasured,
    ),
    "auto": Command((*TRAIN, *AUTO, "--output_dir", RESULT), again=RESUME, read=model_of, is_unfinished=is_unmeasured),
    "predict": Command(
        ("predict", "{inputs}/model", "{inputs}/images", "--output", f"{RESULT}/predictions.csv", "--batch_size", "4"),
        old=("predict", "{inputs}/model", "{inputs}/others", "--output", f"{RESULT}/predictions.csv"),
        read=lambda result: table_of(result / "predictions.csv"),
    ),
    "inspect": Command(
        ("inspect", "{inputs}/images", "--model", "{inputs}/backbone", "--output_dir", RESULT),
        old=("inspect", "{inputs}/others", "--output_dir", RESULT),
        read=files_of,
    ),
    "compare": Command(
        ("compare", "{inputs}/model", "{inputs}/other", "--dataset", "{inputs}/images", "--output_dir", RESULT),
        old=("compare", "{inputs}/other", "{inputs}/model", "--dataset", "{inputs}/images", "--output_dir", RESULT),
        read=files_of,
    ),
    "evaluate": Command(
        ("evaluate", "{inputs}/model", "--dataset", "{inputs}/images", "--output_dir", RESULT),
        old=("evaluate", "{inputs}/other", "--dataset", "{inputs}/images", "--output_dir", RESULT),
        read=files_of,
    ),
    "recommend": Command(
        ("recommend", "--dataset", "{inputs}/images", "--model", "{inputs}/backbone", "--trial_budget", "0",
         "--output_dir", RESULT),
        read=files_of,
    ),
    "card": Command(("card", RESULT), old=("pull", "user/model", RESULT), read=model_of),
    "export": Command(
        ("export", "{inputs}/model", "--format", "onnx", "--dataset", "{inputs}/images", "--output_dir", RESULT,
         "--overwrite_output_dir"),
        old=("export", "{inputs}/other", "--dataset", "{inputs}/images", "--output_dir", RESULT),
        read=export_of,
    ),
    "pull": Command(("pull", "user/model", RESULT), read=pulled_of),
    "push": Command(
        ("push", "{inputs}/model", "{repository}"),
        read=pushed_of,
        is_in_folder=False,
        is_unfinished=lambda names: names == [".gitattributes"],
    ),
    "cache": Command(("cache", "clear"), old=(*TRAIN, *RANDOM, *PHASES, "--output_dir", RESULT), read=cached_of,
        is_in_folder=False, is_unfinished=lambda entries: True),
}  # fmt: skip
