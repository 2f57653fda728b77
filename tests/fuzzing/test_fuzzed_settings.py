"""Mutated settings, strategies and records: each is refused by name or read."""

import json
from pathlib import Path

import pytest
from fuzzing.mutations import mutate_bytes, mutate_json
from fuzzing.reading import Mutate, fuzz
from publish.records import make_record

from hf_tl.backbones.weights.provenance import saved_record
from hf_tl.card.card import render_card
from hf_tl.errors import ConfigError, HfTlError
from hf_tl.flags import parse_run_config
from hf_tl.phase import Phase
from hf_tl.record import RunRecord, read_record
from hf_tl.record.inspection import find_inspection
from hf_tl.strategy import Strategy

PHASES = """
name: mine
phases:
  - &base {trainable_stages: 1, steps: 500, augmentation: none}
  - {trainable_stages: 3, epochs: 5, learning_rate: 1e-3, backbone_learning_rate: 1e-4, layer_decay: 0.8, patience: 3}
  - <<: *base
    tuning: {rank: 8, alpha: 4.0, targets: "re:attn", dora: true}
    trainable_stages: [layer4, "head"]
  - trainable_stages: all
    epochs: 2
    augmentation: [RandomRotation: {degrees: 15}, RandomHorizontalFlip]
"""
CONFIG = """
model: timm:resnet50
dataset: photos
seed: 3
strategy: finetune
trainable_stages: 2
learning_rate: 3e-4
phases:
  - {trainable_stages: 1, steps: 500, augmentation: none}
classes: [cat, dog]
push_to_hub: false
"""
AUGMENTATION = """
- RandomResizedCrop: {scale: [0.5, 1.0], ratio: [0.75, 1.33]}
- RandomApply: {transforms: [ColorJitter: {brightness: 0.2}, GaussianBlur: {kernel_size: 3}], p: 0.5}
- preprocessing
- RandomErasing: {p: 0.1}
"""


@pytest.mark.parametrize("as_json", [False, True])
def test_mutated_phases_are_read_or_refused(tmp_path: Path, part: int, as_json: bool) -> None:
    file = tmp_path / ("phases.json" if as_json else "phases.yaml")
    file.write_text(PHASES)
    if as_json:
        file.write_text(json.dumps(Strategy.from_yaml(file).to_record()))
    mutate: Mutate = mutate_json if as_json else mutate_bytes
    fuzz(file, mutate, lambda: repr(Strategy.from_yaml(file).to_record()), part)


def test_mutated_configurations_are_read_or_refused(tmp_path: Path, part: int) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG.replace("classes: [cat, dog]\n", ""))
    fuzz(file, mutate_bytes, lambda: parse_run_config(["--config", str(file)]), part)


def test_mutated_augmentations_are_read_or_refused(tmp_path: Path, part: int) -> None:
    file = tmp_path / "augmentation.yaml"
    file.write_text(AUGMENTATION)
    fuzz(file, mutate_bytes, lambda: Phase(1, epochs=1, augmentation=str(file)).augmentation, part)


def test_mutated_records_are_read_or_refused(tmp_path: Path, part: int) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps(make_record().to_json(), indent=2))

    def read() -> None:
        record = read_record(tmp_path)
        assert RunRecord.from_json(record.to_json()) == record
        assert saved_record(str(tmp_path)) == record
        render_card(record)

    fuzz(file, mutate_json, read, part)


def test_mutated_inspections_are_read_or_refused(tmp_path: Path, part: int) -> None:
    counts = {
        **{"created": "2026-11-29", "version": "1", "model": None, "images": 100, "unreadable": 0, "exact_copies": 1},
        **{"near_duplicates": 2, "different_labels": 0, "across_splits": 1, "label_errors": None, "outliers": 3},
    }
    data = {"nothing": {"fingerprint": "f" * 64, "splits": {"train": "a" * 64, "test": "b" * 64}}}
    file = tmp_path / "inspection.json"
    file.write_text(json.dumps({"counts": counts, "data": data}))

    def read() -> None:
        for folder in (tmp_path, None):
            inspection = find_inspection(folder, "photos", "f" * 64, {"train": "a" * 64, "test": "b" * 64})
            assert folder is None or inspection is not None
            assert inspection is None or inspection.describe()

    fuzz(file, mutate_json, read, part, names=str(tmp_path))


def test_a_reference_that_grows_without_end_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "phases.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 10)]
    file.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"phases\.yaml.*at most 1,000,000 characters"):
        Strategy.from_yaml(file)


def test_a_record_of_more_than_its_limit_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    with open(tmp_path / "run.json", "wb") as file:
        file.truncate(10**12)  # a sparse file
    with pytest.raises(HfTlError, match="at most 34 MB"):
        read_record(tmp_path)
