"""Throughput of the preset backbones in images per second: `python scripts/benchmark_presets.py`.

Forward is a pass as in `hf-tl recommend` and for cached features (folded batch normalization, channels last). Step is a
training step of all stages. Images have 224 px; random weights are as fast as pretrained ones. Each figure is the
median of three runs, each after a warm-up.
"""

import argparse
import statistics
from collections.abc import Callable

import timm
import torch

from hf_tl.backbones.prefix.folding import folded_where_equal
from hf_tl.backbones.presets import BUDGETS, PRESETS
from hf_tl.evaluation.measure import seconds_of
from hf_tl.processes.memory import keep_freed_memory

FORWARD, STEP, SIDE, TURNS = 64, 16, 224, 3
"""Images in a pass and in a step, height and width in pixels, and number of runs."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BUDGETS, default=list(BUDGETS), help="presets to measure")
    options = parser.parse_args()
    keep_freed_memory()
    print("| preset | backbone | million parameters | forward, images/s | step, images/s |\n|---|---|--:|--:|--:|")
    for preset in options.only:
        for name in PRESETS[preset]:
            model = timm.create_model(name.removeprefix("timm/")).to(memory_format=torch.channels_last)
            parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
            forward, step = measure(model)
            print(f"| `{preset}` | `{name}` | {parameters:.1f} | {forward:.1f} | {step:.1f} |", flush=True)


def measure(model: torch.nn.Module) -> tuple[float, float]:
    """Return the images per second of the forward pass and of a training step."""
    images = torch.randn(FORWARD, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)

    def look() -> None:
        with torch.inference_mode():
            model(images)

    def step() -> None:
        model(images[:STEP]).logsumexp(1).sum().backward()
        model.zero_grad()

    model.eval().requires_grad_(False)
    with torch.inference_mode(), folded_where_equal(model, lambda: [model(images[:2])]):
        forward = FORWARD / median_of(look)
    model.train().requires_grad_(True)
    return forward, STEP / median_of(step)


def median_of(work: Callable[[], None]) -> float:
    """Return the median duration of a function, each run after a warm-up."""
    return statistics.median(seconds_of(work, torch.device("cpu")) for _ in range(TURNS))


if __name__ == "__main__":
    main()
