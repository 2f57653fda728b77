"""The feature store with killed and concurrent processes, and with full and read-only disks."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from features.stored_entries import IMAGES, KEYS, LARGE, LAYOUTS, draw, files_of, open_entry, write

from hf_tl.features.description import Layout
from hf_tl.features.feature_store import FeatureRows, FeatureStore

REPOSITORY = Path(__file__).parents[2]

WRITE = """
import os, sys, time
from pathlib import Path
import torch
from hf_tl.features import feature_store
from hf_tl.features.description import Layout
from hf_tl.features.feature_store import FeatureRows, FeatureStore

store, key = FeatureStore(Path(sys.argv[1]), 10**9), sys.argv[3]
layouts = [Layout((1000,), torch.float32)]
moment = sys.argv[2]

def pause_at(name):
    if moment == name:
        print("now", flush=True)
        time.sleep(60)

lock = store.lock(key)
try:
    lock.acquire(blocking=False)
except Exception:
    print("waits", flush=True)
    lock.acquire()
if store.find(key)[0] is None:
    print("computes", flush=True)
    rows = FeatureRows(store.begin(key, layouts, 50), layouts, 50, writable=True)
    pause_at("begun")
    rows.write(0, [torch.full((50, 1000), 7.0)])
    pause_at("written")
    if moment == "slow":
        sys.stdin.readline()
    replace = os.replace
    os.replace = lambda *paths: (pause_at("before the rename"), replace(*paths))
    store.commit(key, "title", rows, {})
    store.discard(key)
lock.release()
print("sum", float(store.find(key)[0].read(range(50))[0].sum()), flush=True)
"""


def start(folder: Path, moment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITE, str(folder), moment, KEYS["a"]],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "moment", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("begun", "written")), "before the rename"]
)
def test_a_killed_process_commits_no_entry(store: FeatureStore, moment: str) -> None:
    process = start(store.folder, moment)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["computes\n", "now\n"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert store.find(KEYS["a"]) == (None, None)
    assert store.entries() == []
    # the lock ended with its process, and its leftovers do not interfere
    with store.lock(KEYS["a"]).acquire(timeout=1):
        write(store, KEYS["a"])
    open_entry(store, KEYS["a"])
    assert not list(store.folder.glob(".partial-*"))


def test_of_two_processes_one_computes_and_the_other_waits(tmp_path: Path) -> None:
    first = start(tmp_path, "slow")
    assert first.stdout is not None
    assert first.stdout.readline() == "computes\n"
    second = start(tmp_path, "")
    assert second.stdout is not None
    assert second.stdout.readline() == "waits\n"
    assert first.communicate("go on\n", timeout=60)[0] == "sum 350000.0\n"
    assert second.communicate(timeout=60)[0] == "sum 350000.0\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]).returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_reported_before_the_pass(small_disk: Path) -> None:
    store = FeatureStore(small_disk / "features", LARGE)
    with pytest.raises(OSError, match="No space left"):
        store.begin(KEYS["a"], [Layout((1000,), torch.float32)], 100)
    assert files_of(store.folder) == []


def test_a_disk_full_at_the_commit_keeps_other_entries(small_disk: Path) -> None:
    """There is no space for description and manifest."""
    store = FeatureStore(small_disk / "features", LARGE)
    layouts = [Layout((1000,), torch.float32)]
    write(store, KEYS["a"])
    rows = FeatureRows(store.begin(KEYS["b"], layouts, 50), layouts, 50, writable=True)
    rows.write(0, [torch.zeros(50, 1000)])
    with open(small_disk / "other", "wb", buffering=0) as file:
        try:
            while file.write(b"0" * 512):
                pass
        except OSError:
            pass
    with pytest.raises(OSError, match="No space left"):
        store.commit(KEYS["b"], "title", rows, {})
    store.discard(KEYS["b"])
    assert files_of(store.folder) == [KEYS["a"]]
    open_entry(store, KEYS["a"])


def test_a_read_only_store_can_be_read(small_disk: Path) -> None:
    store = FeatureStore(small_disk, LARGE)
    write(store, KEYS["a"])
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OSError, match="Read-only"):
        store.begin(KEYS["b"], LAYOUTS, IMAGES)
    with pytest.raises(OSError, match="Read-only"):
        store.lock(KEYS["b"]).acquire()
    assert torch.equal(open_entry(store, KEYS["a"]).read([2])[0], draw(LAYOUTS[0], IMAGES)[2:3])


LIMITED = """
import resource, signal, sys
from pathlib import Path
import torch
from hf_tl.features.description import Layout
from hf_tl.features.feature_store import FeatureStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
store = FeatureStore(Path(sys.argv[1]), 10**9)
try:
    store.begin("a" * 40, [Layout((1000,), torch.float32)], 100)
except OSError as error:
    print(error.strerror)
"""


def test_a_file_size_limit_is_reported(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert process.stdout == "File too large\n", process.stderr
    assert files_of(tmp_path) == []
