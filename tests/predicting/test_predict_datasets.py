"""Predictions of the images of a dataset, by its name: labels are not needed, and rows are read as they are needed."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backbones.checkpoints import save_timm, timm_network
from cli.runs import fails
from datasets import Dataset
from datasets import Image as ImageFeature
from hub.client import TOKEN, environment
from hub.server import HubServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import hf_tl
from hf_tl.cli import main
from hf_tl.data.streaming import rows as streamed
from hf_tl.errors import DataError
from hf_tl.predicting.inputs import collect_images, open_dataset
from hf_tl.predicting.parts import Parts
from hf_tl.predicting.predict import Predictor

ROOT = Path(__file__).parents[2]
COUNT = 1_100
PROGRAM = """
import os
import sys
from pathlib import Path

from datasets import Dataset

from hf_tl.cli import main

rows = Dataset.from_parquet(sys.argv[1])
rows.push_to_hub("user/unlabeled", "small", split="everything")
rows.select(range(9)).push_to_hub("user/unlabeled", "other", split="everything")
words = ["--dataset", "user/unlabeled", "--dataset_config", "small"]
data = {path for path in Path(os.environ["HF_HOME"]).rglob("*") if path.suffix in (".arrow", ".parquet")}
main(["predict", sys.argv[2], *words, "--streaming", "--output", "streamed.jsonl"])
assert {path for path in Path(os.environ["HF_HOME"]).rglob("*") if path.suffix in (".arrow", ".parquet")} == data
main(["predict", sys.argv[2], *words, "--output", "hub.jsonl"])
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(COUNT)]
    return Dataset.from_dict({"number": range(COUNT), "photo": images}).cast_column("photo", ImageFeature())


@pytest.fixture(scope="module")
def file(rows: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parquet") / "unlabeled.parquet"
    rows.to_parquet(path)
    return path


@pytest.fixture
def shards(rows: Dataset, tmp_path: Path) -> Path:
    """Write three files of unequal size with several row groups."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for number, (start, stop) in enumerate(pairwise((0, 450, 453, COUNT))):
        rows.select(range(start, stop)).to_parquet(folder / f"train-{number}.parquet", batch_size=100)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm(timm_network(), tmp_path_factory.mktemp("model") / "model")


def read(table: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in table.read_text("utf-8").splitlines()]


def test_unlabeled_parquet_files_are_predicted(model: Path, file: Path, rows: Dataset, tmp_path: Path) -> None:
    main(["predict", str(model), "--dataset", str(file), "--output", str(tmp_path / "a.jsonl")])
    table = read(tmp_path / "a.jsonl")
    assert [row["image"] for row in table] == [f"row {number} of train" for number in range(COUNT)]
    expected = hf_tl.predict(model, rows)
    assert [row["label"] for row in table] == [prediction.label for prediction in expected]


def test_a_hub_dataset_is_predicted(model: Path, file: Path, rows: Dataset, tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub", tokens={TOKEN: {"name": "user", "role": "write"}}) as server:
        env = environment(server.url, tmp_path / "home") | {"PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-c", PROGRAM, str(file), str(model)]
        done = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = hf_tl.predict(model, rows)
    assert [row["label"] for row in read(tmp_path / "hub.jsonl")] == [prediction.label for prediction in expected]
    assert (tmp_path / "streamed.jsonl").read_text() == (tmp_path / "hub.jsonl").read_text()


def test_parts_of_a_dataset_are_found_again(model: Path, file: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(model)

    def open_parts(split: str | None = None) -> Parts:
        images = open_dataset(str(file), split)
        return Parts.open(tmp_path / "table.csv", predictor.table, images, predictor.identity)

    parts, images = open_parts(), open_dataset(str(file))
    part = parts.missing()[1]
    predictions = [each for batch in predictor.batches(images[part.start : part.stop]) for each in batch]
    assert [each.image for each in predictions] == [f"row {number} of train" for number in part]
    parts.write(part, predictions)
    assert open_parts("train").done == len(part)
    other = file.with_name("other.parquet")
    Dataset.from_parquet(str(file)).select(range(COUNT)[::-1]).to_parquet(other)
    others = open_dataset(str(other))
    assert Parts.open(tmp_path / "table.csv", predictor.table, others, predictor.identity).done == 0


@given(cuts=st.lists(st.tuples(st.integers(0, COUNT), st.integers(0, COUNT)), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_streamed_rows_are_those_of_the_dataset(shards: Path, cuts: list[tuple[int, int]]) -> None:
    stored, streamed = open_dataset(str(shards)), open_dataset(str(shards), streaming=True)
    assert len(stored) == len(streamed) == COUNT
    for start, stop in cuts:
        stored, streamed = stored[start:stop], streamed[start:stop]
        assert list(streamed) == list(stored)
    if len(streamed):
        assert streamed[-1] == stored[-1]


def test_a_stream_of_other_rows_has_another_identity(shards: Path) -> None:
    images = open_dataset(str(shards), streaming=True)
    identities = [images.identity, images[:-1].identity, images[1:].identity, images[5:9].identity]
    assert len({*identities}) == len(identities)
    assert open_dataset(str(shards), streaming=True)[5:9].identity == identities[-1]


def test_a_stream_is_read_once(model: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part of 512 images is written apart, and a row group may hold all images."""
    opened, table = [], tmp_path / "a.jsonl"
    open_ = streamed._open

    def counted(path: str, block_size: int | None = None) -> Any:
        opened.append(block_size)
        return open_(path, block_size)

    monkeypatch.setattr(streamed, "_open", counted)
    main(["predict", str(model), "--dataset", str(file), "--streaming", "--output", str(table)])
    assert opened == [streamed.BLOCK, None], "its end once, and its images once"
    assert len(read(table)) == COUNT


def test_files_of_a_stream_count_as_often_as_they_are_named(shards: Path) -> None:
    names = ",".join(str(shards / f"train-{number}.parquet") for number in (1, 0, 1))
    stored, streamed_twice = open_dataset(names), open_dataset(names, streaming=True)
    assert len(streamed_twice) == 456
    assert list(streamed_twice) == list(stored)


def test_what_a_stream_cannot_read_is_named(rows: Dataset, shards: Path, tmp_path: Path) -> None:
    rows.select([]).to_parquet(shards / "test-0.parquet")
    with pytest.raises(DataError, match="the split test of"):
        open_dataset(str(shards), "test", streaming=True)
    assert len(open_dataset(str(shards), "train", streaming=True)) == COUNT
    with pytest.raises(DataError, match="found int64 in the column 'number'"):
        open_dataset(str(shards), "train", image_column="number", streaming=True)
    rows.rename_column("photo", "picture").to_parquet(shards / "train-9.parquet")
    with pytest.raises(DataError, match="one image column in all files, found photo, picture"):
        open_dataset(str(shards), "train", streaming=True)
    paths = Dataset.from_dict({"file": ["a.png"], "photo": ["b.png"]})
    paths.to_parquet(tmp_path / "paths.parquet")
    with pytest.raises(DataError, match="found string in the column 'photo'"):
        open_dataset(str(tmp_path / "paths.parquet"), image_column="photo", streaming=True)


def test_a_file_that_lost_rows_is_named(rows: Dataset, shards: Path) -> None:
    images = open_dataset(str(shards), streaming=True)
    rows.select(range(420)).to_parquet(shards / "train-0.parquet", batch_size=100)
    with pytest.raises(DataError, match=r"train-0\.parquet of shards was changed"):
        list(images)


def test_a_stream_that_breaks_off_is_named(shards: Path) -> None:
    images = open_dataset(str(shards), streaming=True)
    file = sorted(shards.iterdir())[1]
    content = file.read_bytes()
    file.write_bytes(content[:200] + bytes(len(content) // 2) + content[200 + len(content) // 2 :])
    with pytest.raises(DataError, match="the dataset 'shards' cannot be loaded"):
        list(images)
    file.unlink()
    with pytest.raises(DataError, match="the dataset 'shards' cannot be"):
        list(images)


def test_rows_are_named_alike_in_any_slice(rows: Dataset) -> None:
    images = collect_images(rows)
    names = [image.name for image in images]
    assert [images[number].name for number in (0, 7, -1)] == [names[0], names[7], names[-1]]
    assert [image.name for image in images[5:9][1:3]] == names[6:8]
    assert len(images[COUNT - 2 : COUNT + 5]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "PATH... missing; write hf-tl predict MODEL PATH... [flags], or name a --dataset"),
        (["a.png", "--dataset", "digits"], "expected paths of images or --dataset, found both"),
        (["a.png", "--split", "test"], "--split needs --dataset"),
        (["a.png", "--streaming"], "--streaming needs --dataset"),
        (["--dataset", "digits", "--streaming"], "--streaming reads datasets of the Hub and parquet files"),
        (["--dataset", "digits"], "expected --split with one of train, test for digits, found none"),
        (["--dataset", "digits", "--split", "val"], "expected --split with one of train, test for digits, found val"),
        (["--dataset", "digits", "--split", "test", "--image_column", "photo"], "--image_column"),
    ],
)
def test_flags_that_name_no_images_are_refused(
    model: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fails(["predict", str(model), *words], capsys)
