"""Flags of `hf-tl train`, and the YAML file with the same keys; flags override the file."""

import argparse
import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_tl.config import DataConfig, HubConfig, ModelConfig, RunConfig, StrategyConfig, TrainingConfig
from hf_tl.errors import ConfigError, name_some, unreadable
from hf_tl.parser import Parser
from hf_tl.ranges import Domain, domains
from hf_tl.storage.documents import parse_yaml
from hf_tl.storage.text import read_text
from hf_tl.wording import flags_meant

GROUPS = {ModelConfig: "model", DataConfig: "data", StrategyConfig: "strategy", TrainingConfig: "run", HubConfig: "hub"}
COMMON = {
    "model and data": ("model", "dataset", "image_size"),
    "strategy": (
        "strategy", "trainable_stages", "num_train_epochs", "learning_rate", "per_device_train_batch_size", "seed",
    ),
    "run": ("output_dir", "resume_from_checkpoint", "push_to_hub", "config"),
}  # fmt: skip
"""Flags that `hf-tl train --help` shows; `--help-all` shows all."""
OUTPUT = ("help", "help_all", "quiet", "log_level")
ALIASES = {
    "num_train_epochs": "--epochs",
    "learning_rate": "--lr",
    "per_device_train_batch_size": "--batch_size",
    "output_dir": "-o",
}
OF_ALIAS = {alias.strip("-"): name for name, alias in ALIASES.items() if alias.startswith("--")}
"""Fields by their short names, which a YAML file may hold too."""
EXAMPLES = (
    "hf-tl train                                       # the embedded demo",
    "hf-tl train --dataset ./flowers -o out            # a folder of images for each class",
    "hf-tl train --model timm/resnet50.a1_in1k --dataset ./flowers --strategy finetune --epochs 20",
)


class TrainParser(Parser):
    """The flags of `hf-tl train`, with the values of the YAML file that `--config` names as their defaults."""

    def __init__(self) -> None:
        super().__init__(
            "train", "Train a head, fine-tune, or train from scratch; save the model with its card.", EXAMPLES
        )
        for owner, title in GROUPS.items():
            group = self.add_argument_group(title)
            for field in dataclasses.fields(owner):
                self.add_setting(owner, field.name, alias=ALIASES.get(field.name), group=group)
            if owner is TrainingConfig:
                text = "YAML file with values for flags, by their names; flags override it"
                group.add_argument("--config", metavar="FILE", help=text)
        names = "--help-all", "--help_all"
        self.output.add_argument(*names, action=_HelpAll, nargs=0, help="show the help of all flags", dest="help_all")

    @flags_meant()
    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Read the arguments, then the YAML file, then the arguments again, which override it."""
        options = super().parse(words)
        if options.config is not None:
            self.set_defaults(**_read_yaml(Path(options.config)))
            options = super().parse(words)
        return options

    def format_help(self) -> str:
        """Format the help of the flags that people use; `format_help_all` gives the rest."""
        formatter = self._get_formatter()
        formatter.add_usage("hf-tl train [flags]", [], [])
        formatter.add_text(self.description)
        by_name = {action.dest: action for action in self.flags()}
        sections = {**COMMON, "output": OUTPUT}
        for title, names in sections.items():
            formatter.start_section(title)
            formatter.add_arguments([by_name[name] for name in names])
            formatter.end_section()
        formatter.add_text(
            f"{len(by_name) - sum(map(len, sections.values()))} more flags (data splits, augmentation, regularization, "
            "feature cache, checkpoints,\nprecision, the card): hf-tl train --help-all"
        )
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def format_help_all(self) -> str:
        """Format the help of all flags, in a group for each dataclass."""
        return super().format_help()


class _HelpAll(argparse.Action):
    def __call__(self, parser: Any, *_: Any) -> None:
        print(parser.format_help_all(), end="")  # noqa: T201
        parser.exit()


def parse_run_config(arguments: Sequence[str]) -> RunConfig:
    """Turn flags, and the YAML file that `--config` names, into a `RunConfig`; flags override the file.

    Raises:
        ConfigError: A flag or a key is unknown or outside its range, or the YAML file cannot be read.
    """
    return build_run_config(vars(TrainParser().parse(arguments)))


@flags_meant()
def build_run_config(values: Mapping[str, Any]) -> RunConfig:
    """Build a `RunConfig` from values by the names of its fields."""
    return RunConfig(*(_build(owner, values) for owner in GROUPS))


def _build(owner: type, values: Mapping[str, Any]) -> Any:
    return owner(**{field.name: values[field.name] for field in dataclasses.fields(owner)})


def _read_yaml(file: Path) -> dict[str, Any]:
    """Read the values of a YAML file with the rules of the flags.

    Raises:
        ConfigError: The file cannot be read, or a key or a value does not match a flag.
    """
    advice = "correct the path; hf-tl train --help-all lists the settings"
    text = read_text(file, f"--config {file}", "a YAML file of settings", advice)
    try:
        content = parse_yaml(text) or {}
    except ValueError as error:
        raise ConfigError(f"--config {file}: expected settings in YAML, found {unreadable(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--config {file} must map names to values, found {type(content).__name__}")
    if both := [name for key, name in OF_ALIAS.items() if key in content and name in content and key != name]:
        raise ConfigError(f"--config {file} has duplicate keys: {name_some(both)}; remove all but one of each")
    content = {OF_ALIAS.get(key, key): value for key, value in content.items()}
    settings = {name: domain for owner in GROUPS for name, domain in domains(owner).items()}
    if unknown := sorted(str(key) for key in content if key not in settings):
        close = [match for key in unknown for match in difflib.get_close_matches(key, settings, n=1)]
        advice = f"did you mean {name_some(close)}?" if close else "see hf-tl train --help-all"
        raise ConfigError(f"--config {file} has unknown keys: {name_some(unknown)}; {advice}")
    values = {}
    for name, value in content.items():
        if value is None:
            continue
        try:
            values[name] = _yaml_value(name, value, settings[name])
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
