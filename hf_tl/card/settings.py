"""Command and settings of a run in publishable form: without paths and accounts."""

import dataclasses
import itertools
import os
import shlex
from pathlib import Path, PureWindowsPath
from typing import Any

from hf_tl.config import RunConfig
from hf_tl.ranges import flag_words

HUB_IDS = ("model", "dataset", "text_model", "teacher")
"""Flags that take a Hub id or a path."""
PATHS = (*HUB_IDS, "weights", "phases", "recommendation", "exclude_list", "inspection")
PRIVATE = (
    *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "feature_cache_dir"),
    *("push_to_hub", "hub_private"),
)
"""Flags that concern a machine or an account, and not the model."""


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Return all settings of a run by flag name, with file names in place of paths."""
    return {
        field.name: _publishable(field, getattr(group, field.name))
        for group in (config.model, config.data, config.strategy, config.training, config.hub)
        for field in dataclasses.fields(group)
        if field.name not in PRIVATE
    }


def describe_command(config: RunConfig) -> str:
    """Return the command of a run, with the flags that differ from their defaults."""
    defaults = settings_of(RunConfig())
    changed = {name: value for name, value in settings_of(config).items() if value != defaults[name]}
    words = itertools.chain.from_iterable(flag_words(name, value) for name, value in changed.items())
    return shlex.join(["hf-tl", "train", *words])


def _publishable(field: "dataclasses.Field[Any]", value: Any) -> Any:
    """Reduce a path to the name of its file or folder; `--dataset` takes several, `--phases` also a list itself."""
    name = field.name
    if value is None and field.default is not None:
        return "none"  # in a file for --config, null means the default
    if name not in PATHS or not isinstance(value, str) or value.lstrip().startswith("["):
        return value
    parts = value.split(",") if name in (*HUB_IDS, "weights") and not os.path.exists(value) else [value]
    if name in HUB_IDS:
        return ",".join(published_name(part.strip()) for part in parts)
    return ",".join(_last_name(part.strip()) for part in parts)


def published_name(text: str) -> str:
    """Return a Hub id or an architecture unchanged, and a path reduced to the name of its file or folder."""
    return _last_name(text) if _is_local(text) else text


def _is_local(text: str) -> bool:
    """Return whether `text` is a path or a pattern and not a Hub id; the path need not exist."""
    return os.path.exists(text) or text[:1] in ("/", ".", "~") or text.count("/") > 1 or bool(set(text) & set("\\*?["))


def _last_name(path: str) -> str:
    return PureWindowsPath(Path(path).resolve().name).name
