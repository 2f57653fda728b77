"""How a run was started, as it may be published: its command and its settings, without paths or accounts."""

import dataclasses
import os
import shlex
from pathlib import Path, PureWindowsPath
from typing import Any

from hf_tl.config import RunConfig

HUB_IDS = ("model", "dataset")
"""Flags that take a Hub id or a path."""
PATHS = (*HUB_IDS, "weights", "phases", "recommendation")
PRIVATE = (
    *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "feature_cache_dir"),
    *("push_to_hub", "hub_private"),
)
"""Flags that tell of a machine or an account and not of the model."""


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Give all settings of a run by the names of their flags, with the names of local files but not their paths."""
    return {
        field.name: _publishable(field.name, getattr(group, field.name))
        for group in (config.model, config.data, config.strategy, config.training, config.hub)
        for field in dataclasses.fields(group)
        if field.name not in PRIVATE
    }


def describe_command(config: RunConfig) -> str:
    """Write the command of a run: the flags that differ from their defaults."""
    defaults = settings_of(RunConfig())
    given = {name: value for name, value in settings_of(config).items() if value != defaults[name]}
    words = {name: ",".join(value) if isinstance(value, tuple) else str(value) for name, value in given.items()}
    return " ".join(["hf-tl train", *(f"--{name} {shlex.quote(word)}" for name, word in words.items())])


def _publishable(name: str, value: Any) -> Any:
    """Reduce a path to the name of its file or folder; `--dataset` takes several, `--phases` also a list itself."""
    if name not in PATHS or not isinstance(value, str) or value.lstrip().startswith("["):
        return value
    parts = value.split(",") if name in (*HUB_IDS, "weights") and not os.path.exists(value) else [value]
    if name in HUB_IDS:
        return ",".join(published_name(part.strip()) for part in parts)
    return ",".join(_last_name(part.strip()) for part in parts)


def published_name(text: str) -> str:
    """Give a Hub id or an architecture as it is, and of a path the name of its file or folder."""
    return _last_name(text) if _is_local(text) else text


def _is_local(text: str) -> bool:
    """Tell a path from a Hub id, also one that is not there any more, or a pattern."""
    return os.path.exists(text) or text[:1] in ("/", ".", "~") or text.count("/") > 1 or bool(set(text) & set("\\*?["))


def _last_name(path: str) -> str:
    return PureWindowsPath(Path(path).resolve().name).name
