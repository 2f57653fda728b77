"""Output folder and Hub repository of a run, checked before any work."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hf_tl.checkpoints.checkpoint import FOLDER as CHECKPOINTS
from hf_tl.config import TrainingConfig
from hf_tl.errors import ConfigError, PublishError, name_some
from hf_tl.processes.together import on_main_process
from hf_tl.record import RECORD_FILE, read_record
from hf_tl.storage.writing import writing

if TYPE_CHECKING:
    from accelerate import Accelerator


def choose_output_dir(accelerator: "Accelerator", config: TrainingConfig, name: str) -> str:
    """Choose and check the output folder on the main process, and return it on all processes.

    Args:
        accelerator: Accelerator of the run.
        config: Training settings; their `output_dir` is used if it is set.
        name: Name of a new folder under `runs/` otherwise. A number is appended if the folder exists.

    Raises:
        ConfigError: The folder holds another run, or is not writable.
    """

    def choose() -> str:
        folder = config.output_dir or _new_folder(name)
        resume = config.resume_from_checkpoint is not None
        check_output_dir(folder, overwrite=config.overwrite_output_dir, resume=resume)
        return folder

    return on_main_process(accelerator, choose)


def check_output_dir(output_dir: str | Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Check, before any work, that a run may be saved in `output_dir`.

    Args:
        output_dir: Folder; it need not exist.
        overwrite: Whether a run in the folder may be replaced.
        resume: Whether a run in the folder is resumed.

    Raises:
        ConfigError: The folder holds another run or model, is a file, or cannot be written to.
    """
    folder = Path(output_dir)
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise ConfigError(f"--output_dir {folder} cannot be created: {nearest} is a file; name a folder")
    held = [name for name in (RECORD_FILE, "config.json", "model.safetensors") if (folder / name).exists()]
    is_unfinished = (folder / CHECKPOINTS).exists() or _status(folder) in ("training", "trained")
    if is_unfinished and not (overwrite or resume):
        raise ConfigError(
            f"--output_dir {folder} holds an unfinished run: resume it with --resume_from_checkpoint auto, "
            "name another folder, or start again with --overwrite_output_dir"
        )
    if held and not is_unfinished and not overwrite:
        raise ConfigError(
            f"--output_dir {folder} holds another run ({name_some(held)}): name another folder, or "
            "replace it with --overwrite_output_dir"
        )
    with writing(f"--output_dir {folder}", ConfigError), tempfile.TemporaryFile(dir=nearest):
        pass


def _status(folder: Path) -> str | None:
    """Return the status of the run in a folder; None without a readable run."""
    try:
        return read_record(folder).status
    except PublishError:
        return None


def check_push(accelerator: "Accelerator", push_to_hub: str | None) -> None:
    """Check before training that the result may be pushed.

    Raises:
        PublishError: See `hf_tl.hub.hub.check_push_access`.
    """
    if push_to_hub is not None:
        from hf_tl.hub.hub import check_push_access

        on_main_process(accelerator, lambda: check_push_access(push_to_hub))


def _new_folder(name: str) -> str:
    number = 1
    while (folder := Path("runs", name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return str(folder)
