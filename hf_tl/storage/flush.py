"""Flushing of files and folders to the disk, as far as the operating system allows."""

import errno
import os
from pathlib import Path

_UNSUPPORTED = {errno.EACCES, errno.EPERM, errno.EBADF, errno.EINVAL, errno.EISDIR, errno.ENOTSUP}
"""Errors of systems (Windows, some network file systems) that cannot flush a folder; disk errors are EIO or ENOSPC."""


def flush_file(file: Path) -> None:
    """Wait until the content of a file is on the disk.

    Windows flushes only files that are open for writing.
    """
    with open(file, "r+b") as stream:
        os.fsync(stream.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until the directory entries of a folder are on the disk, where the system supports it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def flush_tree(folder: Path) -> None:
    """Wait until a folder with all its content is on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            flush_file(path)
        elif path.is_dir():
            flush_folder(path)
    flush_folder(folder)
