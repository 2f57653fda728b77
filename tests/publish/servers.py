"""A page served by a process of its own."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

PATIENCE = 900
"""Timeout in seconds, far above the duration of a test; a loaded machine is slow."""
T = TypeVar("T")


def wait_for(look: Callable[[], T]) -> T:
    """Poll a function, and return its first true result."""
    end = time.monotonic() + PATIENCE
    while not (result := look()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)
    return result


@contextmanager
def served(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Iterator[str]:
    """Run a process that serves a page, and yield the page's URL."""
    with serving(command, environment, folder) as (url, _):
        yield url


@contextmanager
def serving(
    command: Sequence[str], environment: Mapping[str, str], folder: Path
) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Run a process that serves a page, and yield the page's URL and the process."""
    log = folder / "served.log"
    with (
        log.open("w") as out,
        subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=dict(environment), stdout=out, stderr=out
        ) as process,
    ):
        try:
            yield wait_for(lambda: _address(log, process)), process
        finally:
            process.terminate()


def _address(log: Path, process: "subprocess.Popen[bytes]") -> str:
    assert process.poll() is None, log.read_text()
    match = re.search(r"shown at (http://127\.0\.0\.1:\d+)", log.read_text())
    return match[1] if match else ""
