"""Run several processes of a training in which a process fails, and observe how all of them end.

It is a script that imports everything once and forks the processes of each case:

    python tests/processes/failing_runs.py FOLDER < cases.json

It prints an `Outcome` in JSON for each case. With `--in_place`, it is a process of the first case itself, for
launchers.
"""

import atexit
import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from ports import free_port

import hf_tl
import hf_tl.run
from hf_tl.cli import main as command
from hf_tl.errors import DataError
from hf_tl.run import import_libraries

PACKAGE = str(Path(hf_tl.__file__).parent)
OUTSIDE = ("failure.py", "links.py")
"""Files that carry the failures to other processes."""
ENTRIES = {"_prepare", "StrategyTrainer.__init__"}
"""Functions that a run begins with; calls count from there to its end, after which the processes part."""
MESSAGE = "injected"
TIMEOUT = 90.0


class LocalError(Exception):
    """Error that cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("not for other processes")


KINDS: dict[str, type[Exception]] = {
    error.__name__: error for error in (DataError, ValueError, MemoryError, RuntimeError, LocalError)
}


@dataclass
class Fault:
    """Event in a process at a call of a function."""

    rank: int
    kind: str
    """Exception to raise, `kill`, or `sleep`."""
    where: str
    """Qualified name of the function of hf_tl in which it happens."""
    call: int = 1
    """Number of the call of the function in which it happens."""
    seconds: float = 0.0
    """Duration of `sleep`."""

    def occur(self, folder: Path) -> None:
        if self.kind == "sleep":
            time.sleep(self.seconds)
            return
        (folder / f"fault-{self.rank}").write_text(str(time.monotonic()))
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise KINDS[self.kind](f"{MESSAGE} {self.kind}")


@dataclass
class Case:
    """Run with faults."""

    name: str
    faults: list[Fault]
    processes: int = 2
    way: str = "command"
    """`command`, `python`, or `trainer`."""
    workers: int = 0
    flags: dict[str, Any] = field(default_factory=dict)


@dataclass
class Outcome:
    """End of the processes of a case."""

    statuses: list[int]
    """Exit statuses; negative: the signal that ended the process."""
    errors: list[str]
    """Standard error streams."""
    seconds: float
    """Seconds from the first failure to the end of the last process."""
    orphans: list[int]
    """Processes that these have started, and that live on 10 s after the failure."""
    calls: list[dict[str, int]]
    """Calls of hf_tl's functions, by process; empty where it ended early."""

    @property
    def reports(self) -> list[int]:
        """Return the ranks that reported an error."""
        return [rank for rank, text in enumerate(self.errors) if MESSAGE in text or "was killed" in text]


def inject(case: Case, rank: int, folder: Path) -> Counter[str]:
    """Let the faults of a process happen, and return its calls of hf_tl's functions."""
    faults = {(fault.where, fault.call): fault for fault in case.faults if fault.rank == rank}
    calls: Counter[str] = Counter()
    process = os.getpid()

    def trace(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE) or code.co_filename.endswith(OUTSIDE) or os.getpid() != process:
            return
        if not calls and code.co_qualname not in ENTRIES:
            return
        calls[code.co_qualname] += 1
        if fault := faults.get((code.co_qualname, calls[code.co_qualname])):
            fault.occur(folder)

    sys.settrace(trace)
    return calls


def settings_of(case: Case, folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "out"),
        "report_to": "none",
        "cpu_threads": 1,
        "per_device_train_batch_size": 4,
        "dataloader_num_workers": case.workers,
        "feature_cache": "on",
        "feature_cache_dir": str(folder / "features"),
        **case.flags,
    }


def train(case: Case, folder: Path) -> None:
    """Train in the way of the case."""
    settings, photos = settings_of(case, folder), str(folder.parent / "photos")
    if case.way == "trainer":
        train_with_trainer(settings, photos)
        return
    settings |= {"epochs": 2, "image_size": 32, "pretrained": False}
    if case.way == "python":
        hf_tl.train("timm:test_resnet", photos, "finetune", **settings)
        return
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command(["train", "--model", "timm:test_resnet", "--dataset", photos, "--strategy", "finetune", *words])


def train_with_trainer(settings: dict[str, Any], photos: str) -> None:
    from transformers import TrainingArguments

    data = hf_tl.load_data(photos)
    model, transforms = hf_tl.load_backbone("timm:test_resnet", data.labels, pretrained=False, image_size=32)
    args = TrainingArguments(
        settings["output_dir"], num_train_epochs=2, use_cpu=True, report_to="none", disable_tqdm=True,
        per_device_train_batch_size=4, dataloader_num_workers=settings["dataloader_num_workers"],
    )  # fmt: skip
    hf_tl.StrategyTrainer(model, args, strategy="transfer", data=data, transforms=transforms).train()


def traced_to_its_end(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return a run after which no fault happens: the other processes may have ended."""

    def traced(*arguments: Any) -> Any:
        result = run(*arguments)
        sys.settrace(None)
        return result

    return traced


def carry_out(case: Case, rank: int, folder: Path) -> int:
    """Run a process of a case; return its exit status, as the interpreter would."""
    calls = inject(case, rank, folder)
    try:
        hf_tl.run._run = traced_to_its_end(hf_tl.run._run)  # type: ignore[attr-defined]
        train(case, folder)
        (folder / f"calls-{rank}").write_text(json.dumps(calls))
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:  # noqa: BLE001  as the interpreter does
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        return 1
    finally:
        sys.settrace(None)


def forked(case: Case, rank: int, port: int, folder: Path) -> int:
    """Start a process of a case as a launcher does that sets the environment and does not watch."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        for number, stream in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{rank}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(case.processes),
            "LOCAL_WORLD_SIZE": str(case.processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        status = carry_out(case, rank, folder)
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def session_of(process: str) -> int:
    with contextlib.suppress(OSError):
        state, _, _, session = Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[:4]
        return -1 if state == "Z" else int(session)
    return -1


def started_by(leaders: set[int]) -> list[int]:
    """Return the processes in the sessions of others."""
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if session_of(path.name) in leaders]


def wait_until(is_met: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_met() and time.monotonic() < end:
        time.sleep(0.05)


def observe(case: Case, folder: Path) -> Outcome:
    """Run a case to its end."""
    folder.mkdir()
    port = free_port()
    children = {forked(case, rank, port, folder): rank for rank in range(case.processes)}
    leaders, ends = set(children), {}

    def is_done() -> bool:
        while children:
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                return False
            ends[children.pop(child)] = (os.waitstatus_to_exitcode(status), time.monotonic())
        return True

    wait_until(is_done, TIMEOUT)
    for child in children:
        os.kill(child, signal.SIGKILL)
    wait_until(is_done, TIMEOUT)
    last = max(moment for _, moment in ends.values())
    first = min((float(path.read_text()) for path in folder.glob("fault-*")), default=last)
    wait_until(lambda: not started_by(leaders), max(0.0, first + 10 - time.monotonic()))
    texts = [(folder / f"{rank}.err").read_text(errors="replace") for rank in range(case.processes)]
    calls = [folder / f"calls-{rank}" for rank in range(case.processes)]
    return Outcome(
        [ends[rank][0] for rank in range(case.processes)],
        texts,
        last - first,
        started_by(leaders),
        [json.loads(path.read_text()) if path.exists() else {} for path in calls],
    )


def read_case(values: dict[str, Any]) -> Case:
    return Case(**{**values, "faults": [Fault(**fault) for fault in values["faults"]]})


def main() -> None:
    folder, *options = sys.argv[1:]
    torch.set_num_threads(1)
    if options:
        case = read_case(json.loads(options[1]))
        place = Path(folder, case.name)
        place.mkdir(exist_ok=True)
        sys.exit(carry_out(case, int(os.environ["RANK"]), place))
    import_libraries()
    for line in sys.stdin:
        case = read_case(json.loads(line))
        print(json.dumps(asdict(observe(case, Path(folder, case.name)))), flush=True)


if __name__ == "__main__":
    main()
