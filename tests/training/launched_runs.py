"""Small runs in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from ports import free_port
from training.small_runs import Run, result_of, train

from hf_tl.errors import HfTlError
from hf_tl.features import precision as frozen_precision
from hf_tl.processes import precision
from hf_tl.training import step_precision

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
"""Environment variables with which a launcher asks for a sharded model."""


def launch(
    run: Run, processes: int = 1, environment: Mapping[str, str] | None = None, expected: int | None = None
) -> subprocess.Popen[str]:
    """Start a run in processes of its own, which write their results to `result_path`.

    Args:
        run: The run.
        processes: Number of processes to start.
        environment: Further environment variables.
        expected: Number of processes that find each other, those of other launches included.
    """
    return launch_all([(run, {})], processes, environment, expected)


def launch_all(
    runs: Sequence[tuple[Run, Mapping[str, str]]],
    processes: int = 1,
    environment: Mapping[str, str] | None = None,
    expected: int | None = None,
) -> subprocess.Popen[str]:
    """Start runs in the same processes, one after another, each with environment variables of its own."""
    return _start(
        runs, ["--standalone", f"--nproc_per_node={processes}"] * (processes > 1), environment, expected or processes
    )


def launch_machines(run: Run, machines: int = 2) -> list[subprocess.Popen[str]]:
    """Start a run by one torchrun per machine, with one process each; which one is the main machine is open.

    Each is the leader of a process group, so that a machine can be lost as a whole.
    """
    words = ["--nnodes", f"{machines}", "--nproc_per_node", "1", "--rdzv_backend", "c10d"]
    words += ["--rdzv_endpoint", f"127.0.0.1:{free_port()}"]
    return [_start([(run, {})], words, None, machines) for _ in range(machines)]


def launch_unwatched(runs: Sequence[Run]) -> list[subprocess.Popen[str]]:
    """Start a process for each run, as if alone on its machine; no launcher watches and ends them."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{free_port()}", "WORLD_SIZE": str(len(runs))}
    local = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    return [
        launch(run, environment={**shared, **local, "RANK": str(rank)}, expected=len(runs))
        for rank, run in enumerate(runs)
    ]


def _start(
    runs: Sequence[tuple[Run, Mapping[str, str]]],
    agent: Sequence[str],
    environment: Mapping[str, str] | None,
    expected: int,
) -> subprocess.Popen[str]:
    """Start runs under torchrun with these words, or without it."""
    launcher = ["-m", "torch.distributed.run", *agent] if agent else []
    paths = f"{Path(__file__).parents[2]}{os.pathsep}{Path(__file__).parents[1]}"
    variables = {**os.environ, "PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *launcher, __file__, json.dumps([(asdict(run), its) for run, its in runs]), str(expected)],
        env={**variables, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def result_path(run: Run, rank: int = 0) -> Path:
    return Path(run.output, f"result-{rank}.pt")


def read_result(run: Run, rank: int = 0) -> dict[str, Any]:
    """Read the results that must not depend on an interruption."""
    result = torch.load(result_path(run, rank))
    return {name: value for name, value in result.items() if name != "by step"}


def main(run: Run, processes: int) -> None:
    """Run as one process of a launch, and exit like the command line."""
    if run.is_measured:
        frozen_precision.MIN_SECONDS = step_precision.MIN_SECONDS = precision.MIN_SPEEDUP = precision.MIN_RUNS = 0
    try:
        if run.way == "trainer":
            from training.trainer_runs import train_with_trainer

            result = train_with_trainer(run)
        else:
            training = train(run)
            assert training.accelerator.num_processes == processes
            names = ("weights", "frozen", "seen", "pixels", "held")
            result = {**result_of(training), "by step": {name: getattr(training, name) for name in names}}
    except HfTlError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(error.exit_status)  # as `hf_tl.__main__` does
    rank = int(os.environ.get("RANK", "0"))
    torch.save(result, result_path(run, rank))


if __name__ == "__main__":
    for task, variables in json.loads(sys.argv[1]):
        os.environ.update(variables)
        AcceleratorState._reset_state()  # it keeps the precision and the compiler of the run before
        main(Run(**task), int(sys.argv[2]))
        for variable in variables:
            del os.environ[variable]
    PartialState().destroy_process_group()
