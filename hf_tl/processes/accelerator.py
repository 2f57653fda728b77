"""Accelerator of the loop: devices, threads and trackers."""

import contextlib
import os
import socket
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs, LoggerType, ProjectConfiguration, is_tensorboard_available

from hf_tl.config import TrainingConfig
from hf_tl.errors import ConfigError, name_some
from hf_tl.processes.cores import cpu_cores
from hf_tl.processes.sharding import ShardedAccelerator, check_sharding, hidden_from_accelerate, launcher_asks
from hf_tl.storage.writing import writing
from hf_tl.strategy import Strategy

_ENGINES = ("DEEPSPEED", "MEGATRON_LM")
COLLECTIVE_TIMEOUT = timedelta(hours=6)
"""Time that other processes wait for the main one, which loads data, measures backbones and tries strategies. The
default of torch is 10 minutes."""


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """Create the accelerator of a run, on the devices and in the precision that the launcher chose.

    Raises:
        ConfigError: The launcher's settings or the tracker cannot be used.
    """
    is_sharded = _check_engines()
    tracker = config.report_to
    if tracker == "auto":
        tracker = "tensorboard" if is_tensorboard_available() else "none"
    _check_tracker(tracker)
    try:
        with hidden_from_accelerate() if is_sharded else contextlib.nullcontext():
            accelerator = (ShardedAccelerator if is_sharded else Accelerator)(
                # several processes without a GPU would not find each other
                cpu=_launched_processes() > 1 and not torch.accelerator.is_available(),
                gradient_accumulation_steps=config.gradient_accumulation_steps,
                log_with=None if tracker == "none" else tracker,
                project_config=ProjectConfiguration(project_dir="."),
                dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
                kwargs_handlers=[InitProcessGroupKwargs(timeout=COLLECTIVE_TIMEOUT)],
                step_scheduler_with_optimizer=False,
            )
    except ValueError as error:
        raise ConfigError(
            f"the launcher's settings or --report_to {config.report_to} cannot be used: {error}"
        ) from error
    _check_processes(accelerator)
    if isinstance(accelerator, ShardedAccelerator):
        check_sharding(accelerator)
    if accelerator.device.type == "cpu":
        # accelerate launch gives each process one thread, whatever the number of cores
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(config.cpu_threads or max(1, cpu_cores() // processes))
    return accelerator


def _check_tracker(name: str) -> None:
    """Reject a tracker that is not installed.

    Raises:
        ConfigError: Accelerate does not know the tracker, or its package is missing.
    """
    installed = [str(tracker.value) for tracker in get_available_trackers()]
    if name in ("none", "all", *installed):
        return
    known = [tracker.value for tracker in LoggerType]
    advice = f'pip install "{name}"' if name in known else f"choose from {', '.join(known)}, auto and none"
    raise ConfigError(
        f"--report_to takes an installed experiment tracker, found {name} (installed: {name_some(installed) or 'none'})"
        f": {advice}"
    )


def _check_engines() -> bool:
    """Reject engines that replace the training loop, and return whether the launcher asks for FSDP."""
    if asked := [name for name in _ENGINES if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true"]:
        raise ConfigError(
            f"hf_tl does not support {' and '.join(asked)}, which replaces optimizer, gradient clipping and "
            "checkpoints. Launch one process, several with DistributedDataParallel (torchrun, or accelerate launch "
            "--multi_gpu), or several with FSDP2 (accelerate launch --use_fsdp --fsdp_version 2), which shards like "
            "ZeRO stage 3"
        )
    return launcher_asks()


def _launched_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _check_processes(accelerator: Accelerator) -> None:
    """Reject a run with fewer processes than requested."""
    # accelerate launch sets the main process's address only for several processes; without GPUs it silently starts one
    is_dropped = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if accelerator.num_processes == 1 and (
        _launched_processes() > 1 or ("WORLD_SIZE" not in os.environ and is_dropped)
    ):
        raise ConfigError(
            "expected several processes, as the launcher requests, found one: accelerate launch --num_processes starts "
            "a single process without GPUs. Launch with torchrun --nproc_per_node N, or request one process (and unset "
            "MASTER_ADDR)"
        )


def unwrap_precision(model: torch.nn.Module) -> None:
    """Remove the mixed precision that accelerate's `prepare` wrapped around the model's own `forward`.

    Accelerate's `unwrap_model(keep_fp32_wrapper=False)` also removes the decorators of the model's class.
    """
    for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
        model.__dict__.pop(name, None)


def start_trackers(accelerator: Accelerator, config: TrainingConfig, strategy: Strategy) -> None:
    """Open the trackers, with their logs in the output folder.

    Raises:
        SaveError: The disk is full or read-only.
    """
    accelerator.project_configuration.set_directories(str(config.output_dir))
    accelerator.project_configuration.logging_dir = str(Path(str(config.output_dir), "logs"))
    settings = {"strategy": strategy.name, "seed": config.seed, "batch_size": config.per_device_train_batch_size}
    with writing_logs(config):
        accelerator.init_trackers("hf_tl", config=settings)


def close_logs(accelerator: Accelerator, config: TrainingConfig) -> None:
    """Close TensorBoard's files, also after an interruption, and remove the machine's name from their names.

    Raises:
        SaveError: The disk is full or read-only.
    """
    with writing_logs(config):
        for tracker in accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.finish()
        if accelerator.is_main_process:
            for file in Path(str(config.output_dir), "logs").rglob(f"*tfevents*.{socket.gethostname()}.*"):
                file.replace(file.with_name(file.name.replace(f".{socket.gethostname()}.", ".")))


def writing_logs(config: TrainingConfig) -> contextlib.AbstractContextManager[None]:
    """Turn an error of the system, while a tracker writes, into a `SaveError`; see `writing`."""
    advice = "free some space, or choose --report_to none"
    return writing(f"the logs in {Path(str(config.output_dir), 'logs')}", advice=advice)


def available_device() -> torch.device | None:
    """Return the GPU or other accelerator of this machine; None if there is none."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


def describe_hardware(accelerator: Accelerator) -> str:
    """Describe the devices, without the name of the machine.

    Returns:
        For example `"CPU, 2 cores"` or `"4 x NVIDIA H100"`.
    """
    if accelerator.device.type != "cuda":
        return f"{accelerator.device.type.upper()}, {cpu_cores()} cores"
    name = torch.cuda.get_device_name(accelerator.device)
    return name if accelerator.num_processes == 1 else f"{accelerator.num_processes} x {name}"
