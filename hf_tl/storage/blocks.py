"""Read and write parts of a file at given positions, from several threads and processes at once."""

import errno
import os
import shutil
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Self

_HAS_POSITIONS = hasattr(os, "preadv") and hasattr(os, "pwrite")
_CANNOT_ALLOCATE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


class BlockFile:
    """File whose parts are read and written at given positions.

    Nothing of the file is kept in memory. Several threads may share one `BlockFile`; each process opens its own.
    """

    def __init__(self, file: Path, *, writable: bool = False) -> None:
        """Open an existing file.

        Args:
            file: The file.
            writable: Whether `write` is allowed.
        """
        self.file = file
        self._stream = open(file, "r+b" if writable else "rb", buffering=0)  # noqa: SIM115  closed by close
        self._lock = threading.Lock()

    def read_into(self, memory: memoryview, offset: int) -> None:
        """Fill `memory` from position `offset` on.

        Raises:
            EOFError: The file ends earlier.
        """
        while len(memory):  # one system call returns 2 GB at most
            read = self._read(memory, offset)
            if not read:
                raise EOFError(f"{self.file} ends at byte {offset:,}")
            memory, offset = memory[read:], offset + read

    def write(self, memory: memoryview, offset: int) -> None:
        """Write `memory` from position `offset` on.

        Raises:
            OSError: The disk is full or read-only.
        """
        while len(memory):  # a system call may write only a part
            written = self._write(memory, offset)
            memory, offset = memory[written:], offset + written

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _read(self, memory: memoryview, offset: int) -> int:
        if _HAS_POSITIONS:
            return os.preadv(self._stream.fileno(), [memory], offset)
        with self._lock:  # Windows: the threads share one position
            self._stream.seek(offset)
            return self._stream.readinto(memory) or 0

    def _write(self, memory: memoryview, offset: int) -> int:
        if _HAS_POSITIONS:
            return os.pwrite(self._stream.fileno(), memory, offset)
        with self._lock:
            self._stream.seek(offset)
            return self._stream.write(memory) or 0


def allocate(file: Path, size: int) -> None:
    """Create a file of `size` bytes, so that a full disk fails before a long computation and not at its end.

    Where the system cannot reserve space, `BlockFile.write` reports a disk that fills up later.

    Raises:
        OSError: The disk is full or read-only.
    """
    check_space(file, size)
    with open(file, "wb") as stream:
        reserve(stream, size)


def check_space(file: Path, size: int) -> None:
    """Check that the disk has room for a new file; reserving the space would fill the disk before it fails.

    Raises:
        OSError: The disk is too full.
    """
    if shutil.disk_usage(file.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))


def reserve(stream: IO[bytes], size: int) -> None:
    """Give an open file its size, and reserve the space where the system can.

    Raises:
        OSError: The disk is full or read-only.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(stream.fileno(), 0, max(1, size))
            return
        except OSError as error:
            if error.errno not in _CANNOT_ALLOCATE:
                raise
    stream.truncate(max(1, size))
