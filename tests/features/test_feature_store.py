"""Features on disk: read back as written, and found only if written completely."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from features.stored_entries import IMAGES, KEYS, LARGE, LAYOUTS, draw, files_of, open_entry, write
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tl.features.description import DESCRIPTION_FILE, Layout
from hf_tl.features.feature_store import FeatureRows, FeatureStore, key_of

TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8)
NAMES = {key: name for name, key in KEYS.items()}


@settings(deadline=None)  # a disk may be slow
@given(
    images=st.integers(1, 9),
    layouts=st.lists(
        st.builds(Layout, st.lists(st.integers(1, 3), max_size=3).map(tuple), st.sampled_from(TYPES)),
        min_size=1,
        max_size=3,
    ),
    data=st.data(),
)
def test_rows_are_read_back_in_any_order(
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
    again = open_entry(FeatureStore(store.folder, LARGE), KEYS["a"])
    assert (again.layouts, again.images) == (LAYOUTS, IMAGES)
    assert all(map(torch.equal, again.read([5, 0, 1, 2, 5]), [tensor[[5, 0, 1, 2, 5]] for tensor in tensors]))
    (entry,) = store.entries()
    assert (entry.key, entry.title) == (KEYS["a"], f"entry {KEYS['a']}")
    assert entry.bytes >= IMAGES * (24 + 8)
    assert store.clear() >= entry.bytes
    assert list(store.folder.iterdir()) == []


def test_rows_are_stored_in_the_dtype_of_the_layout(store: FeatureStore) -> None:
    layout = (Layout((4,), torch.bfloat16),)
    values = torch.linspace(0, 1, 8).view(2, 4)
    rows = FeatureRows(store.begin(KEYS["a"], layout, 2), layout, 2, writable=True)
    rows.write(0, [values])
    assert torch.equal(rows.read([0, 1])[0], values.bfloat16())
    assert (rows.folder / "0.bin").stat().st_size == 2 * 4 * 2


def test_rows_beyond_the_end_are_an_error(store: FeatureStore) -> None:
    write(store, KEYS["a"])
    with pytest.raises(OSError, match="end before image 6"):
        open_entry(store, KEYS["a"]).read([5, 6])


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
    "description damaged": lambda entry: (entry / DESCRIPTION_FILE).write_text("{"),
    "description missing": lambda entry: (entry / DESCRIPTION_FILE).unlink(),
    "empty": lambda entry: [file.unlink() for file in entry.iterdir()],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_entry_is_reported_removed_and_written_again(store: FeatureStore, kind: str) -> None:
    tensors = write(store, KEYS["a"])
    write(store, KEYS["b"])
    DAMAGE[kind](store.folder / KEYS["a"])
    store.entries()  # `hf-tl cache` must not fail on it
    rows, problem = store.find(KEYS["a"])
    assert rows is None
    assert problem is not None
    assert "incomplete or damaged" in problem
    assert not (store.folder / KEYS["a"]).exists()
    write(store, KEYS["a"])
    assert torch.equal(open_entry(store, KEYS["a"]).read([3])[0], tensors[0][3:4])
    open_entry(store, KEYS["b"])


def test_damage_elsewhere_does_not_stop_a_new_entry(store: FeatureStore) -> None:
    write(store, KEYS["a"])
    (store.folder / KEYS["a"] / DESCRIPTION_FILE).write_text("{")
    write(store, KEYS["b"])
    open_entry(store, KEYS["b"])
    store.clear()
    assert list(store.folder.iterdir()) == []


def test_the_least_recently_used_entry_is_removed_first(store: FeatureStore) -> None:
    for age, key in enumerate((KEYS["a"], KEYS["b"], KEYS["c"])):
        write(store, key)
        os.utime(store.folder / key, (1000 + age, 1000 + age))
    size = store.entries()[0].bytes
    open_entry(store, KEYS["a"])  # most recently used
    assert [NAMES[entry.key] for entry in store.entries()] == ["a", "c", "b"]
    rows = open_entry(store, KEYS["c"])
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
    with pytest.raises(OSError, match="--feature_cache_gb 1e-07"):
        FeatureStore(store.folder, 100).begin(KEYS["b"], LAYOUTS, IMAGES)
    assert files_of(store.folder) == [KEYS["a"]]


def test_remains_of_killed_processes_are_removed_after_a_day(store: FeatureStore) -> None:
    store.begin(KEYS["old"], LAYOUTS, IMAGES)
    yesterday = time.time() - 25 * 3600
    os.utime(store.folder / f".partial-{KEYS['old']}", (yesterday, yesterday))
    store.begin(KEYS["new"], LAYOUTS, IMAGES)
    assert files_of(store.folder) == [f".partial-{KEYS['new']}"]
    store.discard(KEYS["new"])
    assert files_of(store.folder) == []


def test_the_key_depends_on_every_part() -> None:
    parts = [{"a": 1}, {"a": 2}, {"b": 1}, {"a": 1, "b": 1}, {"a": [1]}]
    assert len({key_of(part) for part in parts}) == len(parts)
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


def test_clear_keeps_other_files_and_entries_in_progress(store: FeatureStore) -> None:
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
        assert sorted(files_of(store.folder)) == [f".partial-{KEYS['new']}", "notes.txt", "thesis"]
    assert (store.folder / "thesis" / "thesis.tex").read_text() == "years of work"
    store.clear()
    assert sorted(files_of(store.folder)) == ["notes.txt", "thesis"]
    with pytest.raises(OSError, match="feature_cache_gb"):
        FeatureStore(store.folder, 10).begin(KEYS["a"], LAYOUTS, IMAGES)
    write(FeatureStore(store.folder, 400), KEYS["b"])
    assert (store.folder / "notes.txt").exists()


def test_the_description_names_what_the_entry_was_made_of(store: FeatureStore) -> None:
    write(store, KEYS["a"])
    content = json.loads((store.folder / KEYS["a"] / DESCRIPTION_FILE).read_text())
    assert content["made of"] == {"key": KEYS["a"]}
