"""Checkpoints that are whole or not there.

A checkpoint is written into a folder beside, its files are flushed, a manifest with their hashes is written last, and
one rename makes it `step-00000120`. Old ones go only after that, so at least one whole checkpoint exists at every
moment after the first. What is not whole is never loaded.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from hf_tl.errors import CheckpointError, name_some
from hf_tl.storage.flush import flush_tree
from hf_tl.storage.folders import atomic_folder, remove, remove_leftovers

FOLDER = "checkpoints"
REFIT_FOLDER = f"{FOLDER}/refit"
"""Of the training after the one that chose."""
MANIFEST = "manifest.json"
PREFIX = "step-"


def write_checkpoint(folder: Path, step: int, write_files: Callable[[Path], None], keep: int) -> Path:
    """Write a checkpoint as one step that happens or does not.

    Args:
        folder: where the checkpoints of a run lie; made where it does not exist.
        step: optimizer steps done.
        write_files: writes the files into the folder that it is given.
        keep: how many checkpoints stay, the newest.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: the disk is full or read-only; the checkpoints that were there are untouched.
    """
    final = folder / f"{PREFIX}{step:08d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        # it exists where this run went back to an earlier checkpoint
        with atomic_folder(final, replace=True) as partial:
            write_files(partial)
            write_manifest(partial)
    except OSError as error:
        raise CheckpointError(
            f"the checkpoint {final} could not be written: {error.strerror or error}; those before it are untouched. "
            "Free space or name another --output_dir, then go on with --resume_from_checkpoint auto"
        ) from error
    remove_others(final, keep)
    return final


def remove_others(committed: Path, keep: int, prefix: str = PREFIX, protected: Path | None = None) -> None:
    """Remove old checkpoints, and later ones: those are of before the run went back to an earlier checkpoint.

    Args:
        committed: the newest of this run, whole.
        keep: how many stay, with `committed`.
        prefix: of their names.
        protected: stays too.
    """
    checkpoints = list_checkpoints(committed.parent, prefix)
    place = checkpoints.index(committed) + 1
    for other in checkpoints[: max(0, place - keep)] + checkpoints[place:]:
        if other != protected:
            remove(other)


def write_manifest(checkpoint: Path) -> None:
    """Write the hashes of a checkpoint's files, and wait until all of it is on the disk."""
    files = [file for file in sorted(checkpoint.rglob("*")) if file.is_file() and file.name != MANIFEST]
    hashes = {file.relative_to(checkpoint).as_posix(): _hash(file) for file in files}
    (checkpoint / MANIFEST).write_text(json.dumps(hashes, indent=1), encoding="utf-8")
    flush_tree(checkpoint)


def list_checkpoints(folder: Path, prefix: str = PREFIX) -> list[Path]:
    """List the checkpoints in `folder`, whole or not, the oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.name.startswith(prefix) and path.name[len(prefix) :].isdigit()]
    return sorted(found, key=lambda path: int(path.name[len(prefix) :]))


def newest_checkpoint(folder: Path, prefix: str = PREFIX) -> tuple[Path | None, list[str]]:
    """Find the newest whole checkpoint.

    Args:
        folder: where the checkpoints lie.
        prefix: of their names; `"checkpoint-"` for those of transformers' Trainer.

    Returns:
        The checkpoint, or None if there is no whole one, and what is wrong with each newer one.
    """
    problems: list[str] = []
    for checkpoint in reversed(list_checkpoints(folder, prefix)):
        problem = find_damage(checkpoint)
        if problem is None:
            return checkpoint, problems
        problems.append(f"{checkpoint.name}: {problem}")
    return None, problems


def find_damage(checkpoint: Path) -> str | None:
    """Tell what is wrong with a checkpoint.

    Returns:
        None if every file of its manifest is there with its content.
    """
    try:
        hashes = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(hashes, dict) or not hashes:
            return "its manifest is empty"
        wrong = [name for name, digest in hashes.items() if _hash(checkpoint / name) != digest]
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError) as error:
        return f"it cannot be read ({error})"
    return f"damaged: {name_some(wrong)}" if wrong else None


def check_whole(checkpoint: Path) -> None:
    """Check a checkpoint that a user named.

    Raises:
        CheckpointError: it is not whole.
    """
    if problem := find_damage(checkpoint):
        raise CheckpointError(
            f"the checkpoint {checkpoint} is not whole ({problem}); name another, or let "
            "--resume_from_checkpoint auto find the newest whole one"
        )


def _hash(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
