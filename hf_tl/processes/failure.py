"""Failure of a process of a run: all processes end, and the main process reports the error once.

While a run is open, each process keeps a TCP connection to the main process, to which a thread listens. The system
closes the connection of a process that was killed; a slow process keeps its own, however long it computes.

```text
 a process raises  -> its error goes to the main process -> which raises or reports it, and informs the others
 a process is lost -> its connection closes              -> the same, with an error that names the process
 main is lost      -> all connections close              -> process 1 reports it
```

A main thread that waits in a collective cannot be interrupted: the listening thread ends a process that does not end by
itself within `PATIENCE`.
"""

import contextlib
import itertools
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, NoReturn

from hf_tl.errors import ConfigError, HfTlError, TrainingError, name_some
from hf_tl.processes.links import JOIN_TIMEOUT, Entrance, meet, ready, receive, send
from hf_tl.processes.together import picklable
from hf_tl.reporting.console import TolerantStream, logger

PATIENCE = 2.0
"""Seconds in which a process may end by itself, and in which the main process waits for the words of others."""
START, DONE = "start", "done"


class Failure(NamedTuple):
    """Failure of a process, as others receive it."""

    rank: int
    error: BaseException
    is_loss: bool = False
    """Whether the process ended without a word. Errors of others that follow are its consequence."""


class _Open:
    """The watch of this process."""

    numbers = itertools.count()
    """Numbers of the runs, which all processes open in the same order."""
    watch: "_Watch | None" = None
    """The latest watch. Its connections stay open after a failure, so that others see when this process has ended."""
    is_open = False


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Carry out a part of a program on all launched processes so that all succeed or all fail, with the same error.

    A single process runs as without the context. Several begin when all have entered, and continue when all are done.
    If a process raises an exception, the main process raises it too, or reports it and ends if its main thread is busy.
    Other processes do the same without a report.

    Raises:
        ConfigError: The processes do not reach each other.
        TrainingError: A process was killed.
    """
    if _Open.is_open or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    rank, size, link = meet(next(_Open.numbers))
    watch: _Watch = _MainWatch(size, link) if isinstance(link, Entrance) else _OtherWatch(rank, size, link)
    _Open.watch, _Open.is_open = watch, True
    try:
        watch.begin()
        yield
        watch.finish()
    except BaseException as error:
        cause = watch.fail(error)
        if cause is error:
            raise
        raise cause from None
    finally:
        _Open.is_open = False


class _Watch:
    """State that the main thread of a process shares with the thread that listens to other processes."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self._news = threading.Condition()
        self._failure: Failure | None = None
        self._is_ending = False
        """Whether the main thread raises the error, which ends the process in the usual way."""
        self._is_ended = False
        """Whether the listening thread ends the process."""
        self._thread = threading.Thread(target=self._listen, name="failure watch", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Wait until all processes have entered."""
        raise NotImplementedError

    def finish(self) -> None:
        """Wait until all processes are done."""
        raise NotImplementedError

    def fail(self, error: BaseException) -> BaseException:
        """Send the error to other processes, and return the error that ends the run."""
        raise NotImplementedError

    def _listen(self) -> None:
        raise NotImplementedError

    def _wait(self, is_met: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait for a condition or a failure; return whether either is there in time."""
        with self._news:
            return self._news.wait_for(lambda: is_met() or self._failure is not None, seconds)

    def _wait_for_success(self, is_met: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait for a condition; raise the failure of another process."""
        is_in_time = self._wait(is_met, seconds)
        if self._failure is not None:
            raise self._failure.error
        return is_in_time

    def _take_over(self) -> None:
        """Leave the end of the process to the main thread, which calls this, unless it is being ended."""
        with self._news:
            self._is_ending = not self._is_ended
        if self._is_ended:
            self._thread.join()

    def _end(self, failure: Failure, *, is_reported: bool, inform: Callable[[], None] = lambda: None) -> None:
        """End the process in the listening thread, unless the main thread does."""
        with self._news:
            self._is_ended = not self._is_ending
        if self._is_ended:
            inform()
            _print(failure if is_reported else None)
            _end_process(failure.error)

    def _cause(self, error: BaseException, failure: Failure) -> BaseException:
        """Return the error to raise: the own one, if it is the failure, or if both processes raised the same."""
        is_same = type(error) is type(failure.error) and str(error) == str(failure.error)
        return error if failure.rank == self.rank or is_same else failure.error


class _MainWatch(_Watch):
    """Watch of the main process, to which all others are connected."""

    def __init__(self, size: int, entrance: Entrance) -> None:
        self._entrance = entrance
        self._links: dict[int, Connection] = {}
        self._heard: set[int] = set()
        """Processes that are done, have failed, or are lost."""
        super().__init__(0, size)

    def begin(self) -> None:
        if not self._wait_for_success(lambda: len(self._links) == self.size - 1, JOIN_TIMEOUT.total_seconds()):
            missing = sorted({*range(1, self.size)} - {*self._links})
            raise ConfigError(
                f"expected {self.size} processes, found {self.size - len(missing)} after "
                f"{JOIN_TIMEOUT.total_seconds() / 60:.0f} minutes: see what process {name_some(missing)} printed"
            )
        self._send(START)

    def finish(self) -> None:
        self._wait_for_success(lambda: len(self._heard) == self.size - 1)
        self._send(DONE)

    def fail(self, error: BaseException) -> BaseException:
        known = self._failure
        self._take_over()
        with self._news:  # all may raise the same; and a lost process explains a broken collective
            self._news.wait_for(lambda: len(self._heard) == self.size - 1, PATIENCE)
        failure = known or self._failure
        if failure is None or not (known or failure.is_loss):
            failure = _failure_of(self.rank, error)
        self._send(failure)
        return self._cause(error, failure)

    def _send(self, message: Any) -> None:
        with self._news:
            for link in self._links.values():
                send(link, message)

    def _listen(self) -> None:
        while self._failure is None and self._receive(None):
            pass
        if self._failure is None:
            return
        end = time.monotonic() + PATIENCE
        while not self._is_ending and (seconds := end - time.monotonic()) > 0 and self._receive(seconds):
            pass
        failure = self._failure
        self._end(failure, is_reported=True, inform=lambda: self._send(failure))
        while self._links and self._receive(None):
            pass

    def _receive(self, seconds: float | None) -> bool:
        """Receive messages from other processes, waiting for some seconds; return whether any is still connected."""
        is_open = not self._entrance.closed
        for source in ready([*([self._entrance] if is_open else []), *self._links.values()], seconds):
            if source is self._entrance:
                self._admit()
            else:
                rank = next(rank for rank, link in self._links.items() if link is source)
                self._note(rank, receive(source))
        return not self._entrance.closed or bool(self._links)

    def _admit(self) -> None:
        if (process := self._entrance.accept()) is None:
            return
        with self._news:
            self._links[process[0]] = process[1]
            if len(self._links) == self.size - 1:
                self._entrance.close()
            self._news.notify_all()

    def _note(self, rank: int, message: Any) -> None:
        """Note that a process is done (`DONE`), has failed (a failure), or has ended (None)."""
        with self._news:
            if message is None:
                del self._links[rank]
                message = DONE if rank in self._heard else _loss_of(rank, self.size)
            self._heard.add(rank)
            if isinstance(message, Failure) and (
                self._failure is None or (message.is_loss and not self._failure.is_loss)
            ):
                self._failure = message
            self._news.notify_all()


class _OtherWatch(_Watch):
    """Watch of a process that is not the main one, and is connected to it alone."""

    def __init__(self, rank: int, size: int, link: Connection) -> None:
        self._link = link
        self._message = ""
        super().__init__(rank, size)

    def begin(self) -> None:
        self._wait_for_success(lambda: self._message == START)

    def finish(self) -> None:
        send(self._link, DONE)
        self._wait_for_success(lambda: self._message == DONE)

    def fail(self, error: BaseException) -> BaseException:
        self._take_over()
        if self._failure is None:
            send(self._link, _failure_of(self.rank, error))
        has_answer = self._wait(lambda: False, 2 * PATIENCE)
        failure = self._failure or Failure(self.rank, error)
        cause = self._cause(error, failure)
        if not has_answer or self._reports(failure):
            _print(failure)
        self._thread.join(PATIENCE)  # a launcher ends all processes after the first: let the main one report
        _silence(cause)
        return cause

    def _reports(self, failure: Failure) -> bool:
        """Return whether this process reports a failure, which only the main process does as long as it lives."""
        return failure.is_loss and failure.rank == 0 and self.rank == 1

    def _listen(self) -> None:
        while self._failure is None and self._message != DONE:
            self._note(receive(self._link))
        if self._failure is None:
            self._link.close()
            return
        end = time.monotonic() + PATIENCE
        while not self._link.closed and ready([self._link], max(0.0, end - time.monotonic())):
            receive(self._link)
        self._end(self._failure, is_reported=self._reports(self._failure))

    def _note(self, message: Any) -> None:
        """Note that all have begun or are done, that a process has failed, or that the main process has ended."""
        with self._news:
            if isinstance(message, str):
                self._message = message
            else:
                self._failure = message or _loss_of(0, self.size)
            self._news.notify_all()


def _failure_of(rank: int, error: BaseException) -> Failure:
    """Return the failure that other processes receive, with the place of the error as a note."""
    portable = picklable(error)
    if not isinstance(error, HfTlError):
        frames = "".join(traceback.format_tb(error.__traceback__))
        portable.add_note(f"Traceback of process {rank}:\n{frames.rstrip()}")
    return Failure(rank, portable)


def _loss_of(rank: int, size: int) -> Failure:
    error = TrainingError(
        f"expected {size} processes until the end of the run, but process {rank} was killed (by a scheduler, for lack "
        "of memory, or with its machine: see the log of the system): repeat the command, a training with "
        "--resume_from_checkpoint auto"
    )
    return Failure(rank, error, is_loss=True)


def _print(failure: Failure | None) -> None:
    """Print a failure, if any, and what is in the streams; a terminal that is stuck does not keep the process."""

    def write() -> None:
        error = None if failure is None else failure.error
        if failure is not None and isinstance(error, HfTlError):
            logger.error("Process %d failed: %s", failure.rank, error)
        elif error is not None and not isinstance(error, SystemExit):
            sys.excepthook(type(error), error, error.__traceback__)
        for stream in (sys.stdout, sys.stderr):
            TolerantStream(stream).flush()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(PATIENCE)


def _silence(error: BaseException) -> None:
    """Print nothing if the error ends this process: another process has reported it."""
    hook = sys.excepthook

    def report_others(kind: type[BaseException], value: BaseException, trace: Any) -> None:
        if value is not error:
            hook(kind, value, trace)

    sys.excepthook = report_others


def _end_process(error: BaseException) -> NoReturn:
    """End the process with the exit status of an error, without the help of its main thread."""
    for child in multiprocessing.active_children():
        child.kill()
    status = error.code if isinstance(error, SystemExit) else getattr(error, "exit_status", 1)
    os._exit(status if isinstance(status, int) and status else 1)
