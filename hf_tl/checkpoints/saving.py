"""Contents of a checkpoint of the Accelerate loop, gathered from all processes and restored."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tl.backbones.stages.stage import Stage, trainable_parameters
from hf_tl.checkpoints.checkpoint import FOLDER, check_whole, newest_checkpoint, write_checkpoint
from hf_tl.checkpoints.sigterm import Sigterm
from hf_tl.checkpoints.state import Contents, random_state, read_state, write_state
from hf_tl.config import TrainingConfig
from hf_tl.errors import TERMINATED_STATUS
from hf_tl.processes.sharding import ShardedAccelerator
from hf_tl.processes.together import on_main_process
from hf_tl.reporting.console import say
from hf_tl.strategy import Phase, Strategy

if TYPE_CHECKING:
    from accelerate import Accelerator


CHANGEABLE = frozenset(
    (
        "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "save_steps", "save_total_limit", "report_to",
        "per_device_eval_batch_size", "auto_find_batch_size", "gradient_checkpointing", "dataloader_num_workers",
        "cpu_threads", "feature_cache", "feature_cache_dir", "feature_cache_gb", "time_budget", "measure_energy",
        "keep_memory", "corruptions",
        "teacher", "teacher_revision",  # known by the digest of its weights
    )
)  # fmt: skip
"""Settings that may change when a run resumes, because they do not change its results."""


class Checkpoints:
    """Checkpoints of a training; disabled without an `output_dir`."""

    def __init__(
        self, accelerator: "Accelerator", config: TrainingConfig, identity: dict[str, Any], folder: str = FOLDER
    ) -> None:
        """Set the folder of the checkpoints.

        Args:
            accelerator: Accelerator of the training.
            config: Settings of the training.
            identity: What a checkpoint and the run that resumes from it must share.
            folder: Name of the checkpoint folder inside the output folder.
        """
        self.accelerator = accelerator
        self.config = config
        self.identity = identity
        self.sigterm = Sigterm(accelerator)
        self.folder = None if config.output_dir is None else Path(config.output_dir) / folder

    def read(self, source: str) -> Contents | None:
        """Read a checkpoint.

        Args:
            source: Folder of a checkpoint, or `auto` for the newest complete one.

        Returns:
            Its contents; None if `auto` finds no checkpoint.

        Raises:
            CheckpointError: The checkpoint is incomplete or from another run.
        """
        folder: Path | None
        if source == "auto":
            folder, problems = newest_checkpoint(self.folder) if self.folder else (None, [])
            for problem in problems:
                say(self.accelerator, f"Skipping the checkpoint {problem}")
        else:
            folder = Path(source)
            check_whole(folder)
        if folder is None:
            say(self.accelerator, "Starting at the first step: --output_dir holds no complete checkpoint")
            return None
        contents = read_state(folder, self.identity)
        say(self.accelerator, f"Resuming after step {contents.state.step} ({folder.name})")
        return contents

    def write_if_due(self, step: int, is_epoch_end: bool, gather: Callable[[], Contents]) -> None:
        """Write a checkpoint when it is due, and after SIGTERM on any process, which ends the run.

        A checkpoint is due after an epoch, or every `save_steps`. All processes must call this.

        Args:
            step: Number of optimizer steps done.
            is_epoch_end: Whether the last step ended an epoch or a phase.
            gather: Function that gathers the contents.

        Raises:
            CheckpointError: The disk is full or read-only (raised on all processes).
            SystemExit: The process received SIGTERM.
        """
        save_steps, is_interrupted = self.config.save_steps, self.sigterm.is_received()
        is_time = is_epoch_end if save_steps is None else step % save_steps == 0
        if self.folder is not None and (is_interrupted or (is_time and self.are_wanted)):
            self.write(gather())
        if is_interrupted:
            resume = "" if self.folder is None else "; resume with --resume_from_checkpoint auto"
            say(self.accelerator, f"Stopping on SIGTERM after step {step}{resume}")
            raise SystemExit(TERMINATED_STATUS)

    @property
    def are_wanted(self) -> bool:
        """Return whether checkpoints are written without an interruption."""
        return self.folder is not None and self.config.save_total_limit > 0

    def write(self, contents: Contents) -> None:
        """Write a checkpoint. All processes must call this.

        Raises:
            CheckpointError: The disk is full or read-only (raised on all processes).
        """
        assert self.folder is not None

        def write_files(partial: Path) -> None:
            write_state(partial, contents, self.identity)

        commit(self.accelerator, self.folder, contents.state.step, write_files, max(1, self.config.save_total_limit))


def identity_of(
    accelerator: "Accelerator", strategy: Strategy, config: TrainingConfig, fingerprint: str, images: int
) -> dict[str, Any]:
    """Return what a checkpoint and the run that resumes from it must share.

    Args:
        accelerator: Accelerator of the training.
        strategy: Strategy of the training.
        config: Settings of the training.
        fingerprint: Fingerprint of the data.
        images: Number of training images.
    """
    launched = accelerator.mixed_precision  # a launcher's precision comes before that of the settings
    return {
        "strategy": strategy.to_record(),
        "data": fingerprint,
        "training images": images,
        "processes": accelerator.num_processes,
        "sharded": isinstance(accelerator, ShardedAccelerator),
        **{field.name: getattr(config, field.name) for field in fields(config) if field.name not in CHANGEABLE},
        "mixed_precision": config.mixed_precision if launched == "no" else launched,
    }


def names_trained_by(phases: Sequence[Phase], stages: Sequence[Stage]) -> frozenset[str]:
    """Return the names of the tensors that some phase trains; the others cannot change and are not saved."""
    names: set[str] = set()
    for phase in phases:
        trainable = trainable_parameters(stages, phase.trainable_stages)
        for stage in stages:
            if phase.norm != "frozen" or not trainable.isdisjoint(stage.plain_names):
                names.update(stage.plain_names, stage.buffer_names)
    return frozenset(names)


def gather_random_states(accelerator: "Accelerator") -> list[dict[str, Any]]:
    """Gather the states of the random number generators of all processes, in order."""
    from accelerate.utils import gather_object

    return gather_object([random_state(accelerator)])


def commit(accelerator: "Accelerator", folder: Path, step: int, write_files: Callable[[Path], None], keep: int) -> None:
    """Write a checkpoint on the main process; see `write_checkpoint`.

    Raises:
        CheckpointError: The disk is full or read-only (raised on all processes).
    """
    on_main_process(accelerator, lambda: write_checkpoint(folder, step, write_files, keep))
