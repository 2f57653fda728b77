"""Faults of the disk in this process, by a preloaded library (`failing_writes.c`), and processes that meet them."""

import atexit
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("failing_writes.c")
TIMED_OUT = "ran out of time"
LIMIT = 120
"""Seconds after which a process counts as hanging; on a busy machine they take many times as long as on a quiet one."""


def compiler() -> str | None:
    """Return the C compiler of this machine; None without one."""
    return shutil.which("cc") or shutil.which("gcc")


def compile_library(folder: Path) -> Path:
    """Compile the library, which `LD_PRELOAD` names."""
    library = folder / "failing_writes.so"
    command = [str(compiler()), "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


@dataclass(frozen=True)
class Fault:
    """Fault of the disk from a write on, or signal just before a write; by default none of both."""

    first: int = 0
    """Number of the first write that fails, from 1 on."""
    error: int = 0
    """Error number of the failing writes, such as `errno.ENOSPC`."""
    sent: int = 0
    """Signal that the process receives just before write number `first`."""
    delay: float | None = None
    """Seconds after which the process receives the signal, instead of at a write."""


UNDISTURBED = Fault()


@dataclass(frozen=True)
class Outcome:
    """Outcome of a process."""

    status: int
    """Exit status; negative for a signal, as in `subprocess`."""
    printed: str
    """Standard output."""
    errors: str
    """Standard error stream."""
    writes: int
    """Number of writes in the watched folder; 0 if the process was killed."""
    seconds: float

    @property
    def last_errors(self) -> str:
        """Last lines of the standard error stream."""
        return " | ".join(self.errors.strip().splitlines()[-3:])


def run(
    work: Callable[[], None], watched: Path, logs: Path, fault: Fault = UNDISTURBED, limit: float = LIMIT
) -> Outcome:
    """Run a function in a forked process in which writes to a folder fail.

    Args:
        work: Function to run.
        watched: Folder whose writes are counted, and fail.
        logs: Folder outside of it for what the process prints.
        fault: Fault that it meets.
        limit: Largest number of seconds; then the process is killed, and its errors end with `TIMED_OUT`.
    """
    start, (reading, writing) = time.perf_counter(), os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _work(work, watched, logs, fault, writing)
    os.close(writing)
    is_timed_out = _wait(child, fault, start, limit)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(reading, "rb") as pipe:
        writes = int(pipe.read() or 0)
    printed, errors = ((logs / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
    return Outcome(status, printed, errors + TIMED_OUT * is_timed_out, writes, time.perf_counter() - start)


def _wait(child: int, fault: Fault, start: float, limit: float) -> bool:
    """Wait for the end of a process, send it the signal of its fault, and kill it at the limit."""
    moments = [] if fault.delay is None else [(fault.delay, fault.sent)]
    for moment, number in [*moments, (limit, signal.SIGKILL)]:
        while time.perf_counter() < start + moment:
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return False
            time.sleep(0.002)
        os.kill(child, number)
    return True


def _work(work: Callable[[], None], watched: Path, logs: Path, fault: Fault, writing: int) -> None:
    """Run a function in this process, and end it (child process)."""
    status, library = 1, ctypes.CDLL(None)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    sent = 0 if fault.delay is not None else fault.sent
    library.fault_arm(os.fsencode(watched), ctypes.c_long(fault.first), fault.error, sent)
    try:
        work()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:  # noqa: BLE001  printed, as Python does at the end of a program
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        atexit._run_exitfuncs()  # as at the end of a program
        os.write(writing, b"%d" % library.fault_calls())
        os._exit(status)
