"""Precision of a computation: float32 or bfloat16, as asked for, or chosen by measurement."""

import time
from collections.abc import Callable
from typing import Literal, TypeVar

import torch

from hf_tl.record.parts import PrecisionRecord

T = TypeVar("T")
Precision = Literal["float32", "bfloat16"]
FLOAT32: Precision = "float32"
BFLOAT16: Precision = "bfloat16"
OF_THE_RUN = "run"
"""Precision of a part that has none of its own: that of the run (`mixed_precision`), which a launcher chose."""
MIN_SPEEDUP = 1.2
"""Factor by which bfloat16 must be faster than float32 to be chosen."""
REPEATS = 2
"""Number of timed runs in each precision; the fastest counts, because the first one prepares the kernels."""
MIN_RUNS = 40
"""Smallest work for which precisions are measured, in runs of the computation that is timed: a measurement takes about
as long as four of them."""


def precise(precision: str, device: torch.device) -> torch.autocast:
    """Return the autocast context in which a computation has a precision, whatever the context around it has."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == BFLOAT16)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16: a CPU at any speed, a GPU if it supports it."""
    return device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))


def timed(compute: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """Run a computation to its end on the device; return its output and its duration in seconds."""
    start = time.perf_counter()
    output = compute()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return output, time.perf_counter() - start


def are_too_few(runs: float) -> bool:
    """Return whether a computation is repeated too rarely for a measurement to pay."""
    return runs < MIN_RUNS


def is_short(compute: Callable[[], object], runs: float, seconds: float, device: torch.device) -> bool:
    """Return whether repeated runs of a computation take less than some seconds, or are too few to measure.

    It is run twice at most, because the first run prepares the kernels.
    """
    return are_too_few(runs) or any(timed(compute, device)[1] * runs < seconds for _ in range(2))


def measure_precision(
    compute: Callable[[], T], agree: Callable[[T, T], tuple[float, bool]], images: int, device: torch.device
) -> PrecisionRecord:
    """Run a computation in float32 and in bfloat16, and choose the precision.

    bfloat16 is chosen if it is at least `MIN_SPEEDUP` times as fast and its output agrees.

    Args:
        compute: Function to run. It must compute the same each time.
        agree: Function from the outputs in float32 and in bfloat16 to their difference, and whether it is acceptable.
        images: Number of images of a run, for the rates.
        device: Device on which it runs.
    """
    outputs: dict[str, T] = {}
    seconds: dict[str, float] = {}
    for _ in range(REPEATS):
        for precision in (FLOAT32, BFLOAT16):
            with precise(precision, device):
                outputs[precision], duration = timed(compute, device)
            seconds[precision] = min(duration, seconds.get(precision, duration))
        if seconds[BFLOAT16] > 3 * seconds[FLOAT32]:
            break  # emulated
    difference, is_acceptable = agree(outputs[FLOAT32], outputs[BFLOAT16])
    is_faster = seconds[FLOAT32] >= MIN_SPEEDUP * seconds[BFLOAT16]
    return PrecisionRecord(
        BFLOAT16 if is_faster and is_acceptable else FLOAT32,
        {precision: round(images / duration, 2) for precision, duration in seconds.items()},
        difference,
    )
