"""Thousands of damaged images: each is read or named, in bounded time and memory, and none crashes the process."""

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from data.damaged_images import REFERENCES

PROGRAM = Path(__file__).with_name("damaged_images.py")
SEED = 20261128
MOST_SECONDS, MOST_MB = 5, 1000


def run(*words: str, seconds: float) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *words], capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.skipif(not os.access(REFERENCES, os.W_OK), reason="peak memory is read from /proc")
@pytest.mark.parametrize(("count", "seed"), [(400, 0), pytest.param(10_000, SEED, marks=pytest.mark.slow)])
def test_damaged_images_are_read_or_named(count: int, seed: int) -> None:
    result = run("damaged", str(count), str(seed), seconds=120 + count / 10)
    print(result)
    outcomes = result["outcomes"]
    assert isinstance(outcomes, dict)
    assert set(outcomes) == {"read", "named"}, outcomes
    assert sum(outcomes.values()) == count
    assert min(outcomes.values()) > count / 10
    assert float(str(result["slowest"])) < MOST_SECONDS
    assert int(str(result["memory_mb"])) < MOST_MB


@pytest.mark.skipif(not os.access(REFERENCES, os.W_OK), reason="peak memory is read from /proc")
@pytest.mark.parametrize("mode", ["1", "P", pytest.param("RGBA", marks=pytest.mark.slow), "I;16", "bomb"])
def test_small_files_of_large_images_need_little_memory(mode: str) -> None:
    """Read images of 80 megapixels, which Pillow allows by default, and refuse one of 10 gigapixels."""
    result = run("large", mode, seconds=120)
    assert result["outcomes"] == ({"named": 1} if mode == "bomb" else {"read": 1})
    assert int(str(result["memory_mb"])) < MOST_MB


def test_the_seed_gives_the_same_files() -> None:
    from data.damaged_images import damage, intact_files
    from numpy.random import default_rng

    def digest() -> int:
        random = default_rng(SEED)
        files = intact_files(random)
        return zlib.crc32(b"".join(damage(random, files) for _ in range(20)))

    assert digest() == digest()
