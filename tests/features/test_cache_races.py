"""Processes that compute, read, evict, clear and list the same feature cache and index at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from parts import parts

REPOSITORY = Path(__file__).parents[2]
PROCESSES, ROUNDS = 3, 25
PROGRAM = """
import sys
from pathlib import Path
from random import Random

import pyarrow as pa
import torch

from hf_tl.features.description import Layout
from hf_tl.features.feature_store import FeatureRows, FeatureStore, key_of
from hf_tl.storage.tables import KeptTable, clear_tables, list_tables

folder, rounds, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
random = Random(seed)
IMAGES, LAYOUTS = 40, [Layout((25,), torch.float32), Layout((), torch.int64)]
SIZE = IMAGES * sum(layout.bytes for layout in LAYOUTS)
KEYS = [key_of({"number": number}) for number in range(4)]
stores = [FeatureStore(folder, SIZE * entries + 4000) for entries in (1, 2, 100)]
table = KeptTable("numbers", "numbers", pa.schema({"number": pa.int64(), "square": pa.int64()}))
outcomes = dict.fromkeys(("computed", "read", "gone", "damaged"), 0)


def features(number):
    return [torch.full((IMAGES, 25), float(number)), torch.full((IMAGES,), number)]


def compute(store, number):
    key = KEYS[number]
    with store.lock(key):
        if store.find(key)[0] is not None:
            return
        try:
            rows = FeatureRows(store.begin(key, LAYOUTS, IMAGES), LAYOUTS, IMAGES, writable=True)
            rows.write(0, features(number))
            store.commit(key, f"number {number}", rows, {"number": number})
            outcomes["computed"] += 1
        finally:
            store.discard(key)


def read(store, number):
    rows, damage = store.find(KEYS[number])
    outcomes["damaged"] += damage is not None
    outcomes["gone"] += rows is None
    if rows is None:
        return
    for stored, true in zip(rows.read(range(IMAGES)), features(number), strict=True):
        assert torch.equal(stored, true), f"wrong features of {number}"
    rows.close()
    outcomes["read"] += 1


def index(store, number):
    def add(known):
        numbers = sorted({*known["number"].to_pylist(), number, random.randrange(1000)})
        return pa.table({"number": numbers, "square": [value**2 for value in numbers]})

    table.update(add)
    known, damage = table.read()
    outcomes["damaged"] += damage is not None
    assert all(row["square"] == row["number"] ** 2 for row in known.to_pylist())


def look(store, number):
    store.entries(), store.descriptions(), list_tables(folder)


def clear(store, number):
    store.clear() if random.randrange(2) else clear_tables(folder)


ACTIONS = [compute, compute, read, read, read, index, look, clear]
for _ in range(rounds):
    for action in random.sample(ACTIONS, len(ACTIONS)):
        action(random.choice(stores), random.randrange(len(KEYS)))
print(outcomes)
assert outcomes["damaged"] == 0
assert outcomes["computed"] and outcomes["read"]
"""


@pytest.mark.parametrize("part", parts(20))
def test_a_cache_that_processes_share_gives_right_features_or_none(tmp_path: Path, part: int) -> None:
    environment = {**os.environ, "HF_TL_CACHE": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path), str(ROUNDS), str(PROCESSES * part + seed)],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(PROCESSES)
    ]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
