"""Work on many images at once: in threads, or in processes where there are so many that threads would wait for Python.

Hashing and decoding release Python's lock, but each small image takes some 50 µs of Python beside them.
"""

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

THREADS = 8
"""Largest number of threads."""
EACH = 10_000
"""Smallest number of images for each process, which takes half a second to start."""
SHARE, PATHS = 16, 1_000
"""Number of images that a worker takes at a time, and that a process takes if only their paths are handed over."""
AHEAD = 16
"""Number of shares that threads may be ahead."""
WAITING = 4
"""Number of shares handed over for each process, so that none waits for this one."""
IDLE = 60
"""Seconds after which idle processes end: those that hashed the images then check them too."""


def in_shares(
    function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], images: int, *, process_share: int = 0
) -> Iterator[list[Any]]:
    """Apply a function to the arguments of each image; yield the results in order, a share at a time.

    Args:
        function: Function of a module. Where processes call it, that module should not import torch or datasets, which
            takes seconds.
        arguments: Arguments of each image, which are read as they are needed.
        images: Number of images.
        process_share: Number of images that a process takes at a time, from `2 * EACH` images on; 0: threads alone.
            Processes share no state with this one: neither settings of Pillow nor its plugins.
    """
    processes = images // EACH if process_share else 0
    if processes < 2:
        return _in_threads(function, _shares(iter(arguments), SHARE))
    return _in_processes(function, _shares(iter(arguments), process_share), processes)


def _shares(arguments: Iterator[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    while share := list(islice(arguments, size)):
        yield share


def _in_threads(function: Callable[..., Any], shares: Iterable[Sequence[tuple[Any, ...]]]) -> Iterator[list[Any]]:
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        running = deque(pool.submit(_apply, function, share) for share in islice(shares, AHEAD))
        for share in shares:
            yield running.popleft().result()
            running.append(pool.submit(_apply, function, share))
        while running:
            yield running.popleft().result()


def _in_processes(
    function: Callable[..., Any], shares: Iterable[Sequence[tuple[Any, ...]]], processes: int
) -> Iterator[list[Any]]:
    """Call the function in processes of joblib, which start without importing the program that runs.

    Args:
        function: Function of a module.
        shares: Arguments of the images of each share.
        processes: Largest number of processes; there are no more than cores.
    """
    from joblib import Parallel, cpu_count, delayed

    processes = min(processes, cpu_count())
    workers = Parallel(
        processes,
        backend="loky",
        return_as="generator",
        batch_size=1,
        pre_dispatch=WAITING * processes,
        max_nbytes=None,
        idle_worker_timeout=IDLE,
    )
    yield from workers(delayed(_apply_quietly)(function, share) for share in shares)


def _apply(function: Callable[..., Any], share: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [function(*arguments) for arguments in share]


def _apply_quietly(function: Callable[..., Any], share: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Apply the function in a process, where Pillow would warn once more in each of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _apply(function, share)
