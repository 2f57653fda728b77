import os
import threading
from pathlib import Path

import pytest

from hf_tl.storage import blocks
from hf_tl.storage.blocks import BlockFile, allocate

SIZE, PARTS = 1000, 64


@pytest.fixture(params=["positions", "no positions"], autouse=True)
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate systems with and without (Windows) positional reads and writes and reservation of space."""
    if request.param == "no positions":
        for name in ("preadv", "pwrite", "posix_fallocate"):
            monkeypatch.delattr(os, name)
        monkeypatch.setattr(blocks, "_HAS_POSITIONS", False)


def test_threads_share_a_file_without_mixing_up_their_parts(tmp_path: Path) -> None:
    allocate(tmp_path / "file", SIZE * PARTS)
    read: dict[int, bytes] = {}
    with BlockFile(tmp_path / "file", writable=True) as file:

        def work(number: int) -> None:
            for part in range(number, PARTS, 8):
                file.write(memoryview(bytes([part]) * SIZE), part * SIZE)
            for part in range(number, PARTS, 8):
                memory = bytearray(SIZE)
                file.read_into(memoryview(memory), part * SIZE)
                read[part] = bytes(memory)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert read == {part: bytes([part]) * SIZE for part in range(PARTS)}


def test_two_handles_write_different_parts(tmp_path: Path) -> None:
    allocate(tmp_path / "file", 6)
    with BlockFile(tmp_path / "file", writable=True) as first, BlockFile(tmp_path / "file", writable=True) as second:
        first.write(memoryview(b"abc"), 0)
        second.write(memoryview(b"def"), 3)
    assert (tmp_path / "file").read_bytes() == b"abcdef"


def test_the_end_of_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    with BlockFile(tmp_path / "file") as file, pytest.raises(EOFError, match="ends at byte 3"):
        file.read_into(memoryview(bytearray(3)), 1)


def test_more_than_the_disk_holds_is_refused_before_the_disk_is_full(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        allocate(tmp_path / "file", 2**62)  # no system reserves a part of it
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("size", [0, 5_000_000])
def test_a_file_has_its_size(tmp_path: Path, size: int) -> None:
    allocate(tmp_path / "file", size)
    assert (tmp_path / "file").stat().st_size == max(1, size)
