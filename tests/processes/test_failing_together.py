"""A failure of one process ends all processes of a run, with its error reported once; nothing is left running."""

import json
import os
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from cli.runs import REPOSITORY, TINY, write_images
from pages import blocks
from parts import parts
from ports import free_port
from processes.failing_runs import KINDS, MESSAGE, Case, Fault, Outcome

from hf_tl.checkpoints.checkpoint import newest_checkpoint
from hf_tl.processes.failure import PATIENCE
from hf_tl.record import read_record

SCRIPT = str(Path(__file__).with_name("failing_runs.py"))
LIMIT = 10.0
"""Seconds in which all processes end."""
SWEEP = 20
"""Runs of a part of the sweep."""

STEP, SAVE, TEST = "Checkpoints.write_if_due", "write_model", "predict_split"
CASES = [
    Case("data", [Fault(1, "DataError", "load_data")], way="python"),
    Case("plan", [Fault(0, "ValueError", "plan_folder")]),
    Case("features", [Fault(1, "ValueError", "FeaturePass.fill")]),
    Case("features on main", [Fault(0, "MemoryError", "FeaturePass.fill")]),
    Case("step", [Fault(1, "MemoryError", STEP)], processes=3),
    Case("evaluation", [Fault(0, "RuntimeError", TEST)]),
    Case("save", [Fault(1, "LocalError", SAVE)], way="python"),
    Case("Trainer", [Fault(1, "ValueError", "PhaseCollate.__call__")], way="trainer"),
    Case("kill", [Fault(1, "kill", STEP, call=3)], flags={"feature_cache": "off", "save_steps": 1}, workers=1),
    Case("kill on main", [Fault(0, "kill", STEP)], processes=3),
    Case("busy main", [Fault(0, "sleep", STEP, seconds=60), Fault(1, "DataError", STEP)]),
    Case("handled", [Fault(1, "RuntimeError", "_read_by_the_suffix")]),
    Case("slow", [Fault(1, "sleep", STEP, seconds=1.5 * PATIENCE), Fault(0, "sleep", TEST, seconds=1.5 * PATIENCE)]),
]
SUCCESSES = {"handled", "slow"}


def environment(folder: Path) -> dict[str, str]:
    paths = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}"
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_TL_CACHE": str(folder / "cache")}


def observe(cases: Sequence[Case], folder: Path) -> dict[str, Outcome]:
    """Run the cases one after another, in one program that forks their processes."""
    write_images(folder / "photos", 14)
    lines = "".join(json.dumps(asdict(case)) + "\n" for case in cases)
    command = [sys.executable, SCRIPT, str(folder)]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, env=environment(folder), check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = [Outcome(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]
    return {case.name: outcome for case, outcome in zip(cases, outcomes, strict=True)}


def problems(case: Case, outcome: Outcome) -> list[str]:
    """Return how a case with a failure did not end as it must."""
    expected = {fault.kind: "was killed" if fault.kind == "kill" else MESSAGE for fault in case.faults}
    lost = {fault.rank for fault in case.faults if fault.kind == "kill"}
    reporter = 1 if 0 in lost else 0
    texts = [text for rank, text in enumerate(outcome.errors) if rank != reporter]
    causes = outcome.errors[reporter].count("was the direct cause of the following exception")
    return [
        problem
        for problem, is_there in {
            "a process succeeded": 0 in outcome.statuses,
            "it took too long": outcome.seconds > LIMIT,
            "processes live on": bool(outcome.orphans),
            "it was not reported": outcome.reports != [reporter],
            "another error was reported": any("Traceback" in text or "rror:" in text for text in texts)
            or any("Connection closed" in text for text in outcome.errors),
            "it was reported twice": outcome.errors[reporter].count(expected[case.faults[-1].kind]) > 1 + causes,
        }.items()
        if is_there
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("failing")


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, Outcome]:
    return observe(CASES, folder)


@pytest.mark.parametrize("case", [case for case in CASES if case.name not in SUCCESSES], ids=lambda case: case.name)
def test_all_processes_end_with_the_error_of_any(outcomes: dict[str, Outcome], case: Case) -> None:
    outcome = outcomes[case.name]
    assert problems(case, outcome) == [], outcome


def test_a_slow_process_is_no_failure(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["slow"].statuses == [0, 0], outcomes["slow"].errors


def test_all_processes_take_the_way_around_an_error_that_a_process_handles(
    outcomes: dict[str, Outcome], folder: Path
) -> None:
    assert outcomes["handled"].statuses == [0, 0], outcomes["handled"].errors
    assert f"{MESSAGE} RuntimeError" in (folder / "handled" / "0.out").read_text()


def test_a_mistake_in_the_input_has_its_exit_status(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["busy main"].statuses == [2, 2]
    assert "Traceback" not in outcomes["busy main"].errors[0]


def test_an_unexpected_error_names_its_process_and_place(outcomes: dict[str, Outcome]) -> None:
    report = outcomes["step"].errors[0]
    assert "Traceback of process 1" in report
    assert "write_if_due" in report


def test_a_run_resumes_after_a_killed_process(outcomes: dict[str, Outcome], folder: Path) -> None:
    newest, damages = newest_checkpoint(folder / "kill" / "out" / "checkpoints")
    assert newest is not None
    assert damages == []


def launched(case: Case, folder: Path, launcher: Sequence[str]) -> tuple[int, str, float]:
    """Run a case under a launcher; return its exit status, its errors, and the seconds from the failure to the end."""
    words = [SCRIPT, str(folder), "--in_place", json.dumps(asdict(case))]
    done = subprocess.run(
        [sys.executable, *launcher, *words], capture_output=True, text=True, env=environment(folder), check=False
    )
    failures = [float(path.read_text()) for path in (folder / case.name).glob("fault-*")]
    return done.returncode, done.stderr, time.monotonic() - min(failures, default=time.monotonic())


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "kind"), [(1, "ValueError"), (0, "DataError"), (1, "DataError")])
def test_torchrun_ends_all_after_the_report(tmp_path: Path, rank: int, kind: str) -> None:
    write_images(tmp_path / "photos", 14)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    status, errors, seconds = launched(Case("torchrun", [Fault(rank, kind, STEP)]), tmp_path, launcher)
    assert status == 1
    assert errors.count(f"{MESSAGE} {kind}") == 1
    assert "Connection closed" not in errors
    assert seconds < LIMIT


@pytest.mark.slow
def test_two_machines_end_together(tmp_path: Path) -> None:
    """Two torchrun agents, which do not watch each other's processes."""
    write_images(tmp_path / "photos", 14)
    case, port = Case("machines", [Fault(1, "ValueError", STEP)]), free_port()
    launcher = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", "--rdzv_backend", "c10d"]
    launcher += ["--rdzv_endpoint", f"127.0.0.1:{port}", "--rdzv_id", "machines"]
    words = [SCRIPT, str(tmp_path), "--in_place", json.dumps(asdict(case))]
    agents = [
        subprocess.Popen(
            [sys.executable, *launcher, *words], stderr=subprocess.PIPE, text=True, env=environment(tmp_path)
        )
        for _ in range(2)
    ]
    errors = [agent.communicate(timeout=240)[1] for agent in agents]
    seconds = time.monotonic() - float((tmp_path / "machines" / "fault-1").read_text())
    assert all(agent.returncode for agent in agents)
    assert sum(text.count(f"{MESSAGE} ValueError") for text in errors) == 1
    assert seconds < LIMIT


SRUN = """#!/bin/bash
for task in $(seq 0 $((SLURM_NTASKS - 1))); do
    SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
    tasks+=" $!"
done
for task in $tasks; do wait $task || status=$?; done
exit ${status:-0}
"""
"""Stand-in for `srun`, which starts the tasks of a job on one machine."""


@pytest.mark.slow
def test_the_slurm_script_of_the_page_trains(tmp_path: Path) -> None:
    write_images(tmp_path / "FOLDER", 14)
    programs = {
        "srun": SRUN,
        "scontrol": "#!/bin/bash\necho 127.0.0.1\necho another-machine\n",
        "hf-tl": f'#!/bin/bash\nexec {sys.executable} -m hf_tl "$@" {shlex.join([*TINY, "--num_train_epochs", "1"])}\n',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    script = next(block for block in blocks(REPOSITORY / "hf_tl" / "training" / "README.md", "sh") if "srun" in block)
    variables = {**environment(tmp_path), "SLURM_NTASKS": "2", "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-c", script.replace("MASTER_PORT=29500", f"MASTER_PORT={free_port()}")]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Test accuracy") == 1
    assert read_record(tmp_path / "OUT").hyperparameters["processes"] == 2


def random_cases(plain: dict[int, Outcome], count: int, seed: int) -> list[Case]:
    """Return runs with a random failure of a random process in a random function of hf_tl."""
    values = random.Random(seed)
    cases = []
    for number in range(count):
        processes = values.choice(list(plain))
        rank = values.randrange(processes)
        where, calls = values.choice(sorted(plain[processes].calls[rank].items()))
        fault = Fault(rank, values.choice([*KINDS, "kill"]), where, values.randint(1, min(calls, 5)))
        cases.append(Case(f"{number}", [fault], processes, values.choice(("command", "python"))))
    return cases


@pytest.mark.parametrize("part", parts(10, plain=0))
def test_random_failures_of_random_processes(tmp_path: Path, part: int) -> None:
    """A run that handles the exception succeeds on all processes."""
    plain = observe([Case(f"{size}", [], size) for size in (2, 3)], tmp_path / "plain")
    cases = random_cases({size: plain[f"{size}"] for size in (2, 3)}, SWEEP, seed=part)
    outcomes = observe(cases, tmp_path / "sweep")
    failures: dict[str, Any] = {}
    for case in cases:
        outcome = outcomes[case.name]
        if any(outcome.statuses) and (faults := problems(case, outcome)):
            failures[case.name] = (faults, case.faults, outcome)
    assert not failures
    assert sum(any(outcome.statuses) for outcome in outcomes.values()) > 0.8 * SWEEP
