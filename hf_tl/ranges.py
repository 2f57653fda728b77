"""Ranges of settings, declared once beside each field and checked alike for flags, YAML keys and Python arguments.

```python
@dataclass(frozen=True)
class LoopSettings(Settings):
    epochs: float = setting(10, "passes over the images", above=0)
```

Types and choices come from the annotation of the field, the range from its metadata.
"""

import dataclasses
import difflib
import functools
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hf_tl.errors import ConfigError

BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True)
class Domain:
    """Allowed values of a setting. A bool does not count as a number, and numbers must be finite."""

    kinds: tuple[type, ...]
    choices: tuple[str, ...] = ()
    is_optional: bool = False
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    or_zero: bool = False
    """Whether 0 is allowed in addition to the range."""
    synonyms: Mapping[str, str] = field(default_factory=dict)
    """Other names of choices, which error messages suggest."""
    reader: Callable[[Any], Any] | None = None
    """Function that reads values other than the choices; it returns None for what it does not read."""
    others: str = ""
    """Description of the values that `reader` reads."""

    def check(self, value: Any, shown: str | None = None) -> Any:
        """Return an allowed value, with paths converted to text and lists to tuples.

        Args:
            value: Value to check.
            shown: Text that error messages show for the value. Defaults to its representation.

        Raises:
            ValueError: The value has the wrong type or is outside the range.
        """
        if value is None and self.is_optional:
            return None
        plain = os.fspath(value) if isinstance(value, os.PathLike) else value
        if self.reader is not None and plain not in self.choices and (read := self.reader(plain)) is not None:
            return read
        plain = tuple(plain) if isinstance(plain, list) else plain
        if not (self._has_type(plain) and self._is_inside(plain)):
            raise ValueError(f"takes {self}, found {shown or repr(value):.80}{self.suggestion(value)}")
        return plain

    def suggestion(self, value: Any) -> str:
        """Name the choice that was probably meant, if there is one."""
        if not isinstance(value, str):
            return ""
        plain = re.sub(r"[\s_-]", "", value.lower())
        close = (
            [self.synonyms[plain]] if plain in self.synonyms else difflib.get_close_matches(plain, self.choices, n=1)
        )
        return f"; did you mean {close[0]}?" if close else ""

    def parse(self, text: str) -> Any:
        """Parse a value from the text of a flag or of YAML (which reads `3e-4` as text).

        Raises:
            ValueError: The text is not an allowed value.
        """
        if self.has_none and text.lower() == "none":
            return None
        readers: tuple[tuple[type, Callable[[str], Any]], ...] = (
            (bool, lambda text: BOOLEANS[text.lower()]),
            (int, int),
            (float, float),
            (tuple, _names),
        )
        for kind, read in readers:
            if kind in self.kinds:
                try:
                    value = read(text)
                except (ValueError, KeyError):
                    continue
                return self.check(value, text)
        return self.check(text, text)

    @property
    def has_none(self) -> bool:
        """Return whether the word `none` means None."""
        return self.is_optional and str not in self.kinds

    def _has_type(self, value: Any) -> bool:
        if isinstance(value, tuple):
            return tuple in self.kinds and bool(value) and all(isinstance(name, str) for name in value)
        if isinstance(value, bool):
            return bool in self.kinds
        return isinstance(value, self.kinds) or (float in self.kinds and isinstance(value, int))

    def _is_inside(self, value: Any) -> bool:
        if self.choices and isinstance(value, str):
            return value in self.choices
        if not isinstance(value, int | float):
            return value != ""
        return (self.or_zero and value == 0) or (
            math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.choices:
            kinds = [f" or hf_tl.{kind.__name__}(…)" for kind in self.kinds if dataclasses.is_dataclass(kind)]
            if float in self.kinds:
                kinds.append(f" or {dataclasses.replace(self, choices=(), kinds=(float,), is_optional=False)}")
            others = f", or {self.others}" if self.others else ""
            names = ", ".join(self.choices)
            return f"{names if len(self.choices) == 1 else f'one of {names}'}{''.join(kinds)}{others}"
        if bool in self.kinds:
            return "true or false"
        if tuple in self.kinds:
            return "a number of stages (at least 1), all, or names of stages"
        if str in self.kinds:
            return "text"
        bounds = [("of at least", self.at_least), ("above", self.above), ("of at most", self.at_most)]
        bounds += [("below", self.below)]
        limits = " and ".join(f"{word} {bound:,}" for word, bound in bounds if bound is not None)
        kind = "an integer" if int in self.kinds else "a number"
        return f"{'0 or ' if self.or_zero else ''}{kind} {limits}".rstrip() + (" or none" if self.has_none else "")


COUNT = Domain((int,), at_least=1)
SHARE = Domain((float,), at_least=0, at_most=1)


def check_argument(name: str, value: Any, domain: Domain) -> None:
    """Check an argument of a function; None stands for its default.

    Raises:
        ConfigError: The value has the wrong type or is outside the domain.
    """
    if value is None:
        return
    try:
        domain.check(value)
    except ValueError as error:
        raise ConfigError(f"--{name} {error}") from error


def setting(default: Any = dataclasses.MISSING, text: str = "", *, metavar: str | None = None, **limits: Any) -> Any:
    """Declare a field with its help text and its range.

    Args:
        default: The default.
        text: The help text; of a bool that is true by default, that of the flag which turns it off.
        metavar: Stands for the value in `--help`; by default its type.
        limits: Limits of the `Domain`.
    """
    return field(default=default, metadata={"help": text, "metavar": metavar, "limits": limits})


def like(owner: type, name: str) -> dict[str, Any]:
    """Return the limits of another dataclass's field, to declare a range only once."""
    return dict(next(field for field in dataclasses.fields(owner) if field.name == name).metadata["limits"])


@functools.cache
def domains(owner: type) -> Mapping[str, Domain]:
    """Return the domain of each field of a dataclass."""
    hints = get_type_hints(owner)
    return {
        field.name: _domain(hints[field.name], field.metadata.get("limits", {})) for field in dataclasses.fields(owner)
    }


def check_fields(settings: Any, title: str = "--{}") -> None:
    """Check all fields of a frozen dataclass from its `__post_init__`.

    Args:
        settings: Dataclass instance. Paths become text, and lists become tuples.
        title: Format of a field's name in error messages. Defaults to its flag.

    Raises:
        ConfigError: A value has the wrong type or is outside its range.
    """
    owner: type = type(settings)
    for name, domain in domains(owner).items():
        value = getattr(settings, name)
        try:
            checked = domain.check(value)
        except ValueError as error:
            raise ConfigError(f"{title.format(name)} {error}") from error
        if checked is not value:
            object.__setattr__(settings, name, checked)


def check_value(owner: type, name: str, value: Any) -> Any:
    """Check an argument with the range of a dataclass's field, and return it as `Domain.check` does.

    Raises:
        ConfigError: The value has the wrong type or is outside its range.
    """
    try:
        return domains(owner)[name].check(value)
    except ValueError as error:
        raise ConfigError(f"--{name} {error}") from error


@dataclass(frozen=True)
class Settings:
    """Base of dataclasses of flags, whose fields are checked at creation.

    Raises:
        ConfigError: A value has the wrong type or is outside its range.
    """

    def __post_init__(self) -> None:
        check_fields(self)


def flag_words(name: str, value: Any) -> list[str]:
    """Return the words of a command line that set a flag.

    >>> flag_words("refit", True), flag_words("pretrained", False), flag_words("num_train_epochs", 20.0)
    (['--refit'], ['--no_pretrained'], ['--num_train_epochs', '20'])
    >>> flag_words("trainable_stages", ("layer4", "head"))
    ['--trainable_stages', 'layer4,head']
    """
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no_{name}"]
    if isinstance(value, tuple):
        return [f"--{name}", ",".join(value)]
    return [f"--{name}", f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)]


def _domain(hint: Any, limits: Mapping[str, Any]) -> Domain:
    parts = [hint] if get_origin(hint) in (Literal, tuple) else [*(get_args(hint) or (hint,))]
    kinds: list[type] = []
    choices: tuple[str, ...] = ()
    for part in parts:
        if get_origin(part) is Literal:
            choices, part = get_args(part), str
        if part is not NoneType:
            kinds.append(get_origin(part) or part)
    return Domain(tuple(kinds), is_optional=NoneType in parts, **{"choices": choices, **limits})


def _names(text: str) -> tuple[str, ...]:
    """Split names at commas; a regular expression (`re:…`) is a single name."""
    if "," not in text or text.startswith("re:"):
        raise ValueError("one name")
    return tuple(re.split(r"\s*,\s*", text.strip()))
