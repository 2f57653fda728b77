"""Folders that appear whole or not at all.

The files are written into a partial folder beside the final place, flushed, and moved there by a rename. A process that
is killed at any moment leaves the old folder, the new one, or both under names that the next call puts in order.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from hf_tl.errors import ConfigError
from hf_tl.storage.flush import flush_folder, flush_tree

PARTIAL = ".partial-"
"""Begins the name of a folder that is being written."""
REPLACED = ".replaced-"
"""Begins the name of a folder that is being replaced."""


def partial_of(final: Path) -> Path:
    """Return the folder in which the files of `final` are written.

    >>> partial_of(Path("runs/digits")).as_posix()
    'runs/.partial-digits'
    """
    return final.with_name(f"{PARTIAL}{final.name}")


@contextlib.contextmanager
def partial_folder(final: Path) -> Iterator[Path]:
    """Make an empty folder beside `final`, and remove it when the context ends, with whatever is still in it.

    What a killed process left is removed first; a folder that it was replacing is put back.

    Raises:
        OSError: The disk is full or read-only.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    _recover(final)
    partial = partial_of(final)
    remove(partial)
    partial.mkdir()
    try:
        yield partial
    finally:
        remove(partial)


@contextlib.contextmanager
def atomic_folder(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give an empty folder to write to, and put it at `final` when the context ends without an exception.

    Args:
        final: Where the folder goes. It must not exist, or be empty, unless `replace` is true.
        replace: Whether a folder that exists is replaced; until the new one is complete, it stays as it is.

    Raises:
        OSError: The disk is full or read-only, or `final` exists; nothing was changed.
    """
    with partial_folder(final) as partial:
        yield partial
        put(partial, final, replace=replace)


def put(partial: Path, final: Path, *, replace: bool = False) -> None:
    """Flush a complete folder to the disk and move it to `final`; see `atomic_folder`."""
    flush_tree(partial)
    aside = final.with_name(f"{REPLACED}{final.name}")
    if final.is_dir() and not any(final.iterdir()):
        final.rmdir()  # Windows renames no folder onto another, not even onto an empty one
    elif final.exists():
        if not replace:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final))
        remove(aside)
        os.replace(final, aside)
    try:
        os.replace(partial, final)
    except OSError:
        _recover(final)
        raise
    flush_folder(final.parent)
    remove(aside)


def replace_files(
    partial: Path, folder: Path, last: Sequence[str] = ("run.json",), *, obsolete: Sequence[str] = ()
) -> None:
    """Flush the files of `partial` to the disk and move them into `folder`, one by one.

    An old file stays until the new one of its name takes its place, so that at every moment each name has a complete
    file.

    Args:
        partial: A folder on the same disk; its files may lie in folders of their own.
        folder: Where the files go; made where it does not exist.
        last: Names of files that are moved after all others, in this order: those that say that all is there.
        obsolete: Names of old files that are removed afterwards, where `partial` has no file of that name.

    Raises:
        OSError: The disk is full or read-only.
    """
    flush_tree(partial)
    files = [file.relative_to(partial) for file in partial.rglob("*") if file.is_file()]
    order = {name: place for place, name in enumerate(last, 1)}
    files.sort(key=lambda file: (order.get(file.as_posix(), 0), file))
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial / file, folder / file)
    for name in {*obsolete} - {file.as_posix() for file in files}:
        with contextlib.suppress(OSError):  # what took the place of an old file is not ours to remove
            (folder / name).unlink(missing_ok=True)
    flush_folder(folder)


def remove(folder: Path) -> None:
    """Remove a folder, as far as the system allows it: Windows keeps files that another process has open."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written, or half-replaced, in `folder`."""
    for path in list(folder.iterdir()):
        if path.name.startswith((PARTIAL, REPLACED)):
            remove(path)


def make_folder(output_dir: str | os.PathLike[str]) -> Path:
    """Make the folder of `--output_dir`, if it is not there.

    Raises:
        ConfigError: It cannot be made.
    """
    folder = Path(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output_dir {folder} cannot be written to: {error.strerror or error}") from error
    return folder


def _recover(final: Path) -> None:
    """Put back a folder that a killed process was replacing, if its successor is not there."""
    aside = final.with_name(f"{REPLACED}{final.name}")
    if aside.exists() and not final.exists():
        os.replace(aside, final)
