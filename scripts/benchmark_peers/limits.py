"""Limits of the machine: a frozen forward pass beside its GEMM peak, a training step on synthetic images, decoding.

`python limits.py forward|train|decode --output_dir FOLDER [flags]` writes `result.json`. Each figure is the median over
batches, in a process of its own. FLOPs are counted by torch (`FlopCounterMode`: two per multiply-add).
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import timm
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hf_tl import Strategy, load_backbone, load_data
from hf_tl.backbones.prefix.search import find_boundary
from hf_tl.config import TrainingConfig
from hf_tl.data.decoding.images import collate
from hf_tl.features.batch_size import BatchSize
from hf_tl.features.feature_pass import FeaturePass
from hf_tl.processes.cores import cpu_cores
from hf_tl.processes.memory import keep_freed_memory

GEMM_SIZE = 2048
"""Rows and columns of the matrices: large enough for the peak, small enough for many repetitions."""
WARM_UP_BATCHES = 3


def main() -> None:
    """Run one measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("forward", "train", "decode"))
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--architecture", default="tf_efficientnet_lite0", help="timm architecture, with random weights"
    )
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument(
        "--batch_size", type=int, default=32, help="batch size (the feature pass of hf_tl measures its own)"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seconds", type=float, default=30, help="duration of each measurement")
    parser.add_argument("--plain", action="store_true", help="without the optimizations of hf_tl")
    parser.add_argument("--dataset", help="image folder (decode only)")
    options = parser.parse_args()
    if not options.plain:
        keep_freed_memory()
    torch.set_num_threads(cpu_cores())
    measured = {"forward": forward, "train": train, "decode": decode}[options.what](options)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "result.json").write_text(json.dumps(measured), encoding="utf-8")


def forward(options: argparse.Namespace) -> dict[str, float]:
    """Time the forward pass of a frozen network without head, and compare it with the GEMM peak of the same dtype."""
    network, images = make_network(options)
    network.eval()
    flops = count_flops(network, images[:1])
    peak = gemm_flops(options)
    with plain_pass(network, images) if options.plain else feature_pass(options) as (run, count):
        rate = count / median_seconds(run, options)
    peak = max(peak, gemm_flops(options))
    return {
        "images_per_second": rate,
        "gflop_per_image": flops / 1e9,
        "gemm_gflops": peak / 1e9,
        "share_of_peak": rate * flops / peak,
    }


@contextlib.contextmanager
def plain_pass(network: nn.Module, images: Tensor) -> Iterator[tuple[Callable[[], object], int]]:
    """Yield a function that runs the network on images, and the number of images."""
    with torch.inference_mode():
        yield lambda: network(images), len(images)


@contextlib.contextmanager
def feature_pass(options: argparse.Namespace) -> Iterator[tuple[Callable[[], object], int]]:
    """Yield a function that runs hf_tl's feature pass in batches of its own choice, and the number of images."""
    shape = (3, options.image_size, options.image_size)
    config = TrainingConfig(feature_dtype=options.dtype)
    accelerator = Accelerator(cpu=options.device == "cpu")
    model, _ = load_backbone(
        f"timm:{options.architecture}", ["a", "b"], Strategy.transfer(), pretrained=False, image_size=options.image_size
    )
    model = model.to(accelerator.device, memory_format=torch.channels_last)
    images = torch.rand(config.per_device_eval_batch_size, *shape, device=accelerator.device)
    images = images.contiguous(memory_format=torch.channels_last)
    batch_size = BatchSize(len(images), sys.maxsize)
    boundary = find_boundary(model, shape)
    with FeaturePass(accelerator, model, config, boundary, frozen="").prefix(images) as prefix:

        def run() -> None:
            for batch in batch_size.batches(images):
                [features.cpu() for features in prefix(batch)]

        while not batch_size.is_measured:
            run()
        yield run, len(images)


def train(options: argparse.Namespace) -> dict[str, float]:
    """Time optimizer steps of the whole network on one synthetic batch."""
    network, images = make_network(options, classes=10, dtype=torch.float32)
    labels = torch.randint(10, (options.batch_size,), device=options.device)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)

    def step() -> None:
        with torch.autocast(options.device, torch.bfloat16, enabled=options.dtype == "bfloat16"):
            loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    network.train()
    return {"images_per_second": options.batch_size / median_seconds(step, options)}


def decode(options: argparse.Namespace) -> dict[str, float]:
    """Time reading the training images: to batches as in hf_tl, or decoded by Pillow in one thread per core."""
    if options.plain:
        files = [file for file in (Path(options.dataset) / "train").rglob("*") if file.is_file()]
        with ThreadPoolExecutor(cpu_cores()) as threads:
            start = time.perf_counter()
            count = sum(threads.map(_decode, files))
            return {"images_per_second": count / (time.perf_counter() - start)}
    data = load_data(options.dataset)
    _, transforms = load_backbone(
        f"timm:{options.architecture}", data.labels, pretrained=False, image_size=options.image_size
    )
    rows = data.splits["train"].with_transform(transforms.eval)
    loader: Iterable[object] = torch.utils.data.DataLoader(
        rows, options.batch_size, collate_fn=collate, num_workers=cpu_cores()
    )
    start = time.perf_counter()
    for _ in loader:
        pass
    return {"images_per_second": len(rows) / (time.perf_counter() - start)}


def make_network(
    options: argparse.Namespace, classes: int = 0, dtype: torch.dtype | None = None
) -> tuple[nn.Module, Tensor]:
    """Return a network and a batch, in the memory format of hf_tl or in timm's."""
    dtype = dtype or getattr(torch, options.dtype)
    memory_format = torch.contiguous_format if options.plain else torch.channels_last
    network = timm.create_model(options.architecture, num_classes=classes)
    shape = (options.batch_size, 3, options.image_size, options.image_size)
    images = torch.rand(shape).to(options.device, dtype, memory_format=memory_format)
    return network.to(options.device, dtype, memory_format=memory_format), images


def count_flops(network: nn.Module, images: Tensor) -> int:
    """Return the floating-point operations of a forward pass."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(images)
    return counter.get_total_flops()


def gemm_flops(options: argparse.Namespace) -> float:
    """Return the highest rate of a product of two square matrices, in operations per second."""
    a, b = torch.rand(2, GEMM_SIZE, GEMM_SIZE).to(options.device, getattr(torch, options.dtype))
    product = torch.empty_like(a)
    return 2 * GEMM_SIZE**3 / min(_times(lambda: torch.mm(a, b, out=product), options))


def median_seconds(call: Callable[[], object], options: argparse.Namespace) -> float:
    """Return the median duration of repeated calls."""
    return statistics.median(_times(call, options))


def _times(call: Callable[[], object], options: argparse.Namespace) -> list[float]:
    for _ in range(WARM_UP_BATCHES):
        call()
    _wait(options.device)
    times: list[float] = []
    while sum(times) < options.seconds or len(times) < WARM_UP_BATCHES:
        start = time.perf_counter()
        call()
        _wait(options.device)
        times.append(time.perf_counter() - start)
    return times


def _wait(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


def _decode(file: Path) -> int:
    with Image.open(file) as image:
        image.convert("RGB")
    return 1


if __name__ == "__main__":
    main()
