"""Messages and progress for the user; nothing that happens to the terminal may end a training.

Messages go through Python's logging under the name `hf_tl`, whose handler prints them: information to the standard
output stream, warnings and errors to the standard error stream. To change that from Python:

```python
logging.getLogger("hf_tl").setLevel(logging.WARNING)  # no messages, and no progress bars
logging.getLogger("hf_tl").propagate = True  # also to the handlers of the application
```

A progress bar vanishes when it is done; where the standard error stream is no terminal, it is a line every 10%. No
colors are used. A stream may not be able to encode a character (`PYTHONIOENCODING=latin-1`, Windows), its reader may be
gone (`hf-tl train | head`), its disk may be full, or there may be none.
"""

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from hf_tl.wording import worded

if TYPE_CHECKING:
    from accelerate import Accelerator
    from tqdm import tqdm

_PLAIN = str.maketrans({"…": "...", "→": "->", "–": "-", "—": "-", "−": "-", "×": "x", "≥": ">=", "≤": "<="})

logger = logging.getLogger("hf_tl")


class _Printer(logging.Handler):
    """Print messages, above progress bars that are open."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm.auto import tqdm

        with tqdm.external_write_mode():
            out = TolerantStream(sys.stderr if record.levelno >= logging.WARNING else sys.stdout)
            out.write(f"{self.format(record)}\n")
            out.flush()


def _configure_logging() -> None:
    """Let the library's logger print, as those of transformers and datasets do; a level that is set stays."""
    if not any(isinstance(handler, _Printer) for handler in logger.handlers):
        logger.addHandler(_Printer())
        logger.propagate = False
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


_configure_logging()


@contextlib.contextmanager
def log_level(name: str) -> Iterator[None]:
    """Show messages from a level on (`debug`, `info`, `warning`, `error`) while the context is open."""
    before = logger.level
    logger.setLevel(name.upper())
    try:
        yield
    finally:
        logger.setLevel(before)


def say(accelerator: "Accelerator | None", text: str) -> None:
    """Log a message at the level `INFO`.

    Args:
        accelerator: Only its main process logs. Without an accelerator, the first process of a launch does.
        text: The message; its flags become keywords where the caller is Python (`hf_tl.wording`).
    """
    if os.environ.get("RANK", "0") == "0" if accelerator is None else accelerator.is_main_process:
        logger.info("%s", worded(text))


def progress_bar(**settings: Any) -> "tqdm":
    """Make a progress bar on the standard error stream, with the settings of `tqdm`.

    On a terminal and in a notebook, the bar vanishes when it is done. In a file, a line is written every 10%.
    """
    from tqdm.auto import tqdm
    from tqdm.autonotebook import tqdm as chosen
    from tqdm.std import tqdm as plain

    err = TolerantStream(sys.stderr)
    disable = settings.pop("disable", False) or not logger.isEnabledFor(logging.INFO)
    kind = tqdm if chosen is not plain or err.isatty() else _progress_lines()
    return kind(**{"leave": False, "file": err, "disable": disable, **settings})


@functools.cache
def _progress_lines() -> type["tqdm"]:
    from tqdm.std import tqdm

    class ProgressLines(tqdm):
        """A progress bar for files: a line every 10%, and no carriage returns."""

        tenths = 0
        disable: bool

        def __init__(self, **settings: Any) -> None:
            self.tenths = 10 * settings.get("initial", 0) // (settings.get("total") or 1)
            super().__init__(**{**settings, "mininterval": 0, "miniters": 1})

        def display(self, *_: Any, **__: Any) -> bool:
            """Write a line where another tenth is done."""
            tenths = int(10 * self.n // (self.total or 1))
            if tenths > self.tenths:
                self.tenths = tenths
                unit = "" if self.unit == "it" else f" {self.unit}s"
                elapsed = self.format_interval(self.format_dict["elapsed"])
                notes = "".join(f", {note}" for note in (elapsed, self.postfix) if note)
                title = (self.desc or "Progress").removesuffix(": ")
                self.fp.write(f"{title}: {self.n / self.total:.0%} ({self.n:,} of {self.total:,}{unit}{notes})\n")
            return True

        def clear(self, *_: Any, **__: Any) -> None:
            """Leave the lines where they are."""

        def close(self) -> None:
            if not self.disable:
                self.disable = True
                self._decr_instances(self)

    return ProgressLines


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide the bars and warnings of transformers while the context is open, but not the bars of downloads.

    For loading and saving, whose report the caller checks; errors are raised as ever.
    """
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with _without_bars(transformers_logging):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _without_bars(transformers_logging: Any) -> Iterator[None]:
    """Hide the bars of transformers, but not those of huggingface_hub."""
    if hasattr(transformers_logging, "set_tqdm_hook"):
        hook = transformers_logging.set_tqdm_hook(lambda *call: transformers_logging.EmptyTqdm(*call[1]))
        try:
            yield
        finally:
            transformers_logging.set_tqdm_hook(hook)
        return
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars

    # transformers without hooks turns off both, so huggingface_hub's are turned on again
    were_shown, are_downloads_shown = transformers_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    if are_downloads_shown:
        enable_progress_bars()
    try:
        yield
    finally:
        if were_shown:
            transformers_logging.enable_progress_bar()


class TolerantStream:
    """A text stream whose `write` and `flush` never raise."""

    def __init__(self, stream: "TextIO | TolerantStream | None") -> None:
        """Wrap a stream; None, as in programs without a terminal, discards all text."""
        stream = open(os.devnull, "w", encoding="utf-8") if stream is None else stream  # noqa: SIM115
        self._stream: TextIO = stream._stream if isinstance(stream, TolerantStream) else stream

    def write(self, text: str) -> int:
        """Write text; characters that the stream cannot encode are replaced."""
        with self._forgiving():
            self._stream.write(encodable(text, self._stream.encoding))
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        with self._forgiving():
            self._stream.flush()

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        with self._forgiving():
            return self._stream.isatty()
        return False

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            # the reader is gone: discard Python's buffer and all later output
            # (https://docs.python.org/3/library/signal.html#note-on-sigpipe)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
        except (OSError, ValueError):  # the disk is full, or the stream is closed
            pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __eq__(self, other: object) -> bool:
        return self._stream == getattr(other, "_stream", other)

    def __hash__(self) -> int:
        return hash(self._stream)


@contextlib.contextmanager
def tolerant_streams() -> Iterator[None]:
    """Make all output of this process tolerant, including that of other libraries, while the context is open."""
    out, err = TolerantStream(sys.stdout), TolerantStream(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):  # type: ignore[type-var]
        try:
            yield
        finally:
            out.flush()
            err.flush()


def encodable(text: str, encoding: str | None) -> str:
    r"""Replace characters that an encoding lacks: typographic ones by plain ones, others by their code points.

    >>> encodable("Saving … 猫", "ascii")
    'Saving ... \\u732b'
    """
    encoding = encoding or "utf-8"
    try:
        text.encode(encoding)
        return text
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)
