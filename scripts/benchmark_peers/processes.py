"""Measurement of a process from outside: wall-clock time, CPU time, memory."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.1
KIB_PER_GIB = 2**20
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
"""Settings of `hf_tl.processes.memory`, for the other libraries."""


@dataclass(frozen=True)
class Measured:
    """Measurements of a finished process."""

    status: int
    """Exit status; 0 is success."""
    started: float
    """Start time in seconds since the epoch."""
    seconds: float
    """Wall-clock seconds from before the start of the process to its end."""
    cpu_seconds: float
    """User and system time, including its children."""
    peak_gib: float
    """Peak resident memory of its largest process, including mapped file pages."""
    own_gib: float
    """Peak resident memory of all its processes without file pages, which the kernel can reclaim; a page that a loader
    worker shares with its parent counts twice."""


def measure(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Measured:
    """Run a command with its output in `log`, and measure it.

    The kernel initializes the `ru_maxrss` of a process with that of its parent, so the caller must stay small: no
    torch.

    Args:
        command: Program and arguments.
        log: File for stdout and stderr.
        environment: Variables in addition to those of this process.
    """
    started, start, own = time.time(), time.perf_counter(), 0
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env={**os.environ, **environment}
        )
        try:
            while True:
                ended, status, usage = os.wait4(process.pid, os.WNOHANG)
                if ended:
                    break
                own = max(own, _own_memory(process.pid))
                time.sleep(POLL_SECONDS)
        except BaseException:
            process.kill()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return Measured(
        status=process.returncode,
        started=started,
        seconds=time.perf_counter() - start,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_gib=usage.ru_maxrss / KIB_PER_GIB,
        own_gib=own / KIB_PER_GIB,
    )


def _own_memory(pid: int) -> int:
    """Return the memory of a process and its descendants in KiB, without processes that have just ended."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except (FileNotFoundError, ProcessLookupError):
        return total
    return total + sum(_own_memory(int(child)) for child in children)


def machine() -> str:
    """Return the kind of machine, without its name."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB"
