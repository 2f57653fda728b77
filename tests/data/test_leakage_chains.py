"""Chains of trainings on a changing dataset: no training image is evaluated without a warning."""

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features, Image

from hf_tl.data.datasets import ImageData, load_data
from hf_tl.data.learned import Leakage, learn, resolve
from hf_tl.errors import DataError
from hf_tl.evaluation.leakage import drawn_by, measurable, split_again
from hf_tl.record import DataRecord, LearnedFrom, split_digest

CHAINS = 1000
CLASSES = 3
FEATURES = Features({"image": Image(), "label": ClassLabel(names=[f"class {number}" for number in range(CLASSES)])})
Row = tuple[int, int, str]
"""Content, class and file name of an image."""


def encoded(content: int) -> bytes:
    return b"P5 2 2 255\n" + content.to_bytes(4)


def table(rows: list[Row]) -> Dataset:
    rows = sorted(rows, key=lambda row: (row[1], row[2]))  # in the order of files: by folder, then by name
    images = [{"bytes": encoded(content), "path": None} for content, _, _ in rows]
    columns = {"image": images, "label": [label for _, label, _ in rows]}
    return Dataset(pa.Table.from_pydict(columns, FEATURES.arrow_schema), info=DatasetInfo(features=FEATURES))


@dataclass
class Chain:
    """Dataset that changes, and weights that are trained on it repeatedly."""

    choose: random.Random
    folder: Path
    """Folder of the saved model."""
    rows: list[Row] = field(default_factory=list)
    own: dict[str, list[Row]] = field(default_factory=dict)
    truth: set[bytes] = field(default_factory=set)
    learned: LearnedFrom = field(default_factory=LearnedFrom)
    record: DataRecord | None = None
    is_changed: bool = False
    is_pulled: bool = False
    seen: Counter[str] = field(default_factory=Counter)

    def new(self, count: int) -> list[Row]:
        names = (f"{self.choose.getrandbits(32):08x}.png" for _ in range(count))
        return [(self.choose.getrandbits(32), number % CLASSES, name) for number, name in enumerate(names)]

    def dataset(self) -> DatasetDict:
        return DatasetDict({"train": table(self.rows), **{split: table(rows) for split, rows in self.own.items()}})

    def change(self) -> None:
        """Rename, add, copy or remove files, or create splits in the dataset."""
        self.is_changed = True
        kind = self.choose.choice(["rename", "add", "copy", "remove", "own", "merge"])
        if kind == "rename":
            self.rows = [(content, label, name) for (content, label, _), (_, _, name) in
                         zip(self.rows, self.new(len(self.rows)), strict=True)]  # fmt: skip
        elif kind == "add":
            self.rows += self.new(self.choose.randint(1, 9))
        elif kind == "copy":
            copied = self.choose.sample(self.rows, 3)
            self.rows += [(content, label, f"copy of {name}") for content, label, name in copied]
        elif kind == "remove":
            self.rows = self.choose.sample(self.rows, len(self.rows) - 2)
        elif kind == "own":
            split = self.choose.choice(["validation", "test"])
            self.own[split] = [*self.new(6), *self.choose.sample(self.rows, self.choose.randint(0, 6))]
        elif self.own:
            _, rows = self.own.popitem()
            self.rows += rows

    def pull(self) -> None:
        """Publish and pull the model: one digest per split remains."""
        self.learned = LearnedFrom.read(self.learned.splits, None)
        self.is_pulled = bool(self.learned.splits)

    def settings(self) -> dict[str, Any]:
        return {
            "seed": self.choose.randint(0, 4),
            "validation_fraction": self.choose.choice([0.1, 0.3]),
            "test_fraction": self.choose.choice([0.2, 0.5]),
        }

    def train(self) -> int:
        """Train on the dataset from the current weights, possibly with a refit; return violations."""
        included = self.choose.random() < 0.15
        data = load_data(self.dataset(), **self.settings(), learned=self.learned, include_training_images=included)
        self.learned = resolve(self.learned, data)
        data, leakage = measurable(data, {"the starting model": self.learned}, include_training_images=included)
        violations = sum(self.check(data, leakage[split]) for split in ("validation", "test"))
        for split in ("train", "validation") if self.choose.random() < 0.4 else ("train",):
            self.learned = learn(self.learned, data, split)
            self.truth.update(data.digests[split])
        self.record, self.is_changed = data.to_record(), False
        self.learned.save(self.folder)
        self.learned = LearnedFrom.read(self.learned.splits, self.folder)
        self.seen["trained"] += 1
        return violations + self.check(data, measurable(data, {"it": self.learned}, ["test"],
                                                        include_training_images=True)[1]["test"])  # fmt: skip

    def evaluate(self) -> int:
        """Evaluate like `hf-tl evaluate`, or on data with another split; return violations."""
        split, included = self.choose.choice(["test", "test", "validation", "train"]), self.choose.random() < 0.2
        is_own = self.choose.random() < 0.3
        if is_own:
            data = load_data(self.dataset(), **self.settings())
        else:
            by: dict[str, Any] = {**drawn_by(self.record), "learned": self.learned}
            dataset = self.dataset()
            data = split_again(lambda more: load_data(dataset, **by, include_training_images=more), self.record)
        data, leakage = measurable(data, {"the model": self.learned}, [split], include_training_images=included)
        if split == "test" and self.record and not (is_own or included or self.is_changed or self.is_pulled):
            before, after = self.record.splits["test"], split_digest(data.digests["test"])
            if before.source == "drawn":
                self.seen["same test images" if before.digest == after else "other test images"] += 1
        self.seen["evaluated"] += 1
        return self.check(data, leakage[split])

    def check(self, data: ImageData, leakage: Leakage) -> int:
        """Count training images in a split without a warning."""
        inside = sum(digest in self.truth for digest in data.digests[leakage.split])
        assert len(data.splits[leakage.split]) == len(data.digests[leakage.split]) == leakage.measured
        messages = " ".join(leakage.describe())
        assert bool(messages) == bool(leakage.learned or leakage.left_out or leakage.unknown)
        self.seen["left out"] += leakage.left_out
        if leakage.unknown:
            assert self.is_pulled
            assert "hf_tl cannot tell whether" in messages
            self.seen["unknown"] += 1
            return 0
        self.seen["resolved"] += self.is_pulled
        assert leakage.learned <= inside
        return inside - leakage.learned


def walk(seed: int, folder: Path, seen: Counter[str]) -> int:
    """Run a chain; return the number of training images evaluated without a warning."""
    chain = Chain(random.Random(seed), folder, seen=seen)
    chain.rows = chain.new(chain.choose.randint(18, 40))
    violations = 0
    for _ in range(4):
        step = chain.choose.choice([chain.train, chain.train, chain.evaluate, chain.evaluate, chain.change, chain.pull])
        try:
            violations += step() or 0
        except DataError:
            seen["refused"] += 1  # before any training or evaluation
    return violations


@pytest.mark.long
@pytest.mark.parametrize("part", range(4))
def test_nothing_is_measured_on_unannounced(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.fingerprint._CACHING_ENABLED", False)  # hashing each step takes a third of the time
    seen: Counter[str] = Counter()
    violations = {seed: count for seed in range(part, CHAINS, 4) if (count := walk(seed, tmp_path, seen))}
    assert violations == {}
    assert min(seen[name] for name in ("trained", "evaluated", "left out", "same test images", "resolved")) > 15, seen
    assert seen["other test images"] == 0, seen
    assert seen["refused"] < (seen["trained"] + seen["evaluated"]) / 2, seen
