"""Speed of exported files, side by side."""

import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np

from hf_tl.reporting.console import progress_bar

Run = Callable[[np.ndarray], object]
"""Function of pixels (images, channels, height, width)."""


def median_seconds(
    runs: Mapping[str, Run], pixels: np.ndarray, turns: int, *, title: str | None = None
) -> dict[str, float]:
    """Return the median seconds of each function, which take turns, so that other load on the machine slows all.

    Args:
        runs: Functions by name.
        pixels: Batch that each is called with.
        turns: Number of timed calls of each, after a warm-up.
        title: Title of a progress bar (default: no bar).
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with progress_bar(total=(turns + 1) * len(runs), desc=title, unit="run", disable=title is None) as progress:
        for turn in range(turns + 1):
            for name, run in runs.items():
                start = time.perf_counter()
                run(pixels)
                if turn:
                    seconds[name].append(time.perf_counter() - start)
                progress.update()
    return {name: statistics.median(values) for name, values in seconds.items()}
