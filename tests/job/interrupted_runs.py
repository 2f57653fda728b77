"""Kill runs, or raise in them, at random moments between the last optimizer step and the end.

It is a script that imports everything once and forks a child process for each run:

    python tests/job/interrupted_runs.py FOLDER --kills 5 --exceptions 5 --seed 0

It prints a line for each run without a loadable model and a record, and exits with their number.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pillow
from torch.optim.optimizer import register_optimizer_step_post_hook

import hf_tl
from hf_tl.record import read_record
from hf_tl.run import import_libraries

LABELS = ["dark", "light"]
RUNS = {
    "head": (hf_tl.Strategy.transfer(epochs=2), {}),
    "two phases": (hf_tl.Strategy.finetune(epochs=3), {}),
    "no checkpoints": (hf_tl.Strategy.full(epochs=2), {"save_total_limit": 0}),
    "early stopping": (hf_tl.Strategy.full(epochs=6, patience=1), {}),
    "refit": (dataclasses.replace(hf_tl.Strategy.full(epochs=2), refit=True), {}),
    "overwrite": (hf_tl.Strategy.transfer(epochs=1), {"overwrite_output_dir": True}),
}


class InjectedError(Exception):
    """Exception injected into a run."""


def make_dataset() -> Dataset:
    values = np.random.default_rng(0)
    rows: dict[str, list[object]] = {"image": [], "label": []}
    for number in range(32):
        label = number % 2
        pixels = values.integers(0, 120, (32, 32, 3)) + 130 * label
        rows["image"].append(Pillow.fromarray(pixels.astype(np.uint8)))
        rows["label"].append(label)
    return Dataset.from_dict(rows, features=Features({"image": Image(), "label": ClassLabel(names=LABELS)}))


def train(name: str, folder: Path) -> None:
    strategy, settings = RUNS[name]
    model, transforms = hf_tl.load_backbone("timm:test_resnet", LABELS, strategy, pretrained=False, image_size=32)
    hf_tl.train(
        model, DATASET, strategy, transforms=transforms, output_dir=str(folder), report_to="none",
        per_device_train_batch_size=8, feature_cache="off", **settings,
    )  # fmt: skip


def forked(work: Callable[[], None]) -> int:
    """Run `work` in a child without output; return its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            work()
        status = 0
    except InjectedError:
        pass
    except BaseException:  # noqa: BLE001  the status reports it
        traceback.print_exc()
    finally:
        os._exit(status)


def run(name: str, folder: Path, last: int | None, signal_to: int, delay: float | None = None) -> int:
    """Start a run in a child that writes a byte after each optimizer step, or after step `last` alone.

    Args:
        name: Name of the run.
        folder: Output folder.
        last: Number of optimizer steps, if known.
        signal_to: File descriptor of the pipe.
        delay: Seconds after the last step at which an exception is raised in the run.
    """

    def work() -> None:
        main, done = threading.get_ident(), [0]

        def inject() -> None:
            time.sleep(delay or 0.0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(main), ctypes.py_object(InjectedError))

        def count(*_: object) -> None:
            done[0] += 1
            if last in (None, done[0]):
                os.write(signal_to, b".")
                if delay is not None and last is not None:
                    threading.Thread(target=inject, daemon=True).start()

        register_optimizer_step_post_hook(count)
        train(name, folder)

    return forked(work)


def measure(name: str, folder: Path) -> tuple[int, float]:
    """Return the number of optimizer steps of an undisturbed run, and the seconds from the last one to the end."""
    reading, writing = os.pipe()
    child = run(name, folder, None, writing)
    os.close(writing)
    steps, at = 0, time.perf_counter()
    while os.read(reading, 1):
        steps, at = steps + 1, time.perf_counter()
    os.close(reading)
    assert os.waitpid(child, 0)[1] == 0, f"the undisturbed run {name} failed"
    return steps, time.perf_counter() - at


def disturb(name: str, folder: Path, steps: int, delay: float, is_kill: bool) -> None:
    reading, writing = os.pipe()
    child = run(name, folder, steps, writing, None if is_kill else delay)
    os.close(writing)
    os.read(reading, 1)
    if is_kill:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)


def check(folder: Path) -> bool:
    """Return whether the folder holds a model that plain transformers loads, and a record."""

    def work() -> None:
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        model = AutoModelForImageClassification.from_pretrained(folder)
        pixels = AutoImageProcessor.from_pretrained(folder)(Pillow.new("RGB", (32, 32)), return_tensors="pt")
        assert model(**pixels).logits.isfinite().all()
        assert [model.config.id2label[index] for index in range(2)] == LABELS
        record = read_record(folder)
        assert record.status in ("training", "trained", "complete")
        assert record.learned_from
        hf_tl.load(folder)

    return os.waitpid(forked(work), 0)[1] == 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--exceptions", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    values, failures = random.Random(options.seed), 0
    spans = {name: measure(name, options.folder / name) for name in RUNS}
    spans["overwrite"] = measure("overwrite", options.folder / "overwrite")
    disturbed = [True] * options.kills + [False] * options.exceptions
    for number, is_kill in enumerate(disturbed):
        name = list(RUNS)[number % len(RUNS)]
        folder = options.folder / (name if name == "overwrite" else f"{number}")
        steps, seconds = spans[name]
        delay = values.uniform(0, seconds)
        disturb(name, folder, steps, delay, is_kill)
        if not check(folder):
            failures += 1
            what = "killed" if is_kill else "raised in"
            print(f"{name}: {what} {delay:.3f} of {seconds:.3f} s after the last step: no model", flush=True)
    print(f"{len(disturbed)} runs disturbed, {failures} without a model", flush=True)
    return failures


if __name__ == "__main__":
    torch.set_num_threads(1)
    import_libraries()
    DATASET = make_dataset()
    sys.exit(min(main(), 100))
