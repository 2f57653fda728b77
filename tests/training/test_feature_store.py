"""Features on disk: read back as written, and found only if written completely."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hf_tl.features.feature_store import DESCRIPTION, FeatureRows, FeatureStore, Layout, key_of

REPOSITORY = Path(__file__).parents[2]
TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8)
LAYOUTS = (Layout((2, 3), torch.float32), Layout((), torch.int64))
IMAGES = 6
LARGE = 10**9
KEYS = {name: key_of({"name": name}) for name in ("a", "b", "c", "d", "e", "old", "new")}
NAMES = {key: name for name, key in KEYS.items()}


def draw(layout: Layout, images: int) -> Tensor:
    generator = torch.Generator().manual_seed(images)
    return torch.randint(0, 100, (images, *layout.shape), generator=generator).to(layout.dtype)


def write(store: FeatureStore, key: str, layouts: Sequence[Layout] = LAYOUTS, images: int = IMAGES) -> list[Tensor]:
    """Write an entry like training."""
    tensors = [draw(layout, images) for layout in layouts]
    rows = FeatureRows(store.begin(key, layouts, images), layouts, images, writable=True)
    rows.write(0, [tensor[:1] for tensor in tensors])
    rows.write(1, [tensor[1:] for tensor in tensors])
    store.commit(key, f"entry {key}", rows, {"key": key})
    return tensors


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features", LARGE)


def found(store: FeatureStore, key: str) -> FeatureRows:
    rows, problem = store.find(key)
    assert problem is None
    assert rows is not None
    return rows


@given(
    images=st.integers(1, 9),
    layouts=st.lists(
        st.builds(Layout, st.lists(st.integers(1, 3), max_size=3).map(tuple), st.sampled_from(TYPES)),
        min_size=1,
        max_size=3,
    ),
    data=st.data(),
)
def test_any_rows_in_any_order_come_back(
    tmp_path_factory: pytest.TempPathFactory, images: int, layouts: list[Layout], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    tensors = [draw(layout, images) for layout in layouts]
    for number in range(len(layouts)):
        (folder / f"{number}.bin").touch()
    rows = FeatureRows(folder, layouts, images, writable=True)
    cut = data.draw(st.integers(0, images))
    rows.write(cut, [tensor[cut:] for tensor in tensors])
    rows.write(0, [tensor[:cut] for tensor in tensors])
    rows.close()
    order = data.draw(st.lists(st.integers(0, images - 1), max_size=12))
    read = FeatureRows(folder, layouts, images).read(order)
    for layout, tensor, expected in zip(layouts, read, tensors, strict=True):
        assert tensor.dtype == layout.dtype
        assert torch.equal(tensor, expected[order])
    shutil.rmtree(folder)


def test_a_committed_entry_is_found_again(store: FeatureStore) -> None:
    assert store.find(KEYS["a"]) == (None, None)
    assert store.entries() == []
    tensors = write(store, KEYS["a"])
    again = found(FeatureStore(store.folder, LARGE), KEYS["a"])
    assert (again.layouts, again.images) == (LAYOUTS, IMAGES)
    assert all(map(torch.equal, again.read([5, 0, 1, 2, 5]), [tensor[[5, 0, 1, 2, 5]] for tensor in tensors]))
    (entry,) = store.entries()
    assert (entry.key, entry.title) == (KEYS["a"], f"entry {KEYS['a']}")
    assert entry.bytes >= IMAGES * (24 + 8)
    assert store.clear() >= entry.bytes
    assert list(store.folder.iterdir()) == []


def test_what_is_written_is_stored_in_its_type(store: FeatureStore) -> None:
    layout = (Layout((4,), torch.bfloat16),)
    values = torch.linspace(0, 1, 8).view(2, 4)
    rows = FeatureRows(store.begin(KEYS["a"], layout, 2), layout, 2, writable=True)
    rows.write(0, [values])
    assert torch.equal(rows.read([0, 1])[0], values.bfloat16())
    assert (rows.folder / "0.bin").stat().st_size == 2 * 4 * 2


def test_rows_beyond_the_end_are_an_error(store: FeatureStore) -> None:
    write(store, KEYS["a"])
    with pytest.raises(OSError, match="end before image 6"):
        found(store, KEYS["a"]).read([5, 6])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "a bit": lambda entry: flip_a_bit(entry / "0.bin"),
    "truncated": lambda entry: os.truncate(entry / "0.bin", 100),
    "a file missing": lambda entry: (entry / "1.bin").unlink(),
    "no manifest": lambda entry: (entry / "manifest.json").unlink(),
    "manifest damaged": lambda entry: (entry / "manifest.json").write_bytes(b"\xff{"),
    "manifest of something else": lambda entry: (entry / "manifest.json").write_text("[1]"),
    "manifest empty": lambda entry: (entry / "manifest.json").write_text("{}"),
    "description damaged": lambda entry: (entry / DESCRIPTION).write_text("{"),
    "description missing": lambda entry: (entry / DESCRIPTION).unlink(),
    "empty": lambda entry: [file.unlink() for file in entry.iterdir()],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_entry_is_told_removed_and_can_be_written_again(store: FeatureStore, kind: str) -> None:
    tensors = write(store, KEYS["a"])
    write(store, KEYS["b"])
    DAMAGE[kind](store.folder / KEYS["a"])
    store.entries()  # `hf-tl cache` must not fail on it
    rows, problem = store.find(KEYS["a"])
    assert rows is None
    assert problem is not None
    assert "not whole" in problem
    assert not (store.folder / KEYS["a"]).exists()
    write(store, KEYS["a"])
    assert torch.equal(found(store, KEYS["a"]).read([3])[0], tensors[0][3:4])
    found(store, KEYS["b"])


def test_damage_elsewhere_does_not_stop_a_new_entry(store: FeatureStore) -> None:
    write(store, KEYS["a"])
    (store.folder / KEYS["a"] / DESCRIPTION).write_text("{")
    write(store, KEYS["b"])
    found(store, KEYS["b"])
    store.clear()
    assert list(store.folder.iterdir()) == []


def test_what_was_not_used_for_longest_goes_first(store: FeatureStore) -> None:
    for age, key in enumerate((KEYS["a"], KEYS["b"], KEYS["c"])):
        write(store, key)
        os.utime(store.folder / key, (1000 + age, 1000 + age))
    size = store.entries()[0].bytes
    found(store, KEYS["a"])  # most recently used
    assert [NAMES[entry.key] for entry in store.entries()] == ["a", "c", "b"]
    rows = found(store, KEYS["c"])
    os.utime(store.folder / KEYS["c"], (1002, 1002))
    small = FeatureStore(store.folder, 3 * size + 100)
    write(small, KEYS["d"])
    assert [NAMES[entry.key] for entry in store.entries()] == ["d", "a", "c"]
    small = FeatureStore(store.folder, size + 100)
    write(small, KEYS["e"])
    assert [NAMES[entry.key] for entry in store.entries()] == ["e"]
    assert torch.equal(rows.read([1])[0], draw(LAYOUTS[0], IMAGES)[1:2]), "who reads it must not notice"


def test_an_entry_larger_than_the_limit_is_refused_and_removes_nothing(store: FeatureStore) -> None:
    write(store, KEYS["a"])
    with pytest.raises(OSError, match="--feature_cache_gb is 1e-07"):
        FeatureStore(store.folder, 100).begin(KEYS["b"], LAYOUTS, IMAGES)
    assert left(store.folder) == [KEYS["a"]]


def test_what_killed_processes_left_goes_after_a_day(store: FeatureStore) -> None:
    store.begin(KEYS["old"], LAYOUTS, IMAGES)
    yesterday = time.time() - 25 * 3600
    os.utime(store.folder / f".partial-{KEYS['old']}", (yesterday, yesterday))
    store.begin(KEYS["new"], LAYOUTS, IMAGES)
    assert left(store.folder) == [f".partial-{KEYS['new']}"]
    store.discard(KEYS["new"])
    assert left(store.folder) == []


def test_the_key_depends_on_every_part() -> None:
    parts = [{"a": 1}, {"a": 2}, {"b": 1}, {"a": 1, "b": 1}, {"a": [1]}]
    assert len({key_of(part) for part in parts}) == len(parts)
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


WRITE = """
import os, sys, time
from pathlib import Path
import torch
from hf_tl.features import feature_store
from hf_tl.features.feature_store import FeatureRows, FeatureStore, Layout

store, key = FeatureStore(Path(sys.argv[1]), 10**9), sys.argv[3]
layouts = [Layout((1000,), torch.float32)]
moment = sys.argv[2]

def told(name):
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
    told("begun")
    rows.write(0, [torch.full((50, 1000), 7.0)])
    told("written")
    if moment == "slow":
        sys.stdin.readline()
    replace = os.replace
    os.replace = lambda *paths: (told("before the rename"), replace(*paths))
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
def test_a_kill_leaves_nothing_that_is_found(store: FeatureStore, moment: str) -> None:
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
    found(store, KEYS["a"])
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


def left(folder: Path) -> list[str]:
    """Return the names of the files, without locks."""
    return [path.name for path in folder.iterdir() if not path.name.endswith(".lock")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]).returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_found_at_the_beginning(small_disk: Path) -> None:
    store = FeatureStore(small_disk / "features", LARGE)
    with pytest.raises(OSError, match="No space left"):
        store.begin(KEYS["a"], [Layout((1000,), torch.float32)], 100)
    assert left(store.folder) == []


def test_a_disk_that_is_full_at_the_end_leaves_the_rest(small_disk: Path) -> None:
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
    assert left(store.folder) == [KEYS["a"]]
    found(store, KEYS["a"])


def test_a_read_only_disk(small_disk: Path) -> None:
    store = FeatureStore(small_disk, LARGE)
    write(store, KEYS["a"])
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OSError, match="Read-only"):
        store.begin(KEYS["b"], LAYOUTS, IMAGES)
    with pytest.raises(OSError, match="Read-only"):
        store.lock(KEYS["b"]).acquire()
    assert torch.equal(found(store, KEYS["a"]).read([2])[0], draw(LAYOUTS[0], IMAGES)[2:3])


LIMITED = """
import resource, signal, sys
from pathlib import Path
import torch
from hf_tl.features.feature_store import FeatureStore, Layout
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
store = FeatureStore(Path(sys.argv[1]), 10**9)
try:
    store.begin("a" * 40, [Layout((1000,), torch.float32)], 100)
except OSError as error:
    print(error.strerror)
"""


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "File too large\n", done.stderr
    assert left(tmp_path) == []


def test_clearing_leaves_other_files_and_what_is_being_computed(store: FeatureStore) -> None:
    """The user may have named any folder."""
    write(store, KEYS["a"])
    for key in ("old", "new"):
        store.begin(KEYS[key], LAYOUTS, IMAGES)
    (store.folder / "thesis").mkdir()
    (store.folder / "thesis" / "thesis.tex").write_text("years of work")
    (store.folder / "notes.txt").write_text("more of it")
    with store.lock(KEYS["new"]):
        assert [NAMES[entry.key] for entry in store.entries()] == ["a"]
        assert store.clear() > 0
        assert sorted(left(store.folder)) == [f".partial-{KEYS['new']}", "notes.txt", "thesis"]
    assert (store.folder / "thesis" / "thesis.tex").read_text() == "years of work"
    store.clear()
    assert sorted(left(store.folder)) == ["notes.txt", "thesis"]
    with pytest.raises(OSError, match="feature_cache_gb"):
        FeatureStore(store.folder, 10).begin(KEYS["a"], LAYOUTS, IMAGES)
    write(FeatureStore(store.folder, 400), KEYS["b"])
    assert (store.folder / "notes.txt").exists()


def test_the_description_names_what_the_entry_was_made_of(store: FeatureStore) -> None:
    write(store, KEYS["a"])
    content = json.loads((store.folder / KEYS["a"] / DESCRIPTION).read_text())
    assert content["made of"] == {"key": KEYS["a"]}
