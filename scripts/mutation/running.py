"""Runs of tests in processes that are forked from one that has imported the libraries.

Nothing here imports hf_tl: each process imports it from the copy of the repository.
"""

import gc
import multiprocessing
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import coverage
import pytest

ARGUMENTS = ["-n0", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=line", "--doctest-modules"]
LIBRARIES = [
    *("torch", "torchvision", "timm", "transformers.modeling_utils", "datasets", "accelerate", "peft", "evaluate"),
    *("sklearn.linear_model", "scipy.stats", "matplotlib.pyplot", "hypothesis", "pytest", "jinja2"),
]
"""Modules that are imported once for all runs. None of them imports hf_tl."""
SHORT = ["-m", "not slow and not gpu and not long"]
QUICK = ["--assert=plain", "-p", "no:unraisableexception", "-p", "no:hypothesispytest"]
"""Options without the parts of pytest that only explain failures: they take more than half of a short run."""
NO_TESTS = pytest.ExitCode.NO_TESTS_COLLECTED


@dataclass
class Trace:
    """Lines that the tests of a group run."""

    tests: dict[str, dict[int, set[str]]] = field(default_factory=dict)
    """Tests that run each line of each file."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Duration of each test that passed."""
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """Result of a run of some tests."""

    status: int | None
    """Exit status of pytest; negative: ended by this signal; None: out of time."""
    failed: list[str]
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether the tests notice a mutant: a test fails, or the run breaks or does not end."""
        return self.status not in (pytest.ExitCode.OK, NO_TESTS)


class Tracer:
    """Plugin of pytest that records the lines that each test runs, with the fixtures that it shares with others."""

    def __init__(self, root: Path, files: Sequence[str]) -> None:
        self.root, self.trace, self.fixtures = root, Trace(), defaultdict[str, set[str]](set)
        self.coverage = coverage.Coverage(
            data_file=None, include=[str(root / file) for file in files], config_file=False
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Generator[None, Any, Any]:
        """Assign lines to this test."""
        for name in item.fixturenames:
            self.fixtures[f"fixture {name}"].add(item.nodeid)
        self.test = item.nodeid
        self.coverage.switch_context(self.test)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        """Assign the lines of a shared fixture to all tests that use it."""
        if fixturedef.scope == "function":
            return (yield)
        self.coverage.switch_context(f"fixture {fixturedef.argname}")
        try:
            return (yield)
        finally:
            self.coverage.switch_context(self.test)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Add the durations of set-up, call and tear-down."""
        self.trace.seconds[report.nodeid] = self.trace.seconds.get(report.nodeid, 0) + report.duration
        if report.failed:
            self.trace.failed.append(report.nodeid)

    def result(self) -> Trace:
        """Return the lines of all tests that passed."""
        data, trace = self.coverage.get_data(), self.trace
        trace.seconds = {test: seconds for test, seconds in trace.seconds.items() if test not in trace.failed}
        for path in data.measured_files():
            lines = trace.tests.setdefault(str(Path(path).relative_to(self.root)), {})
            for line, contexts in data.contexts_by_lineno(path).items():
                tests = {test for context in contexts for test in self.fixtures.get(context, {context})}
                lines[line] = tests & trace.seconds.keys()
        return trace


class Chosen:
    """Plugin of pytest that runs the chosen tests, in this order, and notes which fail."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.places, self.failed = {test: place for place, test in enumerate(tests)}, list[str]()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leave out and sort."""
        items[:] = sorted((item for item in items if item.nodeid in self.places), key=lambda x: self.places[x.nodeid])

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note a failure."""
        if report.failed:
            self.failed.append(report.nodeid)


def enter(root: Path, log: Path) -> None:
    """Make the copy of the repository this process's own, and the process the leader of its group."""
    os.setsid()
    gc.freeze()
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(root)
    sys.path.insert(0, str(root))
    os.environ["PYTHONPATH"] = str(root)


def trace_tests(sending: Connection, root: Path, log: Path, files: Sequence[str], paths: Sequence[str]) -> None:
    """Run the tests of these paths and send their trace."""
    enter(root, log)
    tracer = Tracer(root, files)
    tracer.coverage.start()
    status = pytest.main([*ARGUMENTS, *SHORT, *paths], [tracer])
    tracer.coverage.stop()
    sending.send((int(status), tracer.result()))


def run_tests(sending: Connection, root: Path, log: Path, tests: Sequence[str], stop: bool) -> None:
    """Run these tests, and send the exit status and the failed tests."""
    enter(root, log)
    chosen = Chosen(tests)
    paths = list(dict.fromkeys(test.split("::")[0] for test in tests))
    status = pytest.main([*ARGUMENTS, *SHORT, *QUICK, *["-x"] * stop, *paths], [chosen])
    sending.send((int(status), chosen.failed))


def in_process(method: str, target: Callable, arguments: tuple, limit: float | None) -> tuple[int | None, Any, float]:
    """Call a function in a process of its own, and end it, with its children, when it runs past the limit in seconds.

    Returns:
        What the function sent: status (None: out of time) and value; and the seconds that it took.
    """
    context, start = multiprocessing.get_context(method), time.perf_counter()
    if method == "forkserver":
        context.set_forkserver_preload(LIBRARIES)
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(sending, *arguments))  # type: ignore[attr-defined]
    process.start()
    sending.close()
    try:
        status, value = receiving.recv() if receiving.poll(limit) else (None, None)
    except EOFError:  # the process broke
        process.join()
        status, value = process.exitcode or 1, None
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            process.kill()
        process.join()
    return status, value, time.perf_counter() - start


def run(root: Path, tests: Sequence[str], limit: float, *, stop: bool = True) -> Outcome:
    """Run tests on the files of the copy as they are now."""
    status, failed, seconds = in_process("forkserver", run_tests, (root, root.parent / "log", tests, stop), limit)
    return Outcome(status, failed or [], seconds)
