"""Words for settings in messages: flags on the command line, keywords of functions in Python.

All messages are written with flags: `replace it with --overwrite_output_dir`. Where the caller is Python, errors and
log lines show `overwrite_output_dir=True` instead. The command line says at its entry that flags are meant. Commands in
a message (`hf-tl card DIR`) keep their flags.
"""

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_tl.ranges import Domain

_COMMAND = re.compile(r"(\b(?:hf-tl [a-z]+|torchrun|accelerate launch)(?: [^\s,;:)]*[^\s,;:).])*)")
_FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9]*(?:[_-][a-z0-9]+)*)(?:([ =])(?!--)([^\s;)]*[^\s;:,.)]))?")
_NAMES = {"num_train_epochs": "epochs"}
"""Keywords of functions whose name differs from the flag."""
_SWITCHES = {"int8", "private", "create_pr", "space", "abstain", "prediction_sets"}
_OTHERS = {
    *("split", "format", "output", "threshold", "top_k", "max_images", "batch_size", "revision"),
    *("accept", "coverage", "ood"),
    *("space_name", "server_name", "server_port", "expected_rung", "head_stages", "steps"),
}
"""Flags of commands and arguments of strategies that are no field of a dataclass, with and without a value."""
_WORDS = ("auto", "none", "all")
"""Values of flags that take any text."""
_LIKE_A_VALUE = re.compile(r"""['"].*|[-+]?\d[\d.e+-]*|[A-Z][A-Z/._,=]*|[^(]*[=/\\:].*|.*\.\w{1,11}""", re.DOTALL)
"""Quoted text, numbers, placeholders such as FILE, and paths."""


class _Caller:
    """The side from which this process was called."""

    uses_flags = False


@contextlib.contextmanager
def flags_meant() -> Iterator[None]:
    """Show flags in the messages made while the context is open."""
    before = _Caller.uses_flags
    _Caller.uses_flags = True
    try:
        yield
    finally:
        _Caller.uses_flags = before


def worded(message: str) -> str:
    """Return a message in the words of the caller.

    >>> worded("runs/a holds another run: replace it with --overwrite_output_dir, or set --augmentation none")
    'runs/a holds another run: replace it with overwrite_output_dir=True, or set augmentation="none"'
    >>> worded("leave out --no_pretrained, or write the card with hf-tl card DIR --quiet")
    'leave out pretrained=False, or write the card with hf-tl card DIR --quiet'
    """
    if _Caller.uses_flags or "--" not in message:
        return message
    parts = _COMMAND.split(message)
    parts[::2] = [_FLAG.sub(_keyword, part) for part in parts[::2]]
    text = "".join(parts)
    return text if text == message else re.sub(r"\bflag(s?)\b", r"argument\1", text)


def _keyword(match: re.Match[str]) -> str:
    """Return the keyword of a flag, with its value if one follows."""
    name, space, value = match[1].replace("-", "_"), match[2] or "", match[3] or ""
    domain = _domains().get(name)
    is_known = domain is not None or name in _SWITCHES | _OTHERS or name.removeprefix("no_") in _domains()
    if not is_known:  # of a launcher
        return match[0]
    if name in _SWITCHES or (domain is not None and bool in domain.kinds):
        if value in ("true", "false"):
            return f"{name}={value.capitalize()}"
        return f"{name}{'' if value == 'takes' else '=True'}{space}{value}"
    opposite = _domains().get(name.removeprefix("no_"))
    if name.startswith("no_") and opposite is not None and bool in opposite.kinds:
        return f"{name.removeprefix('no_')}=False{space}{value}"
    keyword = _NAMES.get(name, name)
    if not _is_value(value, domain):
        return f"{keyword}{space}{value}"
    if value == "none" and domain is not None and domain.has_none:
        value = "None"
    elif _is_text(value, domain):
        value = f'"{value}"'
    follower = "," if match.string[match.end() :].startswith(" --") else ""
    return f"{keyword}={value}{follower}"


def _is_value(text: str, domain: "Domain | None") -> bool:
    """Return whether the word after a flag is its value and not the next word of the sentence."""
    choices = () if domain is None else domain.choices
    return bool(text) and (text in choices or text in _WORDS or _LIKE_A_VALUE.fullmatch(text) is not None)


def _is_text(value: str, domain: "Domain | None") -> bool:
    """Return whether a value must be quoted: text, and a placeholder of text."""
    if value.startswith(("'", '"')) or value[:1].isdigit():
        return False
    return domain is None or (str in domain.kinds and not (int in domain.kinds and value == "N"))


@functools.cache
def _domains() -> "Mapping[str, Domain]":
    """Return the domains of all settings by name."""
    from hf_tl.config import DataConfig, HubConfig, ModelConfig, StrategyConfig, TrainingConfig
    from hf_tl.ranges import domains

    owners = (ModelConfig, DataConfig, StrategyConfig, TrainingConfig, HubConfig)
    return {name: domain for owner in owners for name, domain in domains(owner).items()}
