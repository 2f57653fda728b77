import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hf_tl.checkpoints.checkpoint import (
    MANIFEST,
    check_whole,
    find_damage,
    list_checkpoints,
    newest_checkpoint,
    write_checkpoint,
)
from hf_tl.errors import CheckpointError
from hf_tl.storage.folders import remove_leftovers

CONTENT = b"weights of step "


def writer(step: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "weights").write_bytes(CONTENT + str(step).encode())
        (folder / "random").mkdir()
        (folder / "random" / "rank0").write_bytes(b"\0" * 100)

    return write


def write(folder: Path, *steps: int, keep: int = 2) -> list[Path]:
    return [write_checkpoint(folder, step, writer(step), keep) for step in steps]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_is_found_and_old_checkpoints_are_removed(tmp_path: Path) -> None:
    *_, last = write(tmp_path / "new" / "folder", 5, 10, 15)
    assert newest_checkpoint(tmp_path / "new" / "folder") == (last, [])
    assert names(last.parent) == ["step-00000010", "step-00000015"]
    assert (last / "weights").read_bytes() == b"weights of step 15"
    assert find_damage(last) is None


def test_numbers_are_not_compared_as_text(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert [path.name for path in list_checkpoints(tmp_path, "checkpoint-")] == [
        f"checkpoint-{n}" for n in (9, 10, 100)
    ]


def test_a_folder_without_checkpoints(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) == newest_checkpoint(tmp_path / "none") == (None, [])


def remove(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [remove, cut, flip_a_bit, replace_by_folder])
@pytest.mark.parametrize("file", ["weights", "random/rank0", MANIFEST])
def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path: Path, file: str, damage: Callable[[Path], None]) -> None:
    good, bad = write(tmp_path, 1, 2)
    damage(bad / file)
    newest, problems = newest_checkpoint(tmp_path)
    assert newest == good
    assert len(problems) == 1
    assert problems[0].startswith("step-00000002: ")
    with pytest.raises(CheckpointError, match=f"{bad} is not complete"):
        check_whole(bad)
    check_whole(good)


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"weights": 3}', '{"weights": "'])
def test_a_manifest_without_hashes_is_damage(tmp_path: Path, manifest: str) -> None:
    (checkpoint,) = write(tmp_path, 1)
    (checkpoint / MANIFEST).write_text(manifest)
    assert find_damage(checkpoint) is not None


def test_each_file_is_in_the_manifest(tmp_path: Path) -> None:
    (checkpoint,) = write(tmp_path, 1)
    assert sorted(json.loads((checkpoint / MANIFEST).read_text())) == ["random/rank0", "weights"]


def test_a_run_that_went_back_replaces_what_came_after(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, 4, keep=3)
    write_checkpoint(tmp_path, 3, writer(33), 3)
    assert names(tmp_path) == ["step-00000002", "step-00000003"]
    newest, _ = newest_checkpoint(tmp_path)
    assert newest is not None
    assert (newest / "weights").read_bytes() == b"weights of step 33"


def test_while_a_checkpoint_is_written_the_previous_is_complete(tmp_path: Path) -> None:
    (before,) = write(tmp_path, 1, keep=1)

    def look(folder: Path) -> None:
        writer(2)(folder)
        assert newest_checkpoint(tmp_path) == (before, [])

    assert write_checkpoint(tmp_path, 2, look, 1) == tmp_path / "step-00000002"
    assert names(tmp_path) == ["step-00000002"]


def assert_untouched(folder: Path, before: Path) -> None:
    assert newest_checkpoint(folder) == (before, [])
    assert names(folder) == [before.name]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (before,) = write(tmp_path, 1)

    def fail(folder: Path) -> None:
        writer(2)(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match=r"step-00000002 cannot be written: No space left on device.*untouched"):
        write_checkpoint(tmp_path, 2, fail, 1)
    assert_untouched(tmp_path, before)


def test_partial_folders_of_killed_processes_are_removed(tmp_path: Path) -> None:
    (before,) = write(tmp_path, 1)
    (tmp_path / ".partial-step-00000002").mkdir()
    assert newest_checkpoint(tmp_path) == (before, [])
    remove_leftovers(tmp_path)
    assert_untouched(tmp_path, before)
    (tmp_path / ".partial-step-00000003").mkdir()
    write(tmp_path, 2)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file/checkpoints/step-00000001 cannot be written: Not a directory"):
        write(tmp_path / "file" / "checkpoints", 1)


@pytest.fixture
def ordinary_user() -> Iterator[Path]:
    """Yield a folder of a user without write access elsewhere, unlike root."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if os.geteuid() != 0:
            yield folder
            return
        folder.chmod(0o777)
        os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(0)


def test_a_read_only_folder(ordinary_user: Path) -> None:
    (before,) = write(ordinary_user / "checkpoints", 1)
    (ordinary_user / "checkpoints").chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(CheckpointError, match=r"step-00000002 cannot be written: Permission denied"):
            write(ordinary_user / "checkpoints", 2)
        assert_untouched(ordinary_user / "checkpoints", before)
    finally:
        (ordinary_user / "checkpoints").chmod(0o700)


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from hf_tl.checkpoints.checkpoint import newest_checkpoint, write_checkpoint

def write(folder):
    for number in range(5):
        (folder / str(number)).write_bytes(bytes([step % 256]) * 50_000)

folder = Path(sys.argv[1])
newest, _ = newest_checkpoint(folder)
step = 0 if newest is None else int(newest.name.split("-")[1])
while True:
    step += 1
    write_checkpoint(folder, step, write, 1)
    print(step, flush=True)
"""


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_a_checkpoint_is_complete_whenever_the_writer_is_killed(tmp_path: Path, kills: int) -> None:
    """The writer only writes and removes, so that every kill hits one of the two."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    steps = [0]
    for kill in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert int(process.stdout.readline()) == steps[-1] + 1
        time.sleep(kill * 0.0137 % 0.05)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        newest, _ = newest_checkpoint(tmp_path)
        assert newest is not None
        step = int(newest.name.split("-")[1])
        assert {(newest / str(number)).read_bytes() for number in range(5)} == {bytes([step % 256]) * 50_000}
        assert step > steps[-1]
        steps.append(step)
