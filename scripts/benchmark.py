"""Speed benchmark against other libraries: `python scripts/benchmark.py [--dataset FOLDER] [flags]`.

Each figure is the wall-clock time of a process from start to end, with empty caches. The commands take turns. The table
shows the median of the repeats with minimum and maximum, and the median of the ratios of each turn. All commands use
the same images, weights and number of epochs; benchmark_peers/ defines them. The default dataset is scikit-learn's
digits. Flags that are not listed here are passed to `hf-tl train`. Use an otherwise idle machine. The whole table takes
many hours on two cores, `--peer_epochs 0.25` a fraction of that.

Results are written after each run. Rows in the file that are not run again are kept.
"""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmark_peers.processes import machine, measure
from benchmark_peers.report import tables
from benchmark_peers.sides import GPU_MODELS, PYTHON, WORKS, Setting, Side

START = Path(__file__).parent / "benchmark_peers" / "start.py"
PREPARE = Path(__file__).parent / "benchmark_peers" / "prepare.py"
PACKAGES = ("hf_tl", "torch", "transformers", "timm", "datasets", "accelerate")
NO_NETWORK = {"HF_HUB_OFFLINE": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
LOG_LINES = 20


def main() -> None:
    """Measure, print the table and write the results."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # terminate the measured process with this one
    options, hf_tl_flags = parse_flags()
    rows = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        setting = prepare(options, tuple(hf_tl_flags), Path(temporary))
        for work in options.only:
            rows[work] = new_row(work, setting, options.dataset)
            sides = [side for side in WORKS[work](setting) if not options.sides or side.name in options.sides]
            for run in measure_all(rows[work], sides, options.repeats, setting.folder):
                write(rows, options.output)
                say(f"{work}: {run}")
            write(rows, options.output)
    print(tables(rows))
    sys.exit(any(word.startswith("failed") for work in options.only for word in rows[work]["missing"].values()))


def parse_flags() -> tuple[argparse.Namespace, list[str]]:
    """Parse the flags, and return the remaining ones for `hf-tl train`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS), help="rows to measure")
    parser.add_argument("--sides", nargs="+", help="compared commands to measure, named as in the table (default: all)")
    parser.add_argument("--dataset", default="digits", help="images, as in hf-tl train (default: digits)")
    parser.add_argument("--repeats", type=int, default=3, help="number of runs of each command (default: 3)")
    parser.add_argument("--output", type=Path, default=Path("benchmark.json"), help="results (default: benchmark.json)")
    parser.add_argument(
        "--backbone",
        help="timm:ARCH with random weights (default: the weights and backbone of the demo)",
    )
    parser.add_argument("--image_size", type=int, default=224, help="height and width in pixels (default: 224)")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of head and finetune (default: 10)")
    parser.add_argument(
        "--peer_epochs",
        type=float,
        help="epochs that peers run; the rest is extrapolated (below 1: one epoch over that share of the images)",
    )
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[1_000, 4_000, 16_000, 60_000],
        help="numbers of images of the row scaling",
    )
    parser.add_argument("--start_images", type=int, default=100_000, help="images of the row start (default: 100,000)")
    parser.add_argument(
        "--seconds", type=float, default=30, help="duration of each measurement of a machine limit (default: 30)"
    )
    parser.add_argument("--fastai_python", help="python of an environment with fastai and timm")
    parser.add_argument("--lightly_python", help="python of an environment with lightly-train and timm")
    parser.add_argument("--timm_train", type=Path, help="train.py in a checkout of pytorch-image-models")
    options, further = parser.parse_known_args()
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, found {options.repeats}")
    if options.peer_epochs is not None and not (0 < options.peer_epochs < 1 or options.peer_epochs.is_integer()):
        parser.error(f"--peer_epochs must be a whole number or between 0 and 1, found {options.peer_epochs:g}")
    if options.timm_train is not None and not options.timm_train.is_file():
        parser.error(f"--timm_train {options.timm_train}: no such file")
    for python in ("fastai_python", "lightly_python"):
        if (program := getattr(options, python)) is not None and shutil.which(program) is None:
            parser.error(f"--{python} {program}: no such program")
    return options, further


def prepare(options: argparse.Namespace, hf_tl_flags: tuple[str, ...], folder: Path) -> Setting:
    """Write the inputs that all commands share, each in a process of its own, to keep this process small."""
    images = ["--dataset", str(folder / "images"), "--image_size", str(options.image_size)]
    peer_epochs = options.peer_epochs or options.epochs
    call_prepare("images", folder / "images", "--dataset", options.dataset)
    if peer_epochs < 1:
        share = ("--share", str(peer_epochs))
        call_prepare("images", folder / "images-of-peers", "--dataset", options.dataset, *share)
    backbone = ["--model", options.backbone] if options.backbone else []
    call_prepare("model", folder / "model", *images, *backbone)
    about = json.loads((folder / "model" / "about.json").read_text(encoding="utf-8"))
    for size in options.sizes if "scaling" in options.only else []:
        call_prepare("digits", folder / f"digits-{size}", "--images", str(size))
    if "start" in options.only:
        subprocess.run(
            [PYTHON, str(START), "make", str(folder / "start"), "--images", str(options.start_images)], check=True
        )
    for model in GPU_MODELS if about["gpu"] else []:
        call_prepare("model", folder / model, *images, "--model", f"timm:{model}")
    listing = subprocess.run([PYTHON, "-m", "hf_tl", "train", "--help-all"], check=True, capture_output=True, text=True)
    return Setting(
        folder=folder,
        about=about,
        image_size=options.image_size,
        epochs=options.epochs,
        peer_epochs=peer_epochs,
        sizes=tuple(options.sizes),
        seconds=options.seconds,
        backbone=options.backbone,
        fastai_python=options.fastai_python,
        lightly_python=options.lightly_python,
        timm_train=options.timm_train,
        known_flags=frozenset(re.findall(r"--\w+", listing.stdout)),
        hf_tl_flags=hf_tl_flags,
    )


def call_prepare(*words: str | Path) -> None:
    """Run prepare.py."""
    subprocess.run([PYTHON, str(PREPARE), *map(str, words)], check=True, env={**os.environ, **NO_NETWORK}, stdout=2)


def new_row(work: str, setting: Setting, dataset: str) -> dict[str, Any]:
    """Return a new row: subject, settings, machine and date of the measurement."""
    kinds = {"head_again": "again", "scaling": "scaling", "decode": "decode", "start": "start"}
    kind = kinds.get(work, work.split("_")[0] if "_" in work else "training")
    images = setting.about["images"]
    device = f", {setting.about['gpu']}" if setting.about["gpu"] else ""
    return {
        "work": work,
        "kind": kind,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine() + device,
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)]
        ),
        "settings": {
            "dataset": Path(dataset).name,
            "images": images,
            "image_size": setting.image_size,
            "hf_tl_flags": " ".join(Path(word).name if os.path.exists(word) else word for word in setting.hf_tl_flags),
        },
        "sides": {},
        "missing": {},
    }


def measure_all(row: dict[str, Any], sides: Sequence[Side], repeats: int, folder: Path) -> Iterator[str]:
    """Measure all commands in turn into `row`, and yield a line about each run.

    A command that fails is not run again; the row states it.
    """
    row["missing"] = {side.name: side.missing for side in sides if side.missing}
    active = [side for side in sides if not side.missing]
    row["sides"] = {side.name: [] for side in active}
    for repeat in range(repeats + 1):
        for side in [side for side in active if side.name not in row["missing"] and (repeat or side.earlier)]:
            run, log = measure_side(side, row["work"], repeat, folder)
            if run["status"]:
                row["missing"][side.name] = f"failed (exit {run['status']})"
                yield "\n".join([f"{side.name} failed (exit {run['status']}); the end of its output:", *log])
            elif repeat:
                row["sides"][side.name].append(run)
                yield f"{side.name}, {repeat} of {repeats}: {run['measured_seconds']:.1f} s"


def measure_side(side: Side, work: str, repeat: int, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Run a command once (turn 0: its preparatory command); return the measurements and the end of its output."""
    place = folder / "runs" / re.sub(r"\W+", "-", f"{work}-{side.name}")
    caches = place / ("caches" if side.earlier else f"caches-{repeat}")
    output, log = place / f"output-{repeat}", place / "log"
    place.mkdir(parents=True, exist_ok=True)
    command = side.command if repeat else side.earlier
    values = {"{output}": str(output), "{caches}": str(caches), "{repeat}": str(repeat)}
    words = [re.sub(r"\{\w+\}", lambda match: values[match[0]], word) for word in command]
    kept = {"HF_DATASETS_CACHE": str(caches / "datasets"), "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor")}
    measured = measure(words, log, {**NO_NETWORK, **kept, **side.environment})
    run = {
        **asdict(measured),
        "measured_seconds": measured.seconds,
        "epochs": side.epochs,
        "epochs_run": side.epochs_run * side.share,
    }
    run |= side.read(output) if measured.status == 0 else {}
    if "epochs_ended" in run:
        began, trained, ended = run.pop("training_began"), run.pop("epochs_trained"), run.pop("epochs_ended")
        run["start_up_seconds"] = began - run["started"]
        run["train_seconds"] = [after - before for before, after in zip([began, *ended], trained, strict=False)]
        run["evaluate_seconds"] = [after - before for before, after in zip(trained, ended, strict=True)]
        run["seconds"] += seconds_left_out(run["train_seconds"], run["evaluate_seconds"], side.epochs, side.share)
    shutil.rmtree(output, ignore_errors=True)
    if not side.earlier:
        shutil.rmtree(caches, ignore_errors=True)
    return run, log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]


def seconds_left_out(train: Sequence[float], evaluate: Sequence[float], epochs: int, share: float) -> float:
    """Compute the additional seconds of all epochs over all images, from the last measured epoch."""
    further = epochs - len(train)
    return sum(train) * (1 / share - 1) + further * (train[-1] / share + evaluate[-1])


def write(rows: dict[str, Any], file: Path) -> None:
    """Write the results atomically."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    partial.replace(file)


def say(message: str) -> None:
    """Print progress on stderr, separate from the table."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
