"""Memory settings: memory kept by the C library, imports without garbage collection, the largest image to decode."""

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

    By default glibc maps each allocation above 32 MiB anew and unmaps it when it is freed. Then every activation of
    every step causes page faults, which take more time than the network. Call this once per process, at the start of a
    command (https://man7.org/linux/man-pages/man3/mallopt.3.html).

    Returns:
        Whether the setting was applied; only glibc has it.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(ctypes.util.find_library("c"))
    if not hasattr(libc, "mallopt"):
        return False
    return all([libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST // 2 + 1), libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST)])


@contextlib.contextmanager
def paused_collection() -> Iterator[None]:
    """Pause Python's garbage collector during imports, which create a million objects and no garbage.

    The collector would scan all objects each time their number has grown by some share, which takes a fifth of the
    import time of torch, timm and transformers (https://docs.python.org/3/library/gc.html).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count():
            gc.freeze()  # inside `uncollected`: what was imported is excluded too
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Exclude existing objects, such as the libraries, from garbage collection while the context is open.

    Objects of libraries that are imported meanwhile, under `paused_collection`, are excluded too.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def image_pixel_limit(pixels: int | None) -> Iterator[None]:
    """Set the largest number of pixels of an image that is decoded, while the context is open; None changes nothing."""
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = before if pixels is None else pixels
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
