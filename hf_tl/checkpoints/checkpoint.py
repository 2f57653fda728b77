"""Atomic checkpoints: complete or absent.

A checkpoint is written into a temporary folder, and its files are flushed to disk. A manifest with their hashes is
written last, and a single rename makes the folder `step-00000120`. Old checkpoints are removed only after that, so from
the first one on there is always a complete checkpoint. An incomplete checkpoint is never loaded.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from hf_tl.errors import CheckpointError, name_some
from hf_tl.storage.documents import read_json
from hf_tl.storage.flush import flush_tree
from hf_tl.storage.folders import atomic_folder, remove, remove_leftovers
from hf_tl.storage.writing import writing

FOLDER = "checkpoints"
REFIT_FOLDER = f"{FOLDER}/refit"
"""Folder of the checkpoints of a refit."""
MANIFEST = "manifest.json"
PREFIX = "step-"


def write_checkpoint(folder: Path, step: int, write_files: Callable[[Path], None], keep: int) -> Path:
    """Write a checkpoint atomically.

    Args:
        folder: Folder of the run's checkpoints. It is created if it does not exist.
        step: Number of optimizer steps done.
        write_files: Function that writes the files into a given folder.
        keep: Number of newest checkpoints to keep.

    Returns:
        The folder of the checkpoint.

    Raises:
        CheckpointError: The disk is full or read-only; the existing checkpoints are untouched.
    """
    final = folder / f"{PREFIX}{step:08d}"
    advice = "free some space or make the folder writable, then resume with --resume_from_checkpoint auto"
    with writing_checkpoint(final, advice):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        # the folder exists if this run went back to an earlier checkpoint
        with atomic_folder(final, replace=True) as partial:
            write_files(partial)
            write_manifest(partial)
    remove_others(final, keep)
    return final


def writing_checkpoint(checkpoint: Path, advice: str) -> contextlib.AbstractContextManager[None]:
    """Turn an error of the system, while a checkpoint is written, into a `CheckpointError`; see `writing`."""
    return writing(f"the checkpoint {checkpoint}", CheckpointError, f"earlier checkpoints are untouched; {advice}")


def remove_others(committed: Path, keep: int, prefix: str = PREFIX, protected: Path | None = None) -> None:
    """Remove old checkpoints, and later ones from before the run went back to an earlier checkpoint.

    Args:
        committed: Newest checkpoint of this run, complete.
        keep: Number of checkpoints to keep, including `committed`.
        prefix: Prefix of their names.
        protected: Checkpoint that is kept in addition. Defaults to none.
    """
    checkpoints = list_checkpoints(committed.parent, prefix)
    place = checkpoints.index(committed) + 1
    for other in checkpoints[: max(0, place - keep)] + checkpoints[place:]:
        if other != protected:
            remove(other)


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of an earlier run, but no files beside them: those are of the run that begins."""
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            remove(path)


def write_manifest(checkpoint: Path) -> None:
    """Write the hashes of a checkpoint's files, and flush everything to disk."""
    hashes = {name: _hash(file) for name, file in _files(checkpoint).items()}
    (checkpoint / MANIFEST).write_text(json.dumps(hashes, indent=1), encoding="utf-8")
    flush_tree(checkpoint)


def _files(checkpoint: Path) -> dict[str, Path]:
    """Return the files that a manifest lists, by their names in it."""
    files = [file for file in sorted(checkpoint.rglob("*")) if file.is_file() and file.name != MANIFEST]
    return {file.relative_to(checkpoint).as_posix(): file for file in files}


def list_checkpoints(folder: Path, prefix: str = PREFIX) -> list[Path]:
    """List the checkpoints in `folder`, complete or not, the oldest first."""
    if not folder.is_dir():
        return []
    numbered = (path for path in folder.iterdir() if path.name.startswith(prefix))
    checkpoints = [path for path in numbered if path.name[len(prefix) :].isdigit()]
    return sorted(checkpoints, key=lambda path: int(path.name[len(prefix) :]))


def newest_checkpoint(folder: Path, prefix: str = PREFIX) -> tuple[Path | None, list[str]]:
    """Find the newest complete checkpoint.

    Args:
        folder: Folder of the checkpoints.
        prefix: Prefix of their names; `"checkpoint-"` for those of transformers' Trainer.

    Returns:
        The checkpoint (None if no complete one exists), and the damage of each newer one.
    """
    problems: list[str] = []
    for checkpoint in reversed(list_checkpoints(folder, prefix)):
        problem = find_damage(checkpoint)
        if problem is None:
            return checkpoint, problems
        problems.append(f"{checkpoint.name}: {problem}")
    return None, problems


def find_damage(checkpoint: Path) -> str | None:
    """Describe the damage of a checkpoint.

    Returns:
        None if every file of the manifest exists with its content.
    """
    try:
        hashes = read_json(checkpoint / MANIFEST)
        if not isinstance(hashes, dict) or not hashes:
            return "its manifest is empty"
        files = _files(checkpoint)  # no other file is opened, whatever the manifest names
        if missing := sorted(hashes.keys() - files.keys()):
            return f"{name_some(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        wrong = [name for name, digest in hashes.items() if _hash(files[name]) != digest]
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError) as error:
        return f"it cannot be read ({error})"
    return f"damaged: {name_some(wrong)}" if wrong else None


def check_whole(checkpoint: Path) -> None:
    """Check that a checkpoint chosen by the user is complete.

    Raises:
        CheckpointError: The checkpoint is incomplete.
    """
    if problem := find_damage(checkpoint):
        raise CheckpointError(
            f"the checkpoint {checkpoint} is not complete ({problem}): name another, or resume from the newest "
            "complete checkpoint with --resume_from_checkpoint auto"
        )


def _hash(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
