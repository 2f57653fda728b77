"""Text files: read with errors that say what was expected and what was found, and replaced as a whole."""

import os
from pathlib import Path

from hf_tl.errors import ConfigError, HfTlError, unreadable
from hf_tl.storage.folders import replaced_file


def read_text(
    file: str | os.PathLike[str],
    title: str,
    expected: str,
    advice: str,
    *,
    kind: type[HfTlError] = ConfigError,
    encoding: str = "utf-8",
    errors: str = "strict",
) -> str:
    """Read a text file.

    Args:
        file: Path of the file.
        title: Name of the file in errors, for example `--phases phases.yaml`.
        expected: Kind of file.
        advice: What to do without one.
        kind: Class of the error.
        encoding: Encoding, as in `open`.
        errors: Treatment of bytes of another encoding, as in `open`.

    Raises:
        HfTlError: There is no such file, or it cannot be read.
    """
    try:
        return Path(file).read_text(encoding=encoding, errors=errors)
    except (OSError, UnicodeDecodeError) as error:
        raise kind(f"{title}: expected {expected}, found {unreadable(error)}; {advice}") from error


def replace_text(file: Path, text: str) -> None:
    """Write a text file, or replace it; a process that is killed leaves the old file or the new one.

    Raises:
        OSError: The disk is full or read-only; the old file is unchanged.
    """
    with replaced_file(file) as partial:
        partial.write_text(text, encoding="utf-8")
