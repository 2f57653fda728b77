"""SIGTERM, which cluster schedulers send before they stop a job."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator


class Sigterm:
    """Handler that records SIGTERM instead of exiting, so that the current step can be finished and saved."""

    def __init__(self, accelerator: "Accelerator") -> None:
        self.accelerator = accelerator
        self._is_received = False

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Record the signal while the context is open."""

        def note(number: int, frame: FrameType | None) -> None:
            self._is_received = True

        try:
            previous = signal.signal(signal.SIGTERM, note)
        except ValueError:  # not in the main thread: the calling program handles its signals
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def is_received(self) -> bool:
        """Return whether any process received the signal. All processes must call this."""
        if self.accelerator.num_processes == 1:
            return self._is_received
        flag = torch.tensor([float(self._is_received)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item() > 0)
