"""The flags of `hf-tl train`, made from the fields of `hf_tl.config`, and the YAML file of the same names."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from hf_tl.config import DataConfig, HubConfig, ModelConfig, RunConfig, StrategyConfig, TrainingConfig
from hf_tl.errors import ConfigError, name_some

DESCRIPTION = "Train a head, fine-tune, or train from scratch; save the model with its card."


def parse_run_config(arguments: Sequence[str]) -> RunConfig:
    """Turn flags, and the YAML file that `--config` names, into a `RunConfig`; flags win.

    Raises:
        ConfigError: the YAML file cannot be read, or has keys that are no flags.
    """
    from transformers import HfArgumentParser

    groups = (ModelConfig, DataConfig, StrategyConfig, TrainingConfig, HubConfig)
    parser = HfArgumentParser(groups, prog="hf-tl train", description=DESCRIPTION, formatter_class=_Formatter)
    parser.add_argument("--config", help="YAML file of the same names; flags override it")
    known = {action.dest for action in parser._actions}
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    file = finder.parse_known_args(list(arguments))[0].config
    from_file = _yaml_arguments(Path(file), known) if file is not None else []
    *values, _ = parser.parse_args_into_dataclasses([*from_file, *arguments], look_for_args_file=False)
    return RunConfig(*values)


def _yaml_arguments(file: Path, known: set[str]) -> list[str]:
    """Write a YAML mapping as flags, so that both are checked in the same way."""
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--config {file} must map names to values, found {type(content).__name__}")
    if unknown := sorted(str(key) for key in content if key not in known):
        raise ConfigError(f"--config {file} has keys that are no flags: {name_some(unknown)}; see hf-tl train --help")
    words = {key: json.dumps(value) if isinstance(value, list | dict) else str(value) for key, value in content.items()}
    return [word for key, value in content.items() if value is not None for word in (f"--{key}", words[key])]


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show a default only where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)
