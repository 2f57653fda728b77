"""Flags: one parser for all commands, the flags of `hf-tl train`, and the YAML file with the same keys.

Flags cannot be abbreviated. An unknown flag is an error of one line. The last value of a repeated flag counts, so a
command can be changed by appending to it. Flags override the YAML file.
"""

import argparse
import dataclasses
import difflib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hf_tl.config import DataConfig, HubConfig, ModelConfig, RunConfig, StrategyConfig, TrainingConfig
from hf_tl.errors import ConfigError, name_some
from hf_tl.ranges import Domain, domains

DESCRIPTION = (
    "Train a head, fine-tune, or train from scratch; save the model with its card. Of a flag that is given twice, the "
    "last value counts."
)
GROUPS = (ModelConfig, DataConfig, StrategyConfig, TrainingConfig, HubConfig)


class Parser(argparse.ArgumentParser):
    """Argument parser of a command that raises a `ConfigError` for every invalid argument."""

    def __init__(self, command: str, description: str | None) -> None:
        super().__init__(f"hf-tl {command}", description=description, allow_abbrev=False, formatter_class=_Formatter)

    def add_setting(self, owner: type, name: str, text: str | None = None, default: Any = ...) -> None:
        """Add the flag of a dataclass field, with its type and range.

        Args:
            owner: Dataclass.
            name: Name of the field.
            text: Help text. Defaults to that of the field.
            default: Default value. Defaults to that of the field.
        """
        default = getattr(owner, name) if default is ... else default
        metadata = next(field for field in dataclasses.fields(owner) if field.name == name).metadata
        self.add_flag(name, text or metadata["help"], domains(owner)[name], default)

    def add_flag(self, name: str, text: str, domain: Domain, default: Any = None) -> None:
        """Add `--name` and its alias with hyphens; a boolean flag needs no value."""
        words = [f"--{name}", *([f"--{name.replace('_', '-')}"] if "_" in name else [])]
        bare: dict[str, Any] = {"nargs": "?", "const": True} if bool in domain.kinds else {}
        metavar = f"{{{','.join(domain.choices)}}}" if domain.choices else None
        self.add_argument(*words, type=typed(domain), default=default, help=text, metavar=metavar, **bare)
        if default is True:
            off = (f"--no_{name}", f"--no-{name.replace('_', '-')}")
            self.add_argument(*off, dest=name, default=default, action="store_false", help=f"not --{name}")

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse the arguments.

        Raises:
            ConfigError: An argument is unknown, missing, or outside its range.
        """
        words = list(self._with_numbers(words))
        for flag in filter(_is_flag, words[: words.index("--") if "--" in words else None]):
            if (name := flag.partition("=")[0]) not in self._option_string_actions:
                raise ConfigError(f"unknown flag {name}; {self._advice(name)}")
        options, rest = self.parse_known_args(words)
        if rest:
            raise ConfigError(f"there is no place for {name_some(map(repr, rest))}; see {self.prog} --help")
        return options

    def error(self, message: str) -> NoReturn:
        """Raise a `ConfigError` where argparse would print its usage and exit."""
        plain = re.sub(r"^argument ([^/:]+)[^:]*:", r"\1", message)  # "argument --top_k/--top-k: takes …"
        raise ConfigError(f"{plain}; see {self.prog} --help")

    def _with_numbers(self, words: Sequence[str]) -> Iterator[str]:
        """Join a flag and a negative number such as `-1e-3` or `-inf`, which argparse takes for another flag."""
        flag: str | None = None
        for word in words:
            if flag is not None and word.startswith("-") and _is_number(word):
                yield f"{flag}={word}"
                flag = None
                continue
            if flag is not None:
                yield flag
            flag = word if word in self._option_string_actions else None
            if flag is None:
                yield word
        if flag is not None:
            yield flag

    def _advice(self, flag: str) -> str:
        names = [action.option_strings[0].lstrip("-") for action in self._actions if action.option_strings]
        wanted = flag.lstrip("-").replace("-", "_")
        close = [name for name in names if name.startswith(wanted)] or difflib.get_close_matches(wanted, names, 1)
        return f"did you mean --{close[0]}?" if close else f"see {self.prog} --help"


def _is_flag(word: str) -> bool:
    """Return whether a word is a flag, by argparse's rules: words with a space and numbers are values."""
    return word.startswith("-") and len(word) > 1 and " " not in word.partition("=")[0] and not _is_number(word)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def typed(domain: Domain) -> Callable[[str], Any]:
    """Return the parser of a domain as argparse's `type`."""

    def read(text: str) -> Any:
        try:
            return domain.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def parse_run_config(arguments: Sequence[str]) -> RunConfig:
    """Turn flags, and the YAML file that `--config` names, into a `RunConfig`; flags override the file.

    Raises:
        ConfigError: A flag or a key is unknown or outside its range, or the YAML file cannot be read.
    """
    parser = Parser("train", DESCRIPTION)
    for owner in GROUPS:
        for field in dataclasses.fields(owner):
            parser.add_setting(owner, field.name, default=field.default)
    parser.add_argument("--config", help="YAML file of the same names; flags override it")
    options = parser.parse(arguments)
    if options.config is not None:
        parser.set_defaults(**_read_yaml(Path(options.config)))
        options = parser.parse(arguments)
    values = vars(options)
    groups: list[Any] = [owner(**{one.name: values[one.name] for one in dataclasses.fields(owner)}) for owner in GROUPS]
    return RunConfig(*groups)


def _read_yaml(file: Path) -> dict[str, Any]:
    """Read the values of a YAML file with the rules of the flags.

    Raises:
        ConfigError: The file cannot be read, or a key or a value does not match a flag.
    """
    import yaml

    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader)
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--config {file} must map names to values, found {type(content).__name__}")
    known = {name: domain for owner in GROUPS for name, domain in domains(owner).items()}
    if unknown := sorted(str(key) for key in content if key not in known):
        raise ConfigError(f"--config {file} has keys that are no flags: {name_some(unknown)}; see hf-tl train --help")
    if node is not None and len(node.value) > len(content):
        keys = [key.value for key, _ in node.value]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ConfigError(f"--config {file} has keys twice: {name_some(twice)}; leave one of them out")
    values = {}
    for name, value in content.items():
        if value is None:
            continue
        try:
            values[name] = _yaml_value(name, value, known[name])
        except ValueError as error:
            raise ConfigError(f"--config {file}: {name} {error}") from error
    return values


def _yaml_value(name: str, value: Any, domain: Domain) -> Any:
    """Parse text as the command line does, and check values of other types."""
    if name == "phases" and isinstance(value, list):
        return json.dumps(value)
    if isinstance(value, bool) and "on" in domain.choices:
        value = "on" if value else "off"  # YAML reads on and off as booleans
    return domain.parse(value) if isinstance(value, str) else domain.check(value)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help formatter that omits absent defaults."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_shown = action.default is not None and action.default is not argparse.SUPPRESS
        return super()._get_help_string(action) if is_shown else action.help
