"""Figures of `hf-tl inspect`: planted label errors and near-duplicates, and time and memory by the number of images.

    python scripts/check_inspect.py planted --photos ../shared/data/clothing_160.zip --seeds 0 1 2
    python scripts/check_inspect.py size --images 10000 50000 --model demo

`planted` changes 5% of the labels of a folder of photos at random, and adds altered copies of 20 photos to another
split: resized, recompressed, or cropped by 5% at a random place. `size` inspects generated photos of 64 px, each number
in a process of its own, with the embeddings computed at 64 px.
"""

import argparse
import io
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SHARE, COPIES = 0.05, 20
CHANGES = ("resized", "recompressed", "cropped")


@dataclass(frozen=True)
class Planted:
    """Label errors and near-duplicates that were planted in a folder of photos."""

    labels: frozenset[str]
    """Files with a wrong label."""
    copies: frozenset[frozenset[str]]
    """Pairs of a photo and its altered copy."""


def plant(photos: Path, folder: Path, seed: int) -> Planted:
    """Write the photos of a zip of SPLIT/CLASS/FILE into a folder, with wrong labels and near-duplicates."""
    chance = random.Random(seed)
    with zipfile.ZipFile(photos) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        wrong = set(chance.sample(names, round(SHARE * len(names))))
        classes = sorted({name.split("/")[1] for name in names})
        labels = set()
        for name in names:
            split, label, file = name.split("/")
            if name in wrong:
                label = chance.choice([other for other in classes if other != label])
                labels.add(f"{split}/{label}/{file}")
            _write(folder / split / label / file, archive.read(name))
        copies = set()
        originals = [name for name in names if name.startswith("train/") and name not in wrong]
        for number, name in enumerate(chance.sample(originals, COPIES)):
            change = CHANGES[number % len(CHANGES)]
            copy = f"test/{name.split('/')[1]}/{change}-{number}.jpg"
            _write(folder / copy, alter(archive.read(name), change, chance))
            copies.add(frozenset((name, copy)))
    return Planted(frozenset(labels), frozenset(copies))


def alter(encoded: bytes, change: str, chance: random.Random) -> bytes:
    """Return the altered copy of a photo."""
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    width, height = image.size
    if change == "resized":
        factor = chance.uniform(0.5, 1.5)
        image = image.resize((round(factor * width), round(factor * height)))
    if change == "cropped":
        x, y = (chance.uniform(0, SHARE) for _ in range(2))
        corner = round(x * width), round(y * height)
        image = image.crop((*corner, corner[0] + round(0.95 * width), corner[1] + round(0.95 * height)))
    output = io.BytesIO()
    image.save(output, "JPEG", quality=50 if change == "recompressed" else 90)
    return output.getvalue()


def score(inspection: Any, planted: Planted) -> dict[str, float]:
    """Compare an inspection with what was planted.

    Returns:
        Recall of the planted near-duplicates, number of other groups, and the precision of the label errors at the
        number of planted ones, if the labels were judged.
    """
    groups = [frozenset(group) for group in inspection.copies]
    hits = sum(any(pair <= group for group in groups) for pair in planted.copies)
    others = sum(not any(pair <= group for pair in planted.copies) for group in groups)
    figures = {"recall": hits / len(planted.copies), "other_groups": others, "images": inspection.images}
    if inspection.label_errors is not None:
        ranked = inspection.label_errors[: len(planted.labels)]
        figures["precision"] = sum(file in planted.labels for file in ranked) / len(planted.labels)
        figures["suspected"] = len(inspection.label_errors)
    return figures


def check_planted(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the figures of each seed, without and with a model."""
    import hf_tl

    for seed in options.seeds:
        for model in (None, options.model):
            with tempfile.TemporaryDirectory() as folder:
                planted = plant(options.photos, Path(folder), seed)
                start = time.perf_counter()
                inspection = hf_tl.inspect(folder, model)
                seconds = round(time.perf_counter() - start, 1)
            yield {"seed": seed, "model": model, "seconds": seconds, **score(inspection, planted)}


def check_size(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield time and peak memory for each number of images, each measured in a process of its own."""
    for images in options.images:
        with tempfile.TemporaryDirectory() as folder:
            write_scenes(Path(folder), images)
            command = [sys.executable, __file__, "measure", folder, *(["--model", options.model] * bool(options.model))]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        yield {"images": images, "model": options.model, **json.loads(done.stdout.splitlines()[-1])}


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the seconds of each part of an inspection, and the peak memory of this process."""
    from dataclasses import replace

    from hf_tl.inspection import inspect as module
    from hf_tl.processes.memory import keep_freed_memory

    keep_freed_memory()
    backbone = None if options.model is None else replace(module._backbone(options.model, None), image_size=64)  # type: ignore[type-var]
    seconds: dict[str, float] = {}

    def timed(name: str) -> None:
        run = getattr(module, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            start = time.perf_counter()
            try:
                return run(*arguments, **keywords)
            finally:
                seconds[name] = round(time.perf_counter() - start, 1)

        setattr(module, name, call)

    for name in ("open_images", "read_images", "analyze", "thumbnails"):
        timed(name)
    start = time.perf_counter()
    inspection = module.inspect(options.folder, backbone)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    total = round(time.perf_counter() - start, 1)
    yield {"seconds": total, **seconds, "peak_mb": round(peak), "copies": len(inspection.copies)}


def write_scenes(folder: Path, images: int, classes: int = 10, side: int = 64) -> None:
    """Write generated photos: smooth random colors, of which each class has its own mean."""
    chance = np.random.default_rng(0)
    for label in range(classes):
        (folder / "train" / f"class {label}").mkdir(parents=True)
    means = chance.integers(60, 196, (classes, 3))
    for number in range(images):
        label = number % classes
        coarse = np.clip(means[label] + chance.normal(0, 45, (6, 6, 3)), 0, 255).astype(np.uint8)
        scene = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        scene.save(folder / "train" / f"class {label}" / f"{number}.jpg", quality=90)


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def main() -> None:
    """Print figures as lines of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    planted = commands.add_parser("planted")
    planted.add_argument("--photos", type=Path, required=True, help="zip of SPLIT/CLASS/FILE.jpg")
    planted.add_argument("--seeds", type=int, nargs="+", default=[0])
    planted.add_argument("--model", default="demo")
    planted.set_defaults(run=check_planted)
    size = commands.add_parser("size")
    size.add_argument("--images", type=int, nargs="+", default=[10_000, 50_000])
    size.add_argument("--model")
    size.set_defaults(run=check_size)
    single = commands.add_parser("measure", help="inspect a folder in this process")
    single.add_argument("folder")
    single.add_argument("--model")
    single.set_defaults(run=measure)
    options = parser.parse_args()
    for figures in options.run(options):
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
