"""The command line: `hf-tl COMMAND …`.

All commands use one framework: argparse behind `hf_tl.parser.Parser`, whose flags come from the fields of dataclasses
(`hf_tl.config`), as those of `HfArgumentParser` do. Unlike it, a `Parser` checks ranges, suggests the nearest flag, and
needs no import of transformers, so that `--help` and mistakes take 0.2 s.

Exit codes:

| code | meaning |
|---|---|
| 0 | success |
| 1 | unexpected error, with Python's traceback: a bug |
| 2 | mistake in the input, or a disk that cannot be written to, in one line on the standard error stream |
| 3 | done, except for inputs that cannot be read, which are named (`hf-tl predict`) |
| 130 | Ctrl-C |
| 143 | SIGTERM, after a checkpoint was written and temporary files were removed |
"""

import contextlib
import difflib
import os
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NamedTuple, NoReturn

from hf_tl import __version__
from hf_tl.cli import inspecting, machine, measuring, publishing, training
from hf_tl.cli.doctor import installed_versions
from hf_tl.errors import TERMINATED_STATUS, ConfigError, HfTlError
from hf_tl.flags import TrainParser
from hf_tl.parser import Parser
from hf_tl.reporting.console import log_level, tolerant_streams
from hf_tl.storage.writing import failure_of
from hf_tl.wording import flags_meant

LIBRARIES = ("torch", "torchvision", "transformers", "timm", "datasets", "accelerate")
NEAR_FLAGS = {"-v": "--version", "version": "--version", "help": "--help"}
ERROR_STATUS, INTERRUPTED_STATUS = HfTlError.exit_status, 130


class Command(NamedTuple):
    """A command: what reads its arguments, and what runs with them."""

    parser: Callable[[], Parser]
    run: Callable[[Namespace], None]


GROUPS: dict[str, dict[str, Command]] = {
    "train": {
        "inspect": Command(inspecting.inspect_parser, inspecting.inspect),
        "train": Command(TrainParser, training.train),
        "recommend": Command(training.recommend_parser, training.recommend),
        "stages": Command(training.stages_parser, training.stages),
        "presets": Command(training.presets_parser, training.presets),
    },
    "use and evaluate": {
        "predict": Command(measuring.predict_parser, measuring.predict),
        "calibrate": Command(measuring.calibrate_parser, measuring.calibrate),
        "evaluate": Command(measuring.evaluate_parser, measuring.evaluate),
        "compare": Command(measuring.compare_parser, measuring.compare),
        "demo": Command(publishing.demo_parser, publishing.demo),
    },
    "share": {
        "push": Command(publishing.push_parser, publishing.push),
        "pull": Command(publishing.pull_parser, publishing.pull),
        "card": Command(publishing.card_parser, publishing.card),
        "export": Command(publishing.export_parser, publishing.export),
    },
    "this machine": {
        "cache": Command(machine.cache_parser, machine.cache),
        "doctor": Command(machine.doctor_parser, machine.doctor),
        "completion": Command(machine.completion_parser, lambda options: machine.completion(options, PARSERS)),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
PARSERS: dict[str, Callable[[], Parser]] = {name: command.parser for name, command in COMMANDS.items()}
OVERVIEW = """usage: hf-tl COMMAND [flags]

Transfer learning and fine-tuning of image classifiers.

{commands}
examples:
  hf-tl train                                    # the embedded demo
  hf-tl train --dataset ./flowers -o out         # a folder of images for each class
  hf-tl predict out image.jpg

exit codes: 0 success, 1 unexpected error (a bug), 2 mistake in the input, 3 done except for
unreadable inputs, 130 interrupted with Ctrl-C, 143 terminated after a checkpoint (SIGTERM)

hf-tl COMMAND --help shows the flags of a command, hf-tl --version the version."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command, by default from the arguments of the process."""
    with tolerant_streams(), flags_meant(), _terminable(), _explained_threads():
        _run(list(sys.argv[1:] if arguments is None else arguments))


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end this process as Ctrl-C does, so that temporary files are removed.

    A process of several is killed at once, as ever: it may be waiting for another one, where Python sees no signal.
    A library may answer the exception of a signal with an error of its own, as safetensors does: the exit status is
    that of the signal all the same.
    """
    statuses: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        statuses.append(INTERRUPTED_STATUS)
        signal.default_int_handler(number, frame)

    def end(number: int, frame: FrameType | None) -> None:
        statuses.append(TERMINATED_STATUS)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second signal kills the process
        sys.exit(TERMINATED_STATUS)

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or "RANK" in os.environ or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    is_plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_plain:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except BaseException:
        if statuses:
            sys.exit(statuses[-1])
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if is_plain:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def _explained_threads() -> Iterator[None]:
    """Print one line, without a traceback, when the disk fails in a thread of a library, such as a tracker's."""
    before = threading.excepthook

    def explain(arguments: threading.ExceptHookArgs) -> None:
        if (failure := failure_of(arguments.exc_value)) is None:
            before(arguments)
        else:
            print(failure, file=sys.stderr)

    threading.excepthook = explain
    try:
        yield
    finally:
        threading.excepthook = before


def _run(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return
    if words[0] in ("-V", "--version"):
        print(version_report())
        return
    name, *rest = words
    try:
        if name not in COMMANDS:
            name, problem = "", _unknown(name)
            raise ConfigError(problem)
        command = COMMANDS[name]
        options = command.parser().parse(rest)
        with log_level("warning" if options.quiet else options.log_level):
            command.run(options)
    except HfTlError as error:
        _leave(name, str(error), error.exit_status)
    except KeyboardInterrupt:
        _leave(name, "interrupted", INTERRUPTED_STATUS)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] == "hf_tl":
            raise
        text = f"needs the module {error.name}, which is not installed; install its package, or hf-tl with all it needs"
        _leave(name, text, ERROR_STATUS)
    except Exception as error:
        if (failure := failure_of(error)) is None:
            raise
        _leave(name, failure, ERROR_STATUS)


def _unknown(name: str) -> str:
    if name in NEAR_FLAGS:
        return f"unknown command {name!r}; did you mean {NEAR_FLAGS[name]}?"
    if name.startswith("-"):
        return f"expected a command before the flag {name}: hf-tl train {name} …; hf-tl --help lists the commands"
    close = difflib.get_close_matches(name, COMMANDS, 1)
    advice = f"did you mean {close[0]}?" if close else f"commands: {', '.join(COMMANDS)}"
    return f"unknown command {name!r}; {advice}"


def _leave(command: str, message: str, status: int) -> NoReturn:
    # all processes of a distributed run end for the same reason: print it once
    if os.environ.get("RANK", "0") == "0":
        print(f"{f'hf-tl {command}'.rstrip()}: {in_one_line(message)}", file=sys.stderr)
    sys.exit(status)


def in_one_line(message: str) -> str:
    """Join the lines of a message, such as those of an error of another library, or a list of images."""
    first, *rest = (line.strip() for line in message.splitlines() if line.strip())
    for line in rest:
        first += f"{' ' if first[-1] in '.:;,?!' else '; '}{line}"
    return first


def version_report() -> str:
    """Return the version of hf-tl, and those of the libraries that its results depend on."""
    return f"hf-tl {__version__}\n{installed_versions(LIBRARIES)}"


def overview() -> str:
    """Return the help of `hf-tl`."""
    lines = []
    for title, commands in GROUPS.items():
        rows = [f"  {name:<12}{command.parser().description}" for name, command in commands.items()]
        lines += [f"{title}:", *rows, ""]
    return OVERVIEW.format(commands="\n".join(lines))
