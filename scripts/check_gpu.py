"""Check a machine with a GPU in one command, without network: the default training, tests marked `gpu`, and rates.

    python scripts/check_gpu.py --output gpu.json --minutes 8

Three parts, each of which may fail alone:

1. `hf-tl train` with its defaults, to its end: model, record and card.
2. `pytest -m gpu`, if pytest is installed.
3. Images per second of hf_tl in bfloat16, beside those of the bare network on synthetic images that are already on the
   device: features of the frozen stages, and full fine-tuning. Random weights; JPEGs of 256 px, generated.

The rate of features is the number of images by the difference between a run and its repetition with cached features;
that of fine-tuning is the difference between runs of three epochs and of one, with an evaluation of a tenth of the
images in each epoch. So start and saving are left out, and no internal function is called: the script runs with any
version that runs hf_tl. On a CPU it checks itself: `--backbones test_resnet --images 200 --image_size 64`.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

BACKBONES = ("resnet50", "vit_base_patch16_224", "convnext_base")
PACKAGES = ("hf-tl", "torch", "torchvision", "timm", "transformers", "datasets", "accelerate")
CLASSES, SIDE = 8, 256
REPEATS = 20
"""Synthetic batches that are timed."""
TRAIN = [sys.executable, "-m", "hf_tl", "train", "--report_to", "none"]


class Deadline:
    """Time that is left for the whole check."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes

    def run(self, command: list[str]) -> dict[str, Any]:
        """Run a command; return its status, seconds, and the end of what it printed."""
        start = time.monotonic()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, self.end - start))
        except subprocess.TimeoutExpired:
            return {"status": "no time left", "seconds": round(time.monotonic() - start, 1)}
        result: dict[str, Any] = {"status": done.returncode, "seconds": round(time.monotonic() - start, 1)}
        return result if done.returncode == 0 else {**result, "output": done.stdout[-1500:] + done.stderr[-500:]}


def main() -> None:
    """Run the parts, and write and print their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="file for the results, as JSON")
    parser.add_argument("--minutes", type=float, default=8.0, help="limit of the whole check")
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), help="architectures of timm")
    parser.add_argument("--images", type=int, default=4000, help="generated images")
    parser.add_argument("--image_size", type=int, default=224, help="input of the networks in pixels")
    parser.add_argument("--batch_size", type=int, default=64, help="images per step")
    options = parser.parse_args()
    deadline, device = Deadline(options.minutes), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results: dict[str, Any] = {"machine": describe(device)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results["default training"] = default_training(deadline, folder / "default")
        results["tests"] = deadline.run([sys.executable, "-m", "pytest", "-q", "-n0", "-m", "gpu", "tests"])
        write_images(folder / "images", options.images)
        results["rates"] = {}
        for backbone in options.backbones:
            results["rates"][backbone] = rates(deadline, folder, backbone, options, device)
    text = json.dumps(results, indent=2)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    print(text)


def describe(device: torch.device) -> dict[str, str]:
    """Return the device, and the versions of the packages."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {"device": name, **versions}


def default_training(deadline: Deadline, output: Path) -> dict[str, Any]:
    """Train with all defaults, and return what the run left."""
    result = deadline.run([*TRAIN, "--output_dir", str(output)])
    names = ("model.safetensors", "config.json", "run.json", "README.md")
    return {**result, "missing files": [name for name in names if not (output / name).exists()]}


def write_images(folder: Path, count: int) -> None:
    """Write JPEGs of random blobs in class folders, a tenth of them for validation and for test."""
    values = np.random.default_rng(0)
    for number in range(count):
        split = {0: "validation", 1: "test"}.get(number // CLASSES % 10, "train")
        file = folder / split / f"class{number % CLASSES}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(values.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, quality=85)


def rates(
    deadline: Deadline, folder: Path, backbone: str, options: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Return images per second of hf_tl and of the bare network, for features and for full fine-tuning."""
    batch = ["--per_device_train_batch_size", str(options.batch_size), "--per_device_eval_batch_size"]
    shared = [*TRAIN, "--dataset", str(folder / "images"), "--model", f"timm:{backbone}", "--no_pretrained", *batch]
    shared += [str(options.batch_size), "--image_size", str(options.image_size), "--dataloader_num_workers", "8"]
    shared += ["--feature_cache", "on", "--feature_cache_dir", str(folder / f"features-{backbone}")]

    def seconds(*flags: str) -> float:
        output = str(folder / f"{backbone}-{'-'.join(flags).replace('--', '')}-{time.monotonic_ns()}")
        result = deadline.run([*shared, *flags, "--output_dir", output, "--save_total_limit", "0"])
        if result["status"] != 0:
            raise RuntimeError(f"{result['status']}: {result.get('output', '')}")
        return float(result["seconds"])

    transfer = ("--strategy", "transfer", "--num_train_epochs", "1", "--feature_dtype", "bfloat16")
    full = ("--strategy", "full", "--mixed_precision", "bf16", "--augmentation", "light", "--num_train_epochs")
    trained = sum(1 for _ in (folder / "images" / "train").rglob("*.jpg"))
    try:
        cached = trained + sum(1 for _ in (folder / "images" / "validation").rglob("*.jpg"))
        passed = seconds(*transfer) - seconds(*transfer)
        epoch = (seconds(*full, "3") - seconds(*full, "1")) / 2
        bare = synthetic(backbone, options, device)
    except RuntimeError as error:
        return {"error": str(error)[-1000:]}
    return {
        "features": compared(cached, passed, bare["features"]),
        "fine-tuning": compared(trained, epoch, bare["fine-tuning"]),
    }


def compared(images: int, seconds: float, bare: float) -> dict[str, float | None]:
    """Return the rate of hf_tl and of the bare network in images per second, and their ratio."""
    rate = images / seconds if seconds > 0 else None
    return {"hf_tl": rate and round(rate, 1), "bare": round(bare, 1), "share": rate and round(rate / bare, 3)}


def synthetic(backbone: str, options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Time the bare network in bfloat16 on images that are on the device; return images per second."""
    import timm

    model = timm.create_model(backbone, num_classes=CLASSES).to(device, memory_format=torch.channels_last)
    pixels = torch.randn(options.batch_size, 3, options.image_size, options.image_size, device=device)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(options.batch_size, device=device) % CLASSES
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device.type == "cuda")

    def forward() -> None:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            model(pixels)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(pixels), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    model.eval()
    features = rate_of(forward, options.batch_size, device)
    model.train()
    return {"features": features, "fine-tuning": rate_of(step, options.batch_size, device)}


def rate_of(work: Callable[[], None], images: int, device: torch.device) -> float:
    """Return images per second of repeated work, without the first runs, which prepare the kernels."""
    repeats = REPEATS if device.type == "cuda" else 3
    for _ in range(2):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return repeats * images / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
