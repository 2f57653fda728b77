"""Tables that are kept between runs, shared by processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from hf_tl.storage import tables
from hf_tl.storage.tables import KeptTable, clear_tables, list_tables

SCHEMA = pa.schema({"number": pa.int64()})
ADD = """
import sys
import pyarrow as pa
from hf_tl.storage.tables import KeptTable
table = KeptTable("numbers", "numbers", pa.schema({"number": pa.int64()}))
first = int(sys.argv[1])
for number in range(first, first + 20):
    table.update(lambda known: pa.concat_tables([known, pa.table({"number": [number]}, known.schema)]))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_TL_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def make(name: str, count: int = 1000) -> KeptTable:
    table = KeptTable(name, name, SCHEMA)
    table.update(lambda _: pa.table({"number": range(count)}, SCHEMA))
    return table


def test_processes_that_add_rows_at_once_lose_none() -> None:
    processes = [subprocess.Popen([sys.executable, "-c", ADD, str(first)]) for first in (0, 100, 200)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    numbers = KeptTable("numbers", "numbers", SCHEMA).read()[0]["number"].to_pylist()
    assert sorted(numbers) == [*range(20), *range(100, 120), *range(200, 220)]


def test_a_table_of_another_schema_or_title_is_empty() -> None:
    make("numbers")
    assert len(KeptTable("numbers", "numbers", SCHEMA).read()[0]) == 1000
    assert KeptTable("numbers", "numbers", pa.schema({"number": pa.int32()})).read()[0].num_rows == 0
    assert KeptTable("numbers", "numbers", SCHEMA.with_metadata({b"version": b"2"})).read()[0].num_rows == 0
    assert KeptTable("numbers", "others", SCHEMA).read() == (pa.table({"number": []}, SCHEMA), None)


def test_the_least_recently_used_tables_are_removed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for days, name in ((3, "a"), (2, "b"), (1, "c")):
        then = time.time() - days * 24 * 3600
        os.utime(make(name).file, (then, then))
    make("a").read()
    monkeypatch.setattr(tables, "LIMIT", 3 * make("a").file.stat().st_size)
    make("d")
    assert sorted(table.title for table in list_tables(cache)) == ["a", "c", "d"]


def test_clear_removes_only_tables(cache: Path) -> None:
    size = make("a").file.stat().st_size
    (cache / "index" / "notes.txt").write_text("mine")
    assert clear_tables(cache) == size
    assert [file.name for file in (cache / "index").iterdir()] == ["notes.txt"]


def test_a_failed_change_keeps_the_table(cache: Path) -> None:
    table = make("a")
    with pytest.raises(ZeroDivisionError):
        table.update(lambda known: known[: 1 // 0])
    assert len(table.read()[0]) == 1000
    assert not list(cache.rglob(".partial-*"))
