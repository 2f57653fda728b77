"""Alternate stack for signal handlers, which OpenVINO leaves in memory that it has freed."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Give this thread its alternate signal stack back when the context ends.

    Each `openvino.Core` that opens the CPU sets such a stack of its own. When it is destroyed, it frees that and sets
    the earlier one, which may belong to another Core that is already destroyed. The next signal with a handler in
    Python, such as the end of a worker of a DataLoader, then ends the process with SIGSEGV (OpenVINO 2026.4.1). A Core
    whose stack is not in use any more leaves the thread's alone, so giving it back after the opening is enough.
    """
    if sys.platform != "linux":  # `stack_t` differs there, and nothing was run
        yield
        return
    system, earlier = ctypes.CDLL(None, use_errno=True), _Stack()
    system.sigaltstack(None, ctypes.byref(earlier))
    try:
        yield
    finally:
        system.sigaltstack(ctypes.byref(earlier), None)
