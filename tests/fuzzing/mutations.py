"""Seeded mutations of files that come from outside: of their bytes, of JSON and YAML values, of safetensors headers."""

import copy
import json
import math
import struct
from collections.abc import Iterator
from random import Random
from typing import Any

# fmt: off
NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 10**9, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e-300, 1e308, math.nan, math.inf, -math.inf
)
PATHS = ("..", "../../outside.txt", "/etc/passwd", "/dev/zero", "C:\\outside.txt", "hf-hub:user/name", "local-dir:/tmp")
TEXTS = (
    "", "x", "x" * 200_000, "\0", "\ud800", "\x1b[2J", "%s%n", "1e400", "3", "none", "all", "re:(", "re:(a+)+$",
    "torch", "{{ 7 * 7 }}", "<script>", "function:os:system", "\u202e", "float64",
)
LISTS: tuple[Any, ...] = (
    [], {}, [[]], [None], {"": None}, ["x"] * 1000, {"a": {"b": {"c": []}}}, [0] * 3, [1e308] * 3
)
VALUES = (None, True, False, *NUMBERS, *PATHS, *TEXTS, *LISTS)
"""Values of other types and sizes."""
DEEP, TWICE = "deep nesting", "the same name twice"
"""Marks that are replaced in the text of JSON."""
TOKENS = (
    b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\0", b"\xef\xbb\xbf", b"../../outside.txt", b"/etc/passwd", b"../" * 50,
    b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"{", b"}", b"[", b"]", b'"', b"[" * 300, b"[" * 100_000,
    b"&a [*a]", b"*a", b"!!timestamp x", b"<<: ", b"- ", b"\n", b": ", b"\t", b"#", b"|", b"0x", b"0b_", b"2001-99-99",
    b"!!python/object/apply:os.system [id]", b"!!python/name:os.system",
)
# fmt: on
"""Bytes that mean something in some format."""


def mutate_bytes(content: bytes, random: Random) -> bytes:
    """Flip, cut, repeat, insert and overwrite bytes."""
    mutated = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 5, 30))):
        first = random.randrange(len(mutated) + 1)
        last = min(len(mutated), first + random.choice((1, 4, 40, 400)))
        match random.randrange(7):
            case 0 if first < len(mutated):
                mutated[first] ^= 1 << random.randrange(8)
            case 1:
                del mutated[first:]
            case 2:
                del mutated[first:last]
            case 3:
                mutated[first:first] = mutated[first:last] * random.choice((1, 3))
            case 4:
                mutated[first:first] = random.choice(TOKENS)
            case 5:
                mutated[first:last] = random.choice(TOKENS)
            case 6:
                mutated[first:last] = random.randbytes(last - first)
    return bytes(mutated)


def mutate_value(value: Any, random: Random) -> Any:
    """Replace, remove, rename, add, swap or wrap parts of plain values."""
    value = copy.deepcopy(value)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        places = [*_places(value)]
        if not places:
            return copy.deepcopy(random.choice(VALUES))
        inside, key = random.choice(places)
        match random.randrange(8):
            case 0 | 1 | 2:
                inside[key] = _drawn(inside[key], random)
            case 3:
                del inside[key]
            case 4 if isinstance(inside, dict):
                name = random.choice((f"{key}x", "", "unknown", "../x", "/etc/passwd"))
                inside[name] = inside.pop(key)
            case 5:
                other, name = random.choice(places)
                inside[key] = copy.deepcopy(other[name]) if _has(other, name) else None
            case 6:
                inside[key] = [inside[key]] if random.randrange(2) else {"value": inside[key]}
            case 7:
                inside[key] = random.choice((DEEP, TWICE))
    return value


def mutate_json(content: bytes, random: Random) -> bytes:
    """Mutate the values of JSON, or its bytes."""
    if random.randrange(3) == 0:
        return mutate_bytes(content, random)
    return _text(mutate_value(json.loads(content), random), random)


def mutate_safetensors(content: bytes, random: Random) -> bytes:
    """Mutate the length, the values or the bytes of the header of a safetensors file, or its tensors."""
    [length] = struct.unpack("<Q", content[:8])
    header, data = content[8 : 8 + length], content[8 + length :]
    match random.randrange(4):
        case 0:
            return mutate_bytes(content, random)
        case 1:
            new = random.choice((0, 1, length - 1, length + 1, len(content), 2**31, 2**63, 2**64 - 1, 100_000_001))
            return struct.pack("<Q", new) + header + data
        case 2:
            header = mutate_json(header, random)
        case _:
            header = _text(_other_tensor(json.loads(header), random), random)
    return struct.pack("<Q", len(header)) + header + data


def _other_tensor(header: dict[str, Any], random: Random) -> dict[str, Any]:
    tensor = header[random.choice([name for name in header if name != "__metadata__"])]
    match random.randrange(3):
        case 0:
            tensor["dtype"] = random.choice(("I32", "U8", "F16", "BF16", "F64", "BOOL", "F8_E4M3", "F4", "C64", "X"))
        case 1:
            shape = tensor["shape"]
            tensor["shape"] = random.choice(([], [0], [-1], [2**62, 4], [1, *shape], shape[::-1], [3]))
        case 2:
            first, last = tensor["data_offsets"]
            tensor["data_offsets"] = random.choice(([0, 0], [last, first], [first + 4, last + 4], [0, 2**63], [-8, 0]))
    return header


def _drawn(value: Any, random: Random) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool) and random.randrange(2):
        return random.choice((0, -value, value * 10**6, value + 1, value / 3, str(value), float(value)))
    if isinstance(value, str) and value and random.randrange(2):
        return random.choice((value * 1000, value[: len(value) // 2], value.upper(), f"../{value}", f"/{value}"))
    return copy.deepcopy(random.choice(VALUES))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each place in nested lists and mappings."""
    for key in list(value) if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0):
        yield value, key
        yield from _places(value[key])


def _has(inside: Any, key: Any) -> bool:
    return key in inside if isinstance(inside, dict) else key < len(inside)


def _text(value: Any, random: Random) -> bytes:
    depth = random.choice((70, 300, 100_000))
    text = json.dumps(value, ensure_ascii=random.randrange(2) == 0)
    text = text.replace(json.dumps(DEEP), "[" * depth + "]" * depth)
    text = text.replace(json.dumps(TWICE), '{"name": 1, "name": 2}')
    return text.encode("utf-8", "surrogatepass")
