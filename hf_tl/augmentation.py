"""Augmentation as a value: a preset, a list of torchvision transforms in YAML, or a Python function.

The value is text, so that records, commands and YAML files hold it as it is: `light`,
`[RandomRotation: {degrees: 15}, preprocessing]`, or the name of a function (`python:…`). This module reads and
checks the form of a list; `hf_tl.data.decoding.transform_names` builds the transforms.
"""

import contextlib
import functools
import hashlib
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from hf_tl.storage.documents import parse_yaml

NONE = "none"
PREPROCESSING = "preprocessing"
"""Entry of a list that marks the place of the model's preprocessing: resizing, cropping, normalization. A list without
it ends with it."""
PRESETS = {
    NONE: "[preprocessing]",
    "light": "[RandomResizedCrop: {scale: [0.25, 1.0]}, RandomHorizontalFlip, preprocessing]",
    "medium": "[RandomResizedCrop: {scale: [0.25, 1.0]}, RandomHorizontalFlip, "
    "TrivialAugmentWide: {interpolation: bilinear}, preprocessing]",
    "strong": "[RandomResizedCrop: {scale: [0.08, 1.0]}, RandomHorizontalFlip, "
    "TrivialAugmentWide: {interpolation: bilinear}, preprocessing, RandomErasing: {p: 0.25}]",
}
"""Lists that the presets stand for. `light` is the crop and flip of Inception training (Szegedy et al. 2015,
https://arxiv.org/abs/1409.4842), with crops of at least a quarter of the image. `medium` adds TrivialAugment (Müller
and Hutter 2021, https://arxiv.org/abs/2103.10158). `strong` crops down to 8% and adds random erasing (Zhong et al.
2020, https://arxiv.org/abs/1708.04896)."""
MIRRORS = "RandomHorizontalFlip"
NESTED = "transforms"
"""Argument of a transform that holds a list of transforms."""
FUNCTION = "python:"
"""Prefix of the name of a Python function."""
OTHERS = "a YAML file with a list of torchvision transforms"
DEEPEST = 10
"""Largest depth of nested lists and mappings."""
DIGEST_LENGTH = 12


class Step(NamedTuple):
    """Entry of a list: the name of a transform and its arguments; a nested list of transforms is a list of steps."""

    name: str
    arguments: dict[str, Any]

    @property
    def names(self) -> set[str]:
        """Names of the transform and of those nested in it."""
        return {self.name}.union(*(step.names for step in self.arguments.get(NESTED, [])))


class FunctionAugmentation(str):
    """Augmentation by a Python function: its name, as in a record, which carries the function.

    The name of a record has no function: a record cannot rebuild it.
    """

    function: Callable[[Any], Any] | None

    def __new__(cls, name: str, function: Callable[[Any], Any] | None = None) -> Self:
        """Create the value from a name that begins with `python:`."""
        value = super().__new__(cls, name)
        value.function = function
        return value

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.function)


def read_augmentation(value: Any) -> str | None:
    """Read an augmentation that is not the name of a preset.

    Args:
        value: Path of a YAML file, the list in it as text or as Python values, a function of a PIL image, or the text
            that this function returned earlier.

    Returns:
        The augmentation as text; None if the value is nothing of the kind.

    Raises:
        ValueError: The file cannot be read, or it does not hold a list of transforms. The message continues the name
            of the setting.

    >>> read_augmentation([{"RandomRotation": {"degrees": 15}}, "RandomHorizontalFlip"])
    '[RandomRotation: {degrees: 15}, RandomHorizontalFlip, preprocessing]'
    """
    if isinstance(value, FunctionAugmentation):
        return value
    title = ""
    if isinstance(value, str):
        if value.startswith(FUNCTION):
            return FunctionAugmentation(value)
        if not value.lstrip().startswith("["):
            if not names_file(value):
                return None
            title, value = value, _read(value)
        value = _load(value, title)
    elif not isinstance(value, list | tuple):
        return FunctionAugmentation(f"{FUNCTION}{identify(value)}", value) if callable(value) else None
    steps = _steps(value, title)
    if all(step.name == PREPROCESSING for step in steps):
        raise _error(title, "expected a list of transforms, found none in it; choose the preset none instead")
    is_marked = any(step.name == PREPROCESSING for step in steps)
    return _written(steps if is_marked else [*steps, Step(PREPROCESSING, {})])


def names_file(value: Any) -> bool:
    """Return whether an augmentation is the path of a file, which its suffix tells."""
    is_path = isinstance(value, str) and not value.startswith(FUNCTION) and not value.lstrip().startswith("[")
    return is_path and Path(value).suffix.lower() in (".yaml", ".yml", ".json")


@functools.cache
def steps_of(augmentation: str) -> tuple[Step, ...]:
    """Return the transforms of a preset or a list; none for a function, whose content is unknown."""
    if augmentation.startswith(FUNCTION):
        return ()
    return tuple(_steps(_load(PRESETS.get(augmentation, augmentation), ""), ""))


def names_in(augmentation: str) -> set[str]:
    """Return the names of all transforms of an augmentation, nested ones included."""
    return set().union(*(step.names for step in steps_of(augmentation)))


def without_mirroring(augmentation: str) -> str:
    """Return the list of a preset without its horizontal flip.

    >>> without_mirroring("light")
    '[RandomResizedCrop: {scale: [0.25, 1.0]}, preprocessing]'
    """
    return _written([step for step in steps_of(augmentation) if step.name != MIRRORS])


def describe_augmentation(augmentation: str, *, horizontal_flip: bool = True) -> str:
    """Return an augmentation with the transforms that it consists of.

    Args:
        augmentation: Augmentation of a phase.
        horizontal_flip: Whether presets flip images horizontally.

    >>> describe_augmentation("light", horizontal_flip=False)
    'light [RandomResizedCrop: {scale: [0.25, 1.0]}, preprocessing]'
    """
    if augmentation.startswith(FUNCTION):
        return f"{augmentation} (a Python function, which the record names and cannot rebuild)"
    if augmentation not in PRESETS or augmentation == NONE:
        return augmentation
    text = PRESETS[augmentation] if horizontal_flip else without_mirroring(augmentation)
    return f"{augmentation} {text}"


def preset_contents() -> str:
    """Return all presets and their transforms, for a help text."""
    return "; ".join(f"{preset} {text}" for preset, text in PRESETS.items() if preset != NONE)


def brief_augmentation(augmentation: str) -> str:
    """Return an augmentation in a few words: the name of a preset, or the names of the transforms.

    >>> brief_augmentation("[RandomRotation: {degrees: 15}, RandomHorizontalFlip]")
    'RandomRotation, RandomHorizontalFlip'
    """
    if augmentation in PRESETS or augmentation.startswith(FUNCTION):
        return str(augmentation)
    return ", ".join(step.name for step in steps_of(augmentation) if step.name != PREPROCESSING)


def describe_phases(augmentations: Sequence[str], *, horizontal_flip: bool) -> list[tuple[str, str]]:
    """Return each augmentation of a strategy other than `none`: its phases, and its transforms.

    >>> describe_phases(["none", "light", "light"], horizontal_flip=False)
    [('phase 2, 3', 'light [RandomResizedCrop: {scale: [0.25, 1.0]}, preprocessing]')]
    """
    phases: dict[str, list[str]] = {}
    for number, augmentation in enumerate(augmentations, 1):
        if augmentation != NONE:
            phases.setdefault(augmentation, []).append(str(number))
    return [
        (f"phase {', '.join(numbers)}", describe_augmentation(augmentation, horizontal_flip=horizontal_flip))
        for augmentation, numbers in phases.items()
    ]


def place_of(title: str, number: int) -> str:
    """Return the place of a transform for error messages."""
    return f"{title}, transform {number}" if title else f"transform {number}"


def _error(title: str, message: str) -> ValueError:
    return ValueError(f"{title}: {message}" if title else message)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise ValueError(f"{path} cannot be read: {reason}") from error


def _load(text: str, title: str) -> list[Any]:
    """Parse the YAML of a list."""
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise _error(title, f"expected YAML: {error}") from error
    if not isinstance(content, list):
        kind = "nothing" if content is None else type(content).__name__
        raise _error(title, f"expected a list of transforms, such as '- RandomRotation: {{degrees: 15}}', found {kind}")
    return content


def _steps(entries: Sequence[Any], title: str, depth: int = 0) -> list[Step]:
    """Check the form of a list of transforms."""
    steps = [
        _step(entry, f"{title}, transform {number}".removeprefix(", "), depth)
        for number, entry in enumerate(entries, 1)
    ]
    marks = [step for step in steps if step.name == PREPROCESSING]
    if len(marks) > 1 or (marks and (depth or marks[0].arguments)):
        raise _error(
            title,
            f"expected {PREPROCESSING} at most once, in the outer list and without arguments, found "
            f"{_written(marks)}{' in a nested list' if depth else ''}; remove it",
        )
    return steps


def _step(entry: Any, place: str, depth: int) -> Step:
    """Check an entry: a name, or a mapping of a name to arguments."""
    name, arguments = entry, None
    if isinstance(entry, Mapping):
        if len(entry) != 1:
            raise ValueError(
                f"{place}: expected one transform, found {len(entry)} ({', '.join(map(str, entry))}): start each with "
                "a dash, and indent its arguments"
            )
        [(name, arguments)] = entry.items()
    if not isinstance(name, str):
        advice = "; pass objects as torchvision.transforms.v2.Compose([…])" if callable(name) else ""
        raise ValueError(
            f"{place}: expected the name of a transform, such as RandomRotation, found {name!r:.80}{advice}"
        )
    if arguments is not None and not isinstance(arguments, Mapping):
        raise ValueError(
            f"{place}: expected the arguments of {name} by name, such as {name}: {{argument: value}}, found "
            f"{arguments!r:.80}"
        )
    return Step(name, {key: _value(key, value, f"{place} ({name})", depth) for key, value in (arguments or {}).items()})


def _value(key: Any, value: Any, place: str, depth: int) -> Any:
    """Check an argument; `transforms` holds a list of transforms, others plain values."""
    if not isinstance(key, str):
        raise ValueError(f"{place}: expected the name of an argument, found {key!r:.80}")
    if depth > DEEPEST:
        raise ValueError(f"{place}: expected at most {DEEPEST} levels of nested transforms, found more")
    if key == NESTED:
        if not isinstance(value, list | tuple) or not value:
            raise ValueError(f"{place}: expected a list of transforms in {NESTED}, found {value!r:.80}")
        return _steps(value, place, depth + 1)
    return _plain(value, f"{place}: {key}")


def _plain(value: Any, place: str, depth: int = 0) -> Any:
    if isinstance(value, list | tuple) and depth < DEEPEST:
        return [_plain(item, place, depth + 1) for item in value]
    if isinstance(value, str | bool | int | None) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(f"{place} takes numbers, texts, true, false, null and lists of them, found {value!r:.80}")


def _written(steps: Sequence[Step]) -> str:
    """Return a list of transforms as YAML in one line, which is also valid as the value of a flag."""
    return f"[{', '.join(map(_write_step, steps))}]"


def _write_step(step: Step) -> str:
    arguments = ", ".join(
        f"{_write(name)}: {_written(value) if name == NESTED else _write(value)}"
        for name, value in step.arguments.items()
    )
    return f"{_write(step.name)}: {{{arguments}}}" if arguments else _write(step.name)


def _write(value: Any) -> str:
    """Write a plain value in one line."""
    import yaml

    if isinstance(value, list):
        return f"[{', '.join(map(_write, value))}]"
    style = '"' if isinstance(value, str) and not re.fullmatch(r"\w+", value, re.ASCII) else None
    return yaml.safe_dump([value], default_style=style, default_flow_style=True, width=math.inf).strip()[1:-1]


def identify(function: Callable[..., Any]) -> str:
    """Return the qualified name of a function, or the representation of an object, with the digest of its source.

    A function that was edited differs, for resumed runs and cached features.

    >>> identify(math.sqrt), identify(re.sub).startswith("re.sub@")
    ('math.sqrt', True)
    """
    if inspect.isroutine(function):
        name = f"{function.__module__}.{function.__qualname__}"
    else:
        kind = type(function)
        text = " ".join(repr(function).split())
        name = f"{kind.__module__}.{kind.__qualname__}" if " at 0x" in text else text
    source = ""
    with contextlib.suppress(OSError, TypeError):  # built in, or typed into an interpreter
        source = inspect.getsource(function if inspect.isroutine(function) else type(function))
    return f"{name}@{hashlib.sha256(source.encode()).hexdigest()[:DIGEST_LENGTH]}" if source else name
