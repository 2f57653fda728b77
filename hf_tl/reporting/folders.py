"""Folders that results are written to."""

import os
from pathlib import Path

from hf_tl.errors import ConfigError


def make_folder(output_dir: str | os.PathLike[str]) -> Path:
    """Make the folder of `--output_dir`, if it is not there.

    Raises:
        ConfigError: it cannot be made.
    """
    folder = Path(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output_dir {folder} cannot be written to: {error.strerror or error}") from error
    return folder
