"""Keep the C library from giving memory back to the kernel."""

import ctypes
import ctypes.util
import sys

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
