"""Errors of a disk that is full, over quota, read-only or broken, as errors that name the path and the cause."""

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hf_tl.errors import HfTlError, SaveError

FAILURES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO} & {*errno.errorcode})
"""Errors of a disk itself, which reading a missing or a protected file does not raise."""
_NUMBER_IN_RUST = re.compile(r"\(os error (\d+)\)|\bOs \{ code: (\d+),")
"""Number of the error as Rust prints it for people (safetensors 0.6 and newer), and for developers."""


@contextlib.contextmanager
def writing(what: object, kind: type[HfTlError] = SaveError, advice: str = "") -> Iterator[None]:
    """Turn an error of the system, while files are written, into an error that names what cannot be written, and why.

    Args:
        what: Name of what is written, with its path, for example `--output_dir out`.
        kind: Class of the error.
        advice: What the user can do, or what holds nevertheless.

    Raises:
        HfTlError: A file cannot be written.

    >>> with writing("--output_dir out", advice="nothing was exported"):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    hf_tl.errors.SaveError: output_dir out cannot be written: No space left on device; nothing was exported
    """
    try:
        yield
    except Exception as error:
        if (cause := cause_of(error)) is None:
            raise
        raise kind("; ".join(filter(None, [f"{what} cannot be written: {cause}", advice]))) from error


@contextlib.contextmanager
def library_writing() -> Iterator[None]:
    """Turn a failure of a disk, while a library downloads or caches something, into an error that names the cause.

    Errors of reading, such as a missing file, are raised as they are.

    Raises:
        SaveError: A disk is full, over quota, read-only or broken.
    """
    try:
        yield
    except Exception as error:
        if (failure := failure_of(error)) is None:
            raise
        raise SaveError(failure) from error


def cause_of(error: BaseException) -> str | None:
    """Return the cause of an error of the system in a few words; None for an error of another kind.

    >>> cause_of(RuntimeError("I/O error: file too large (os error 27)")), cause_of(ValueError("wrong"))
    ('File too large', None)
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    number = None if isinstance(error, HfTlError) else _number_of(error)
    return None if number is None else os.strerror(number)


def failure_of(error: BaseException | None) -> str | None:
    """Describe the failure of a disk that an error, or an error behind it, reports; None without one."""
    seen: set[int] = set()  # two errors may be the cause of each other
    while error is not None and not isinstance(error, HfTlError) and id(error) not in seen:
        seen.add(id(error))
        if (number := _number_of(error)) in FAILURES:
            place = getattr(error, "filename", None) or "a file"
            home = os.environ.get("HF_HOME", "~/.cache/huggingface")
            return (
                f"{place} cannot be written: {os.strerror(number)}; free some space, or set HF_HOME ({home}, downloads "
                f"and caches) or TMPDIR ({temporary_place()}) to a folder on another disk"
            )
        error = error.__cause__ or error.__context__
    return None


def temporary_place() -> Path:
    """Return the folder of temporary files, whether or not it can be written to."""
    return Path(tempfile.tempdir or os.environ.get("TMPDIR") or os.path.join(os.sep, "tmp"))


@contextlib.contextmanager
def temporary_folder(what: str) -> Iterator[Path]:
    """Create a folder in `TMPDIR`, and remove it when the context ends.

    Args:
        what: Name of what is written there, in errors.

    Raises:
        SaveError: The disk is full or read-only.
    """
    advice = "free some space, or set TMPDIR to a folder on another disk"
    with (
        writing(f"{what} in {temporary_place()}", advice=advice),
        tempfile.TemporaryDirectory(prefix="hf-tl-", ignore_cleanup_errors=True) as folder,
    ):
        yield Path(folder)


def _number_of(error: BaseException) -> int | None:
    """Return the number of an error of the system; None for an error of another kind."""
    if isinstance(error, OSError):
        return error.errno
    number = _NUMBER_IN_RUST.search(str(error))  # libraries in Rust, such as safetensors, raise classes of their own
    return int(number[1] or number[2]) if number else None
