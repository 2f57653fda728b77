"""Conversion of dataclasses to plain JSON values and back, by their type hints; errors name the field."""

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hf_tl.errors import ConfigError, name_some
from hf_tl.phase import Phase
from hf_tl.strategy import Strategy

T = TypeVar("T")


class RecordError(ValueError):
    """A value of a record that is missing, unknown or of another type."""


def encode(value: Any) -> Any:
    """Turn a record into plain JSON values; non-finite numbers become null.

    >>> from hf_tl.record.parts import FrozenProof
    >>> encode(FrozenProof(tensors=2, before="a", after="b"))
    {'tensors': 2, 'before': 'a', 'after': 'b'}
    """
    if isinstance(value, Strategy):
        return encode(value.to_record())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, set | frozenset):
        return [encode(item) for item in sorted(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a record holds plain values, found {type(value).__name__}")


def decode(kind: type[T], value: Any, where: str = "the record") -> T:
    """Read a dataclass from plain JSON values.

    Args:
        kind: The dataclass.
        value: A mapping of its fields. Fields with a default may be missing.
        where: Name of the value in error messages.

    Raises:
        RecordError: A field is missing, unknown or of another type.
    """
    if not isinstance(value, Mapping):
        raise RecordError(f"{where} must map names to values, found {type(value).__name__}")
    hints, fields = _hints(kind), {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(str(name) for name in value if name not in fields):
        raise RecordError(f"{where} has unknown fields: {name_some(unknown)}")
    required = [name for name, field in fields.items() if _is_required(field) and name not in value]
    if required:
        raise RecordError(f"{where} lacks {', '.join(required[:5])}")
    arguments = {name: _decode(hints[name], item, f"{where}.{name!s:.80}") for name, item in value.items()}
    try:
        return kind(**arguments)
    except ConfigError as error:
        raise RecordError(f"{where}: {error}") from error


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _decode(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            raise RecordError(f"{where} must be one of {', '.join(map(repr, arguments))}, found {value!r:.80}")
        return value
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if origin is list:
        return list(_decode_tuple((arguments[0], ...), value, where))
    if origin in (Mapping, dict):
        return _decode_mapping(arguments[1], value, where)
    return _decode_plain(hint, value, where)


def _decode_union(kinds: Sequence[Any], value: Any, where: str) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    [kind, *others] = [kind for kind in kinds if kind is not types.NoneType]
    if others:
        raise TypeError(f"{where}: a field of a record has one type or None")
    return _decode(kind, value, where)


def _decode_tuple(kinds: Sequence[Any], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise RecordError(f"{where} must be a list, found {type(value).__name__}")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_decode(kinds[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if len(kinds) != len(value):
        raise RecordError(f"{where} must have {len(kinds)} entries, found {len(value)}")
    return tuple(_decode(kind, item, where) for kind, item in zip(kinds, value, strict=True))


def _decode_mapping(kind: Any, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RecordError(f"{where} must map names to values, found {type(value).__name__}")
    return {str(name): _decode(kind, item, f"{where}.{name!s:.80}") for name, item in value.items()}


def _decode_plain(kind: Any, value: Any, where: str) -> Any:
    try:
        if kind is Strategy:
            return Strategy.from_record(value)
        if kind is Phase:
            return Phase.from_record(value)
    except (ConfigError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise RecordError(f"{where}: {error}") from error
    if dataclasses.is_dataclass(kind):
        return decode(kind, value, where)  # type: ignore[arg-type]
    if kind is float and type(value) in (int, float):
        return _decode_float(value, where)
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        raise RecordError(f"{where} must be {kind.__name__}, found {value!r:.80}")
    return value


def _decode_float(value: float, where: str) -> float:
    try:
        number = float(value)
    except OverflowError as error:  # JSON holds integers of any size
        raise RecordError(f"{where}: {error}") from error
    if not math.isfinite(number):
        raise RecordError(f"{where} must be a finite number, found {number}")
    return number
