"""Long tests in parts: plain pytest runs the first of them, `pytest -m slow` the others, `.ci/run` a share of these."""

from hashlib import sha256
from typing import Any

import pytest


def parts(count: int, *, plain: int = 1) -> list[Any]:
    """Return the numbers of the parts of a test.

    Args:
        count: Number of parts.
        plain: Number of parts that plain pytest runs; the others are slow.
    """
    return [*range(plain), *(pytest.param(part, marks=pytest.mark.slow) for part in range(plain, count))]


def is_drawn(name: str, share: float, draw: str) -> bool:
    """Return whether a slow test is among those that a run draws.

    Args:
        name: Node id of the test.
        share: Share of the slow tests, from 0 to 1.
        draw: Name of the draw: another one draws other tests.
    """
    return int.from_bytes(sha256(f"{draw} {name}".encode()).digest()[:8]) < share * 2**64
