"""Images per second of exported files, each in its own runtime: `python scripts/benchmark_runtimes.py`.

Each backbone is written in each format, in float32 and, where the format has it, in 8 bits, with random weights, which
are as fast as pretrained ones. The files take turns on batches of 16 images in their size; each figure is the median of
the turns, after a warm-up, on all cores. The files need no images, so decoding and preprocessing are not measured. A
file that cannot be written is left out, and its reason is printed.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import torch

from hf_tl.backbones.libraries.timm import wrap
from hf_tl.errors import SaveError
from hf_tl.exporting.formats import FORMATS, write_model
from hf_tl.exporting.quantize import METHODS, write_int8
from hf_tl.exporting.speed import Run, median_seconds
from hf_tl.runtime.runners import RUNTIMES

BACKBONES = (
    "mobilenetv3_large_100", "tf_efficientnet_lite0", "efficientnet_b0", "resnet18", "resnet50", "regnety_032",
    "convnext_tiny", "vit_tiny_patch16_224", "vit_small_patch16_224", "swin_tiny_patch4_window7_224",
)  # fmt: skip
BATCH, TURNS, CALIBRATION = 16, 5, 4
"""Images in a batch, number of timed turns, and number of batches that calibrate 8 bits."""
LABELS = ["cat", "dog"]
INSTALLED = [name for name, format_ in FORMATS.items() if not format_.missing]


def main() -> None:
    """Print the table, a row for each backbone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(BACKBONES), help="timm architectures to measure")
    parser.add_argument("--turns", type=int, default=TURNS, help=f"timed turns of each file (default: {TURNS})")
    options = parser.parse_args()
    names = ["torch", *INSTALLED, *(f"{name} int8" for name in METHODS if name in INSTALLED)]
    print("| backbone |" + "".join(f" {name} |" for name in names) + "\n|---|" + "--:|" * len(names))
    for backbone in options.only:
        rates = measure(backbone, options.turns)
        best = max(rates, key=rates.__getitem__)
        shown = {name: f"**{rate:.1f}**" if name == best else f"{rate:.1f}" for name, rate in rates.items()}
        cells = [shown.get(name, "–") for name in names]
        print(f"| `{backbone}` |" + "".join(f" {cell} |" for cell in cells), flush=True)


def measure(backbone: str, turns: int) -> dict[str, float]:
    """Return the images per second of each file of a backbone, and of the network in torch."""
    network = timm.create_model(backbone, num_classes=len(LABELS)).eval()
    size = network.pretrained_cfg["input_size"]
    model = wrap(network, LABELS).eval()
    pixels = np.random.default_rng(0).normal(size=(BATCH, *size)).astype(np.float32)

    def in_torch(images: np.ndarray) -> None:
        with torch.inference_mode():
            model(pixel_values=torch.from_numpy(images).contiguous(memory_format=torch.channels_last))

    with tempfile.TemporaryDirectory() as temporary:
        runs: dict[str, Run] = {"torch": in_torch}
        for name in INSTALLED:
            with left_out(f"{backbone} {name}"):
                write_model(name, model, size, Path(temporary))
                runs[name] = RUNTIMES[name].open(Path(temporary) / RUNTIMES[name].file)
        for name in (name for name in METHODS if name in runs):
            with left_out(f"{backbone} {name} int8"):
                file = write_int8(name, Path(temporary) / RUNTIMES[name].file, calibration(size), CALIBRATION * BATCH)
                runs[f"{name} int8"] = RUNTIMES[name].open(file)
        return {name: BATCH / seconds for name, seconds in median_seconds(runs, pixels, turns).items()}


@contextlib.contextmanager
def left_out(file: str) -> Iterator[None]:
    """Print why a file cannot be written."""
    try:
        yield
    except SaveError as error:
        print(f"{file}: {error}", file=sys.stderr)


def calibration(size: tuple[int, int, int]) -> Iterator[np.ndarray]:
    """Yield batches of random images."""
    random = np.random.default_rng(1)
    for _ in range(CALIBRATION):
        yield random.normal(size=(BATCH, *size)).astype(np.float32)


if __name__ == "__main__":
    main()
