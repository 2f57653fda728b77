"""One argument parser for all commands: argparse, with flags from the fields of dataclasses.

Flags cannot be abbreviated. An unknown flag is an error of one line. The last value of a repeated flag counts, so a
command can be changed by appending to it.
"""

import argparse
import dataclasses
import difflib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

from hf_tl.errors import ConfigError, name_some
from hf_tl.ranges import Domain, domains
from hf_tl.wording import flags_meant

COUNT = Domain((int,), at_least=1)
PORT = Domain((int,), at_least=1, at_most=65_535)
SPLIT = Domain((str,), ("train", "validation", "test"), synonyms=dict.fromkeys(("val", "valid", "dev"), "validation"))
FORMAT = Domain((str,), ("onnx", "openvino", "torchscript", "torch_export", "executorch"))
MODEL = "folder of a trained model, or Hub id"
ANY_MODEL = f"{MODEL}, or folder or file of an exported model"
DATASET = "folder, table, parquet, tar or zip files, Hub id, or digits"
LOG_LEVEL = Domain((str,), ("debug", "info", "warning", "error"))
WIDTH = 100


class Parser(argparse.ArgumentParser):
    """Argument parser of a command that raises a `ConfigError` for every invalid argument."""

    def __init__(self, command: str, description: str | None, examples: Iterable[str] = ()) -> None:
        lines = [f"  {example}" for example in examples]
        super().__init__(
            f"hf-tl {command}",
            description=description,
            epilog="\n".join(["examples:", *lines]) if lines else None,
            allow_abbrev=False,
            add_help=False,
            formatter_class=_Formatter,
        )
        self.choices: dict[str, tuple[str, ...]] = {}
        """Values of the flags with choices."""
        self._positionals.title, self._optionals.title = "arguments", "flags"
        self.output = self.add_argument_group("output")
        self.output.add_argument("-h", "--help", action="help", help="show this help")
        self.output.add_argument("--quiet", action="store_true", help="show results, warnings and errors only")
        text = f"log level: {', '.join(LOG_LEVEL.choices)}"
        self.add_flag("log_level", text, LOG_LEVEL, "info", metavar="LEVEL", group=self.output)

    def add_setting(self, owner: type, name: str, text: str | None = None, default: Any = ..., **options: Any) -> None:
        """Add the flag of a dataclass field, with its type and range.

        Args:
            owner: Dataclass.
            name: Name of the field.
            text: Help text. Defaults to that of the field.
            default: Default value. Defaults to that of the field.
            options: `alias` and `group` of `add_flag`.
        """
        field = next(field for field in dataclasses.fields(owner) if field.name == name)
        text, default = text or field.metadata["help"], field.default if default is ... else default
        self.add_flag(name, text, domains(owner)[name], default, metavar=field.metadata["metavar"], **options)

    def add_flag(
        self,
        name: str,
        text: str,
        domain: Domain,
        default: Any = None,
        *,
        metavar: str | None = None,
        alias: str | None = None,
        group: Any = None,
    ) -> None:
        """Add `--name`, also as `--na-me`; a bool takes an optional value, and `--no_name` where it can be true."""
        words, add = spellings(f"--{name}"), (group or self).add_argument
        words += [] if alias is None else spellings(alias)
        if domain.choices:
            self.choices[words[0]] = domain.choices
        if bool not in domain.kinds:
            metavar = metavar or _metavar(domain)
            add(*words, type=typed(domain), default=default, help=text, metavar=metavar)
            return
        # of a bool that is on by default, the help shows the flag that changes something
        on, off = (argparse.SUPPRESS, text) if default is True else (text, argparse.SUPPRESS)
        positive = add(*words, type=typed(domain), default=default, help=on, nargs="?", const=True)
        if default is not False:
            positive.metavar = f"--no_{name}"  # which `_Formatter` shows beside it
            add(*spellings(f"--no_{name}"), dest=name, default=default, action="store_false", help=off)

    @flags_meant()
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
            raise ConfigError(
                f"unexpected argument {name_some(map(repr, rest))}; {self._place(rest[0], words, options)}"
            )
        return options

    def _place(self, word: str, words: Sequence[str], options: argparse.Namespace) -> str:
        """Say where an argument may belong that is no value of a flag and no positional argument."""
        if "dataset" in options and options.dataset is None and not _is_number(word):
            return f"did you mean --dataset {word}?"
        flag, _, *_ = (*words[max(0, words.index(word) - 2) :], "")
        return f"{flag} takes one value" if flag in self._option_string_actions else f"write {self._call()}"

    def add_output_dir(self, contents: str) -> None:
        """Add `--output_dir`, also as `-o`, for a command that writes files of these names."""
        self.add_argument(*spellings("--output_dir"), "-o", metavar="DIR", help=f"folder for {contents}")

    def error(self, message: str) -> NoReturn:
        """Raise a `ConfigError` where argparse would print its usage and exit."""
        plain = re.sub(r"^argument ([^/:]+)[^:]*:", r"\1", message)  # "argument --top_k/--top-k: takes …"
        if missing := re.match(r"the following arguments are required: (.+)", plain):
            raise ConfigError(f"{missing[1]} missing; write {self._call()}")
        plain = plain.replace("expected one argument", "needs a value, found none")
        if choice := re.match(r"(\S+) invalid choice: '(.*)' \(choose from (.+)\)$", plain):
            name, value, allowed = choice.groups()
            domain = Domain((str,), tuple(allowed.replace("'", "").split(", ")))
            plain = f"{name} takes {domain}, found {value}{domain.suggestion(value)}"
        raise ConfigError(plain if plain.endswith("?") else f"{plain}; see {self.prog} --help")

    def format_help(self) -> str:
        """Format the help, with all positional arguments in the usage line and `[flags]` for the others."""
        self._action_groups.sort(key=lambda group: group is self.output)  # to the end
        self.usage = self._call().replace(self.prog, "%(prog)s")
        return super().format_help()

    def _call(self) -> str:
        """Return the shortest call: the command with its positional arguments and required flags."""
        names = [str(action.metavar or action.dest.upper()) for action in self.positionals()]
        required = [f"{action.option_strings[0]} {action.metavar}" for action in self.flags() if action.required]
        return " ".join([self.prog, *names, *required, "[flags]"])

    def positionals(self) -> list[argparse.Action]:
        """Return the arguments without a flag."""
        return [action for action in self._actions if not action.option_strings]

    def flags(self) -> list[argparse.Action]:
        """Return the flags that the help shows."""
        return [action for action in self._actions if action.option_strings and action.help is not argparse.SUPPRESS]

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
        names = [word.lstrip("-").replace("-", "_") for action in self._actions for word in shown_names(action)]
        wanted = flag.lstrip("-").replace("-", "_")
        if wanted in [str(action.metavar or action.dest).lower() for action in self.positionals()]:
            return f"it is written without a flag: {self._call()}"
        close = [name for name in names if name.startswith(wanted)] or difflib.get_close_matches(wanted, names, 1)
        return f"did you mean --{close[0]}?" if close else f"see {self.prog} --help"


def own_values(options: argparse.Namespace) -> dict[str, Any]:
    """Return the values of a command without those that all commands have."""
    return {name: value for name, value in vars(options).items() if name not in ("quiet", "log_level")}


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Show each flag once, by its name with underscores, and its default, if any."""

    def __init__(self, prog: str) -> None:
        width = min(WIDTH, shutil.get_terminal_size((WIDTH, 50)).columns)
        super().__init__(prog, max_help_position=34, width=width)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        opposite = [str(action.metavar)] if action.nargs == "?" and action.metavar else []
        names = ", ".join([*shown_names(action), *opposite])
        if action.nargs in (0, "?"):
            return names
        return f"{names} {self._format_args(action, action.dest.upper())}"

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        is_hidden = default is None or isinstance(default, bool) or default is argparse.SUPPRESS
        return action.help if is_hidden or not action.option_strings else f"{action.help} (default: %(default)s)"


def spellings(flag: str) -> list[str]:
    """Return a flag with underscores, and with hyphens where that differs."""
    start = len(flag) - len(flag.lstrip("-"))
    hyphenated = flag[:start] + flag[start:].replace("_", "-")
    return [flag] if hyphenated == flag else [flag, hyphenated]


def shown_names(action: argparse.Action) -> list[str]:
    """Return the names of a flag that differ in more than hyphens and underscores."""
    return list({word.lstrip("-").replace("-", "_"): word for word in reversed(action.option_strings)}.values())[::-1]


def _metavar(domain: Domain) -> str:
    if domain.choices:
        return f"{{{','.join(domain.choices)}}}"
    return "TEXT" if str in domain.kinds else "N" if int in domain.kinds else "X"


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
