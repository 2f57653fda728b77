"""Console output that never ends a training, whatever happens to the terminal.

A stream may not be able to encode a character (`PYTHONIOENCODING=latin-1`, Windows), its reader may be gone
(`hf-tl train | head`), its disk may be full, or there may be no stream.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from accelerate import Accelerator
    from tqdm import tqdm

_PLAIN = str.maketrans({"…": "...", "→": "->", "–": "-", "—": "-", "−": "-", "×": "x", "≥": ">=", "≤": "<="})


def say(accelerator: "Accelerator | None", text: str) -> None:
    """Print a line, above open progress bars.

    Args:
        accelerator: Only its main process prints; without one, this process prints.
        text: Text to print.
    """
    from tqdm.auto import tqdm

    if accelerator is None or accelerator.is_main_process:
        with tqdm.external_write_mode():
            out = TolerantStream(sys.stdout)
            out.write(f"{text}\n")
            out.flush()


def progress_bar(**settings: Any) -> "tqdm":
    """Return a progress bar on the standard error stream, with the settings of `tqdm`."""
    from tqdm.auto import tqdm

    return tqdm(file=TolerantStream(sys.stderr), **settings)


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
