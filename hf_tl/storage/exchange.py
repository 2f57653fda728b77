"""Exchange of two folders in one step, where the system has it."""

import ctypes
import errno
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

_CURRENT = -100
"""`AT_FDCWD` of Linux: paths are relative to the current folder."""
_EXCHANGE = 2
"""`RENAME_EXCHANGE` of Linux."""
_LACKING = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}
"""Errors of a kernel or a file system without it."""


def exchange(first: Path, second: Path) -> bool:
    """Exchange two folders on one disk: each path names one of them at every moment, even if the process is killed.

    See `renameat2(2)` of Linux (https://man7.org/linux/man-pages/man2/rename.2.html).

    Returns:
        Whether the system and the file system can; if not, nothing was changed.

    Raises:
        OSError: The disk is full or read-only; nothing was changed.
    """
    if (rename := _renameat2()) is None:
        return False
    if rename(_CURRENT, os.fsencode(first), _CURRENT, os.fsencode(second), _EXCHANGE) == 0:
        return True
    error = ctypes.get_errno()
    if error in _LACKING:
        return False
    raise OSError(error, os.strerror(error), str(second))


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    """Return the function of the C library; None where it has none (macOS, Windows, an old Linux)."""
    if sys.platform != "linux":
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return function  # type: ignore[no-any-return]
