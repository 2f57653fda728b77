"""The exceptions that hf_tl raises for what a user can mend.

```
HfTlError
├── ConfigError      a flag or a YAML key that cannot be used
├── ModelError       a backbone that is unknown, or weights that do not fit
│   └── StageError   a stage that the backbone does not have
├── DataError        a dataset, an image or a label that cannot be used
├── TrainingError    training that must not go on (a loss that is not a number)
├── CheckpointError  a checkpoint that is incomplete, damaged or from another run
├── SaveError        a model that could not be saved, or did not reload as it was
└── PublishError     a push that the Hub refused
```

Each message says what was expected, what was found and what to do. The command line prints it alone, without a
traceback, and exits with status 2.
"""

from collections.abc import Iterable


class HfTlError(Exception):
    """The base of every error that hf_tl raises on purpose."""


class ConfigError(HfTlError):
    """A flag or a YAML key that cannot be used."""


class ModelError(HfTlError):
    """A backbone that is unknown or unsuitable, or weights that do not fit it."""


class StageError(ModelError):
    """A stage that the backbone does not have, or a backbone whose stages cannot be told."""


class DataError(HfTlError):
    """A dataset, an image or a label that cannot be used."""


class TrainingError(HfTlError):
    """Training that must not go on."""


class CheckpointError(HfTlError):
    """A checkpoint that is incomplete, damaged or from another run."""


class SaveError(HfTlError):
    """A model that could not be saved, or that did not reload as it was."""


class PublishError(HfTlError):
    """A push that the Hub refused, or that cannot be sent."""


def name_some(names: Iterable[object], limit: int = 5) -> str:
    """Name the first few of many offenders.

    >>> name_some(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    listed = [str(name) for name in names]
    shown = ", ".join(listed[:limit])
    return shown if len(listed) <= limit else f"{shown} and {len(listed) - limit} more"
