"""JSON and YAML files from other people: read without surprises, or refused with the reason.

What these formats allow beyond plain values is refused: a name that occurs twice, numbers that are not finite, nesting
deeper than `DEEPEST`, and content that is too large or grows too large as YAML's references are followed.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml

MOST_BYTES = 32 * 2**20
"""Largest size of a JSON file in bytes; the config for the 21,843 classes of ImageNet-21k has 2 MB."""
MOST_CHARACTERS = 10**6
"""Largest size of a YAML document in characters, also with each reference replaced by what it refers to."""
DEEPEST = 200
"""Deepest nesting, because code that goes through such values is recursive. A record nests the models before it."""


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: It is not JSON in UTF-8, or is refused (see above).
    """
    with open(file, "rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES / 1e6:.0f} MB, found more")
    return parse_json(content.decode("utf-8"))


def parse_json(text: str) -> Any:
    """Parse the text of a JSON file.

    Raises:
        ValueError: It is not JSON, or is refused (see above).

    >>> parse_json('{"epochs": 3}')
    {'epochs': 3}
    >>> parse_json('{"epochs": 3, "epochs": 5}')
    Traceback (most recent call last):
    ValueError: expected each name once, found epochs twice
    """
    try:
        content = json.loads(text, object_pairs_hook=_mapping, parse_float=_finite, parse_constant=_finite)
    except RecursionError as error:
        raise ValueError(f"expected at most {DEEPEST} levels, found more") from error
    _check_depth(content)
    return content


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError(f"expected each name once, found {_repeated(name for name, _ in pairs)} twice")
    return content


def _repeated(names: Iterable[str]) -> str:
    """Return the first name that was there before."""
    seen = set[str]()
    for name in names:
        if name in seen:
            return f"{name:.80}"
        seen.add(name)
    raise AssertionError("no name is repeated")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"expected finite numbers, found {text:.80}")
    return number


def _check_depth(content: Any) -> None:
    level = [content]
    for _ in range(DEEPEST):
        level = [
            item
            for value in level
            if isinstance(value, dict | list)
            for item in (value.values() if isinstance(value, dict) else value)
        ]
    if any(isinstance(value, dict | list) for value in level):
        raise ValueError(f"expected at most {DEEPEST} levels, found more")


def parse_yaml(text: str) -> Any:
    r"""Parse the text of a YAML file with plain values.

    Raises:
        ValueError: It is not YAML, holds tags of other values, or is refused (see above).

    >>> parse_yaml("base: &base {epochs: 3}\nphases: [*base]")
    {'base': {'epochs': 3}, 'phases': [{'epochs': 3}]}
    """
    import yaml

    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"expected at most {MOST_CHARACTERS:,} characters, found {len(text):,}")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_node(node)
        return loader.construct_document(node)  # type: ignore[no-untyped-call]
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError(f"expected at most {DEEPEST} levels, found more") from error
    except (ArithmeticError, LookupError, TypeError, AttributeError) as error:  # a tag that does not fit its text
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _check_node(root: "yaml.Node") -> None:
    """Check names, nesting and size of a document before its values are made."""
    sizes: dict[int, int] = {}

    def size(node: "yaml.Node", depth: int) -> int:
        is_plain = isinstance(node.value, str)
        if depth + (not is_plain) > DEEPEST:
            raise ValueError(f"expected at most {DEEPEST} levels, found more")
        if id(node) not in sizes:
            if is_plain:
                sizes[id(node)] = 1 + len(node.value)
            else:
                _check_names(node)
                sizes[id(node)] = 1 + sum(size(part, depth + 1) for part in _parts(node))
        if sizes[id(node)] > MOST_CHARACTERS:
            raise ValueError(f"expected at most {MOST_CHARACTERS:,} characters, found more")
        return sizes[id(node)]

    size(root, 0)


def _parts(node: "yaml.Node") -> Iterable["yaml.Node"]:
    """Return the nodes inside a list, or the names and values of a mapping."""
    return (part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,)))


def _check_names(node: "yaml.Node") -> None:
    names = [pair[0].value for pair in node.value if isinstance(pair, tuple) and isinstance(pair[0].value, str)]
    if len(set(names)) < len(names):
        line = node.start_mark.line + 1
        raise ValueError(f"expected each name once, found {_repeated(names)} twice in line {line}; remove one of them")
