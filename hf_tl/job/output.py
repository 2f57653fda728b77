"""Output folder and Hub repository of a run, checked before any work."""

from pathlib import Path
from typing import TYPE_CHECKING

from hf_tl.config import TrainingConfig
from hf_tl.processes.together import on_main_process

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
    from hf_tl.publish.save import check_output_dir

    def choose() -> str:
        folder = config.output_dir or _new_folder(name)
        resume = config.resume_from_checkpoint is not None
        check_output_dir(folder, overwrite=config.overwrite_output_dir, resume=resume)
        return folder

    return on_main_process(accelerator, choose)


def check_push(accelerator: "Accelerator", push_to_hub: str | None) -> None:
    """Check before training that the result may be pushed.

    Raises:
        PublishError: See `hf_tl.hub.hub.check_push_access`.
    """
    from hf_tl.hub.hub import check_push_access

    if push_to_hub is not None:
        on_main_process(accelerator, lambda: check_push_access(push_to_hub))


def _new_folder(name: str) -> str:
    number = 1
    while (folder := Path("runs", name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return str(folder)
