"""Strategies as plain values: records of `config.json` and `run.json`, and YAML files of users."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_tl.errors import ConfigError, name_some, unreadable
from hf_tl.phase import Phase
from hf_tl.storage.documents import parse_yaml
from hf_tl.storage.text import read_text

FIELDS = ("expected_rung", "from_scratch", "name", "phases", "refit")
"""Fields of a strategy in its record."""


def plain_fields(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return fields for a record: texts without what they carry, such as the function of an augmentation."""
    return {name: str(value) if isinstance(value, str) else value for name, value in fields}


def strategy_fields(record: Mapping[str, Any], *, may_name_files: bool = False) -> dict[str, Any]:
    """Read the fields of a strategy from its record.

    Raises:
        ConfigError: The record is not one of a strategy; the message names unknown keys.
    """
    if not isinstance(record, Mapping):
        raise ConfigError(f"a strategy must map names to values, found {record!r:.80}")
    if unknown := sorted(str(key) for key in record if key not in FIELDS):
        raise ConfigError(f"a strategy has no field {name_some(unknown)}; choose from {', '.join(FIELDS)}")
    phases = record.get("phases") or ()
    if not isinstance(phases, Sequence) or isinstance(phases, str):
        raise ConfigError(f"phases of a strategy must be a list, found {phases!r:.80}")
    switches = {name: record.get(name, False) for name in ("from_scratch", "refit")}
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{name} of a strategy must be true or false, found {value!r:.80}")
    expected_rung = record.get("expected_rung")
    if expected_rung is not None and type(expected_rung) is not int:
        raise ConfigError(f"expected_rung of a strategy must be an integer, found {expected_rung!r:.80}")
    name = str(record.get("name", "custom"))
    return {
        "name": name,
        "phases": tuple(_read_phases(phases, may_name_files)),
        "expected_rung": expected_rung,
        **switches,
    }


def _read_phases(phases: Sequence[Any], may_name_files: bool) -> list[Phase]:
    read = []
    for number, phase in enumerate(phases, 1):
        try:
            read.append(Phase.from_record(phase, may_name_files=may_name_files))
        except ConfigError as error:
            raise ConfigError(f"phase {number} of {len(phases)}: {error}") from error
    return read


def read_yaml(source: str | Path) -> tuple[str, Mapping[str, Any]]:
    """Read the record of a strategy from a YAML file, or from the text of a list of phases.

    Returns:
        Title of the source for error messages, and the record.

    Raises:
        ConfigError: The source cannot be read, or holds neither a list nor a mapping.
    """
    is_text = str(source).lstrip().startswith("[")
    title = "--phases" if is_text else f"--phases {source}"
    advice = "correct the path, or write the list itself: --phases '[{trainable_stages: 1, epochs: 3}]'"
    text = str(source) if is_text else read_text(source, title, "a YAML file of phases", advice)
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{title}: expected a list of phases in YAML, found {unreadable(error)}") from error
    record = {"phases": content} if isinstance(content, list) else content
    if not isinstance(record, Mapping):
        raise ConfigError(f"{title} must be a list of phases, or a mapping with phases, found {type(content).__name__}")
    return title, record
