"""Mutated caches and checkpoints of training: each damaged file is computed again, or refused by name."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from features.stored_entries import IMAGES, KEYS, LARGE, write
from fuzzing.mutations import mutate_bytes, mutate_json, mutate_safetensors
from fuzzing.reading import Mutate, fuzz

from hf_tl.checkpoints.checkpoint import MANIFEST, check_whole, find_damage, newest_checkpoint, write_manifest
from hf_tl.checkpoints.state import STATE, WEIGHTS, Contents, TrainingState, read_state, write_state
from hf_tl.errors import DataError
from hf_tl.features.description import DESCRIPTION_FILE
from hf_tl.features.feature_store import FeatureStore
from hf_tl.record import LearnedFrom
from hf_tl.record.learned import DIGEST_BYTES, LEARNED_FILE
from hf_tl.storage.tables import KeptTable, list_tables

SCHEMA = pa.schema({"path": pa.string(), "size": pa.int64()})


def damaged(name: str) -> DataError:
    """Return an error that stands for a description of damage, so that `fuzz` counts it."""
    return DataError(f"{name} is damaged")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "step-00000007"
    folder.mkdir()
    tensors = {"head.weight": torch.arange(12.0).view(3, 4), "head.bias": torch.zeros(3)}
    states = [{"cpu": torch.get_rng_state()}]
    contents = Contents(TrainingState(step=7, losses=[0.5]), tensors, tensors, {}, {}, None, states)
    write_state(folder, contents, {"seed": 0, "phases": [{"trainable_stages": 1}]})
    write_manifest(folder)
    return folder


def test_mutated_manifests_never_hide_damage(checkpoint: Path, part: int) -> None:
    (checkpoint.parent / "outside.txt").write_text("outside")
    true = json.loads((checkpoint / MANIFEST).read_text())

    def read() -> None:
        damage = find_damage(checkpoint)
        newest, problems = newest_checkpoint(checkpoint.parent)
        assert (newest, len(problems)) == ((checkpoint, 0) if damage is None else (None, 1))
        check_whole(checkpoint)
        assert json.loads((checkpoint / MANIFEST).read_text()).items() <= true.items()

    fuzz(checkpoint / MANIFEST, mutate_json, read, part, names=str(checkpoint))


@pytest.mark.parametrize(("name", "mutate"), [(STATE, mutate_json), (WEIGHTS, mutate_safetensors)])
def test_mutated_states_of_training_are_read_or_refused(checkpoint: Path, part: int, name: str, mutate: Mutate) -> None:
    identity = {"seed": 0, "phases": [{"trainable_stages": 1}]}
    fuzz(checkpoint / name, mutate, lambda: read_state(checkpoint, identity), part, names=str(checkpoint))


@pytest.mark.parametrize(
    ("name", "is_consistent"),
    [(MANIFEST, False), (DESCRIPTION_FILE, False), (DESCRIPTION_FILE, True), ("0.bin", False), ("0.bin", True)],
)
def test_mutated_features_are_computed_again(tmp_path: Path, part: int, name: str, is_consistent: bool) -> None:
    """A consistent entry has a manifest of its mutated files, as a hostile program could write it."""
    store = FeatureStore(tmp_path, LARGE)
    tensors = write(store, KEYS["a"])
    folder = tmp_path / KEYS["a"]
    contents = {file: file.read_bytes() for file in folder.iterdir()}
    original = store.descriptions()

    def read() -> None:
        if is_consistent:
            write_manifest(folder)
        store.entries()
        made_of = store.descriptions()
        rows, problem = store.find(KEYS["a"])
        features = None if rows is None else rows.read(range(min(rows.images, IMAGES)))
        if rows is not None:
            rows.close()
        for file, content in contents.items():
            if file.name != name:
                folder.mkdir(exist_ok=True)
                file.write_bytes(content)
        if problem is not None or features is None:
            assert (rows is None, "damaged" in str(problem)) == (True, True)
            raise damaged(name)
        if not is_consistent:
            assert made_of == original
            assert all(torch.equal(ours, true) for ours, true in zip(features, tensors, strict=True))

    fuzz(folder / name, mutate_json if name.endswith("json") else mutate_bytes, read, part)


def test_mutated_indexes_count_as_absent(feature_cache: Path, part: int) -> None:
    table = KeptTable("sizes of files", "fuzzed", SCHEMA)
    content = pa.table({"path": ["a", "b", "c"], "size": [1, 2, 3]}, SCHEMA)
    table.update(lambda _: content)

    def read() -> None:
        known, damage = table.read()
        assert all(isinstance(kept.title, str) for kept in list_tables(feature_cache))
        if damage is not None:
            assert len(known) == 0
            raise damaged(table.file.name)
        assert known.to_pydict() == content.to_pydict()

    fuzz(table.file, mutate_bytes, read, part)
    table.update(lambda _: content)
    assert table.read()[0].num_rows == 3


def test_mutated_digests_of_training_images_are_read_or_refused(tmp_path: Path, part: int) -> None:
    images = [bytes([number]) * DIGEST_BYTES for number in range(20)]
    learned = LearnedFrom().plus("photos", "train", len(images), images)
    learned.save(tmp_path)

    def read() -> None:
        assert all(len(digest) == DIGEST_BYTES for digest in LearnedFrom.read(learned.splits, tmp_path).digests)

    fuzz(tmp_path / LEARNED_FILE, mutate_bytes, read, part)
