"""Choices of the user about how to read a dataset, from flags or arguments of `hf_tl.load_data`."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from hf_tl.data.layout.names import parse_split_folders
from hf_tl.data.layout.plan import Reading
from hf_tl.errors import ConfigError, name_some, nearest


def make_reading(
    *,
    split_folders: str | Mapping[str, Sequence[str]] | None = None,
    exclude_folders: str | Sequence[str] | None = None,
    **choices: Any,
) -> Reading:
    """Make the choices of how to read a dataset from the arguments of `load_data` or flags.

    Raises:
        ConfigError: There is no such choice.
    """
    known = [choice.name for choice in fields(Reading)]
    if unknown := [name for name in choices if name not in known]:
        raise ConfigError(f"there is no argument {name_some(unknown)} about a dataset{nearest(unknown[0], known)}")
    named = parse_split_folders(split_folders) if isinstance(split_folders, str) else split_folders
    folders = exclude_folders.split(",") if isinstance(exclude_folders, str) else exclude_folders or ()
    return Reading(split_folders=named, exclude_folders=tuple(folder.strip() for folder in folders), **choices)
