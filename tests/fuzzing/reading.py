"""Reading of mutated files under watch: for errors, time, memory, programs, connections, and files outside."""

import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from hf_tl.errors import HfTlError

MUTATIONS, PARTS = 100, 100
"""Number of mutations in a part of a test, and number of its parts."""
SECONDS = 20.0
"""Longest time of the processor for one file."""
MEMORY = 1500
"""Largest growth of the memory of the process, in MB."""
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "socket.connect")
Mutate = Callable[[bytes, Random], bytes]

_watched: list[Callable[[str, tuple[Any, ...]], None]] = []
sys.addaudithook(lambda event, arguments: [watch(event, arguments) for watch in _watched] and None)


def fuzz(
    file: Path, mutate: Mutate, read: Callable[[], object], part: int, *, names: str | None = None
) -> Counter[str]:
    """Read `MUTATIONS` mutations of a file; each must be read, or be refused with an error that names it.

    Args:
        file: The file, restored in the end.
        mutate: Mutation of its bytes.
        read: Function that reads it.
        part: Number of the part, whose mutations differ from those of all others.
        names: Text that errors must contain (default: the name of the file).

    Returns:
        Number of files that were read, and of those that were refused.
    """
    content, outcomes = file.read_bytes(), Counter[str]()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        for seed in range(part * MUTATIONS, (part + 1) * MUTATIONS):
            file.write_bytes(mutate(content, Random(seed)))
            outcomes[_outcome(file, read, seed, names or file.name)] += 1
    finally:
        file.write_bytes(content)
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    assert growth < MEMORY, f"{growth:,.0f} MB"
    assert outcomes["refused"] > MUTATIONS / 20, outcomes
    return outcomes


def _outcome(file: Path, read: Callable[[], object], seed: int, name: str) -> str:
    start, refusal = time.process_time(), None
    try:
        with _confined(file.parent):
            read()
    except HfTlError as error:
        refusal = str(error)
    except BaseException as error:
        error.add_note(f"{file.name} of seed {seed}: {file.read_bytes()[:2000]!r}")
        raise
    seconds = time.process_time() - start
    assert seconds < SECONDS, f"seed {seed}: {seconds:.1f} s"
    assert refusal is None or name in refusal, f"seed {seed}: {refusal}"
    assert refusal is None or len(refusal) < 5000, f"seed {seed}: {len(refusal):,} characters"
    return "read" if refusal is None else "refused"


@contextmanager
def _confined(folder: Path) -> Iterator[None]:
    """Fail if the process starts a program, connects, writes outside the folder, or reads what mutations name."""

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        assert event not in FORBIDDEN, f"{event} {arguments}"
        if event == "open" and isinstance(arguments[0], str | bytes):
            path, mode, flags = os.fsdecode(arguments[0]), arguments[1] or "", arguments[2]
            is_written = bool(set(mode) & set("wax+")) or bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            is_inside = os.path.abspath(path).startswith(str(folder)) or path == os.devnull
            assert is_inside or not is_written, f"writes {path}"
            assert "outside.txt" not in path, f"reads {path}"
            assert path not in ("/etc/passwd", "/dev/zero"), f"reads {path}"

    _watched.append(watch)
    try:
        yield
    finally:
        _watched.remove(watch)
