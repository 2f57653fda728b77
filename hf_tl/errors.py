"""Exceptions for problems that the user can fix.

```
HfTlError
├── ConfigError      a flag or a YAML key that cannot be used
├── ModelError       an unknown backbone, or weights that do not fit it
│   └── StageError   a stage that the backbone does not have
├── DataError        a dataset, an image or a label that cannot be used
│   └── PixelLimitError  an image with more pixels than are decoded
├── TrainingError    training that must stop (a loss that is not finite)
├── CheckpointError  a checkpoint that is incomplete, damaged or from another run
├── IncompleteError  inputs that had to be left out; the others were handled
├── SaveError        a model that could not be saved, or differs after reloading
└── PublishError     a push that the Hub refused
```

Each message says what was expected, what was found and what to do, with flags on the command line and keywords in
Python (`hf_tl.wording`). The command line prints the message alone, without a
traceback, and exits with status 2 (`IncompleteError`: 3).
"""

import difflib
from collections.abc import Iterable

from hf_tl.wording import worded

LONGEST = 4_000
"""Largest number of characters of a message: it may quote a value of a file, which may be of any length."""
TERMINATED_STATUS = 143
"""Exit status after SIGTERM: 128 + 15, as shells report it."""


class HfTlError(Exception):
    """Base class of all errors that hf_tl raises on purpose.

    >>> import hf_tl
    >>> try:
    ...     hf_tl.Strategy.transfer(epochs=-1)
    ... except hf_tl.HfTlError as error:
    ...     print(type(error).__name__)
    ConfigError
    """

    exit_status = 2
    """Exit status of the command line."""

    def __init__(self, *details: object) -> None:
        """Create an error; flags in its message become keywords where the caller is Python (`hf_tl.wording`)."""
        super().__init__(*(_bounded(worded(detail)) if isinstance(detail, str) else detail for detail in details))


class ConfigError(HfTlError):
    """Error of a flag or a YAML key that cannot be used."""


class ModelError(HfTlError):
    """Error of a backbone that is unknown or unsuitable, or of weights that do not fit it."""


class StageError(ModelError):
    """Error of a stage that the backbone does not have, or of a backbone without recognizable stages."""


class DataError(HfTlError):
    """Error of a dataset, an image or a label that cannot be used."""


class PixelLimitError(DataError):
    """Error of an image with more pixels than are decoded."""


class TrainingError(HfTlError):
    """Error that stops a training."""


class CheckpointError(HfTlError):
    """Error of a checkpoint that is incomplete, damaged or from another run."""


class IncompleteError(HfTlError):
    """Error of a command that has handled all inputs but some, which it names."""

    exit_status = 3


class SaveError(HfTlError):
    """Error of a model that could not be saved, or that differs after reloading."""


class PublishError(HfTlError):
    """Error of a push that the Hub refused, or that cannot be sent."""


LONGEST_NAME = 300
"""Number of characters of a name in a message; the rest is cut off."""


def name_some(names: Iterable[object], limit: int = 5) -> str:
    """Join names, and replace those beyond `limit` by their number.

    >>> name_some(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    listed = [f"{name!s:.{LONGEST_NAME}}" for name in names]
    shown = ", ".join(listed[:limit])
    return shown if len(listed) <= limit else f"{shown} and {len(listed) - limit} more"


def nearest(name: object, known: Iterable[str]) -> str:
    """Return the end of a message that suggests the nearest known name; empty if none is near.

    >>> nearest("tset", ["train", "test"])
    '; did you mean test?'
    """
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _bounded(message: str) -> str:
    """Shorten a message in its middle: the beginning names the problem, the end what to do."""
    return message if len(message) <= LONGEST else f"{message[: 3 * LONGEST // 4]} … {message[-LONGEST // 4 + 3 :]}"


def unreadable(error: Exception) -> str:
    """Describe why a file could not be read, or what it holds could not be used.

    >>> unreadable(FileNotFoundError()), unreadable(IsADirectoryError())
    ('no such file', 'a folder')
    """
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return "no such file"
        case IsADirectoryError():
            return "a folder"
        case UnicodeDecodeError():
            return f"a file that is not {error.encoding.upper()} text (byte {error.start:,})"
        case OSError():
            return f"a file that cannot be read ({error.strerror or error})"
    return f"unusable content ({type(error).__name__}: {' '.join(str(error).split()):.500})"
