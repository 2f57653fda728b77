"""Folders that are written atomically.

The files are written into a partial folder beside the final one, flushed, and moved there by a rename, or exchanged
with the old folder in one step. A process killed at any moment leaves the old folder or the new one; on a system that
cannot exchange folders, or both under names from which the next call recovers.
"""

import contextlib
import errno
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from hf_tl.errors import ConfigError
from hf_tl.storage.exchange import exchange
from hf_tl.storage.flush import flush_file, flush_folder, flush_tree
from hf_tl.storage.writing import writing

PARTIAL = ".partial-"
"""Prefix of the name of a folder that is being written."""
REPLACED = ".replaced-"
"""Prefix of the name of a folder that is being replaced."""


def partial_of(final: Path) -> Path:
    """Return the folder, or the file, that is written before it is moved to `final`.

    >>> partial_of(Path("runs/digits")).as_posix()
    'runs/.partial-digits'
    """
    return final.with_name(f"{PARTIAL}{final.name}")


@contextlib.contextmanager
def partial_folder(final: Path) -> Iterator[Path]:
    """Create an empty folder beside `final`, and remove it with its remaining content when the context ends.

    Leftovers of a killed process are removed first; a folder that it was replacing is restored.

    Raises:
        OSError: The disk is full or read-only.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    _recover(final)
    partial = partial_of(final)
    remove(partial)
    try:
        partial.mkdir()  # within, because a signal may arrive as soon as it exists
        yield partial
    finally:
        remove(partial)


@contextlib.contextmanager
def atomic_folder(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """Create an empty folder to write to, and move it to `final` when the context ends without an exception.

    Args:
        final: Final path of the folder. It must not exist, or be empty, unless `replace` is true.
        replace: Whether an existing folder is replaced; it stays unchanged until the new one is complete.

    Raises:
        OSError: The disk is full or read-only, or `final` exists; nothing was changed.
    """
    final = Path(os.path.realpath(final))  # of a link, the folder that it leads to is replaced
    with partial_folder(final) as partial:
        yield partial
        put(partial, final, replace=replace)


def put(partial: Path, final: Path, *, replace: bool = False) -> None:
    """Flush a complete folder to the disk and move it to `final`; see `atomic_folder`."""
    flush_tree(partial)
    with _uninterrupted():
        if final.is_dir() and not any(final.iterdir()):
            final.rmdir()  # Windows cannot rename a folder onto another, not even onto an empty one
        if not final.exists():
            os.replace(partial, final)
        elif not replace:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
        elif not exchange(partial, final):
            _replace_in_steps(partial, final)
        flush_folder(final.parent)
    remove(partial)


def _replace_in_steps(partial: Path, final: Path) -> None:
    """Replace a folder where the system cannot exchange two."""
    aside = final.with_name(f"{REPLACED}{final.name}")
    remove(aside)
    os.replace(final, aside)
    try:
        os.replace(partial, final)
    except OSError:
        _recover(final)
        raise
    remove(aside)


@contextlib.contextmanager
def replaced_file(final: Path) -> Iterator[Path]:
    """Name a file to write beside `final`, and move it there when the context ends without an exception.

    A process that is killed leaves the old file or the new one.

    Raises:
        OSError: The disk is full or read-only; the old file is unchanged.
    """
    partial = partial_of(final)
    try:
        yield partial
        flush_file(partial)
        os.replace(partial, final)
    finally:
        with contextlib.suppress(OSError):  # a read-only disk
            partial.unlink(missing_ok=True)


def replace_files(
    partial: Path,
    folder: Path,
    last: Sequence[str] = ("run.json",),
    *,
    obsolete: Sequence[str] = (),
    stale: Sequence[str] = (),
) -> None:
    """Flush the files of `partial` to the disk and move them into `folder`, one by one.

    An old file stays until the new one of its name replaces it, so that each name has a complete file at every moment.

    Args:
        partial: Folder on the same disk, possibly with subfolders.
        folder: Destination; created if it does not exist.
        last: Names of files that are moved after all others, in this order: their presence marks a complete folder.
        obsolete: Names of old files that are removed afterwards, unless `partial` has a file of that name.
        stale: Names of old files that are removed before the first new one is moved, because they do not fit it.

    Raises:
        OSError: The disk is full or read-only.
    """
    flush_tree(partial)
    files = [file.relative_to(partial) for file in partial.rglob("*") if file.is_file()]
    order = {name: place for place, name in enumerate(last, 1)}
    files.sort(key=lambda file: (order.get(file.as_posix(), 0), file))
    with _uninterrupted():
        for name in stale:
            (folder / name).unlink(missing_ok=True)
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            os.replace(partial / file, folder / file)
        for name in {*obsolete} - {file.as_posix() for file in files}:
            with contextlib.suppress(OSError):  # a folder under this name is not removed
                (folder / name).unlink(missing_ok=True)
        flush_folder(folder)


def remove(folder: Path) -> None:
    """Remove a folder, as far as the system allows: Windows keeps files that another process has open."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove half-written and half-replaced folders of killed processes from `folder`."""
    for path in list(folder.iterdir()):
        if path.name.startswith((PARTIAL, REPLACED)):
            remove(path)


def make_folder(output_dir: str | os.PathLike[str]) -> Path:
    """Create the folder of `--output_dir`, if it does not exist.

    Raises:
        ConfigError: The folder cannot be created.
    """
    folder = Path(output_dir)
    with writing(f"--output_dir {folder}", ConfigError):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(f"--output_dir {folder} is a file; name a folder") from error
    return folder


@contextlib.contextmanager
def report_folder(output_dir: str | os.PathLike[str], last: str, *, obsolete: Sequence[str] = ()) -> Iterator[Path]:
    """Create an empty folder to write a report to, and move its files to `--output_dir` when the context ends.

    An exception leaves the files of an earlier report unchanged. Other files in the folder stay.

    Args:
        output_dir: Value of `--output_dir`; created if it does not exist.
        last: Name of the file that is moved after all others: its presence marks a complete report.
        obsolete: Names of files of an earlier report that are removed if the new one has none of that name.

    Raises:
        ConfigError: The folder cannot be written to.
    """
    folder = make_folder(output_dir)
    with writing(f"--output_dir {folder}", ConfigError), partial_folder(folder / "report") as partial:
        yield partial
        replace_files(partial, folder, last=(last,), obsolete=obsolete)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the context ends, so that they do not separate renames that belong together."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    is_main = threading.current_thread() is threading.main_thread()  # the only thread that Python interrupts
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if is_main}
    before = {number: handler for number, handler in before.items() if handler is not None}
    try:
        for number in before:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for delayed in received:
            signal.raise_signal(delayed)


def _recover(final: Path) -> None:
    """Restore a folder that a killed process was replacing, unless its replacement is complete."""
    aside = final.with_name(f"{REPLACED}{final.name}")
    if aside.exists() and not final.exists():
        os.replace(aside, final)
