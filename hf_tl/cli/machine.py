"""Commands about this machine: the feature cache, a report for bug reports, and shell completion."""

from argparse import Namespace
from collections.abc import Callable, Mapping
from datetime import datetime

from hf_tl.cli.completion import completion_script
from hf_tl.config import TrainingConfig
from hf_tl.errors import ConfigError
from hf_tl.parser import Parser
from hf_tl.reporting.numbers import megabytes


def cache_parser() -> Parser:
    """Make the parser of `hf-tl cache`."""
    parser = Parser("cache", "List or clear what is kept between runs: cached features, and indexes of images.")
    choices, text = ["list", "clear"], "list (default) or clear"
    parser.add_argument("action", nargs="?", choices=choices, default="list", help=text)
    parser.add_setting(TrainingConfig, "feature_cache_dir")
    return parser


def cache(options: Namespace) -> None:
    """List or clear the cached features and the indexes of images."""
    from hf_tl.features.feature_store import Entry, open_store
    from hf_tl.storage.tables import KeptFile, clear_tables, list_tables

    store = open_store(options.feature_cache_dir, 0)
    folder = store.folder
    if options.action == "clear":
        try:
            print(f"{megabytes(store.clear() + clear_tables(folder))} freed in {folder}")
        except OSError as error:
            raise ConfigError(f"{folder} cannot be cleared: {error.strerror or error} ({error.filename})") from error
        return
    entries: list[Entry | KeptFile] = [*store.entries(), *list_tables(folder)]
    entries.sort(key=lambda entry: -entry.used)
    for entry in entries:
        used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
        print(f"{megabytes(entry.bytes):>12}  last used {used}  {entry.title}")
    total = megabytes(sum(entry.bytes for entry in entries))
    print(f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}, {total} in {folder}")


def doctor_parser() -> Parser:
    """Make the parser of `hf-tl doctor`."""
    parser = Parser("doctor", "Report versions, devices and caches, to paste into a bug report.")
    parser.add_argument("--hub", action="store_true", help="also ask whether the Hub answers (else nothing is sent)")
    return parser


def doctor(options: Namespace) -> None:
    """Print the report."""
    from hf_tl.cli.doctor import report

    print(report(options.hub))


def completion_parser() -> Parser:
    """Make the parser of `hf-tl completion`."""
    parser = Parser(
        "completion",
        "Print a completion script for a shell.",
        ['eval "$(hf-tl completion bash)"    # in ~/.bashrc', 'eval "$(hf-tl completion zsh)"     # in ~/.zshrc'],
    )
    parser.add_argument("shell", choices=["bash", "zsh"], help="the shell")
    return parser


def completion(options: Namespace, parsers: Mapping[str, Callable[[], Parser]]) -> None:
    """Print the completion script."""
    print(completion_script(options.shell, {name: parser() for name, parser in parsers.items()}), end="")
