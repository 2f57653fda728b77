"""Memory: kept by the C library, and not looked through by Python while libraries are imported."""

import contextlib
import ctypes
import ctypes.util
import gc
import sys
from collections.abc import Iterator

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let glibc keep and reuse the memory of large tensors instead of returning it to the kernel.

    By default glibc maps each allocation above 32 MiB anew and unmaps it when it is freed, so that every activation of
    every step is faulted in page by page: more time in the kernel than in the network. Once for the whole process, at
    the start of a command (https://man7.org/linux/man-pages/man3/mallopt.3.html).

    Returns:
        Whether it could be set; only glibc has it.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(ctypes.util.find_library("c"))
    if not hasattr(libc, "mallopt"):
        return False
    return all([libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST // 2 + 1), libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST)])


@contextlib.contextmanager
def paused_collection() -> Iterator[None]:
    """Pause Python's collector of cycles: for imports, which make a million objects and no garbage.

    Each time their number has grown by some share it would look through all of them, a fifth of the time that torch,
    timm and transformers take to import (https://docs.python.org/3/library/gc.html).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Keep the collector from looking through what exists already, the libraries, while it collects what is new."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
