"""Embeddings of images: the inputs of a model's last layer, beside the predictions."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from backbones.checkpoints import save_timm, timm_network
from cli.runs import fails
from exporting.models import write_images
from pyarrow import parquet

import hf_tl
from hf_tl.cli import main
from hf_tl.errors import ConfigError


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("photos"), train=3, test=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm(timm_network(), tmp_path_factory.mktemp("model") / "model")


def test_the_last_layer_makes_the_probabilities_of_the_embeddings(model: Path, photos: Path) -> None:
    plain, result = hf_tl.predict(model, photos), hf_tl.predict(model, photos, embeddings=True)
    assert plain[0].embedding is None
    head = timm_network().get_classifier()
    loaded, _ = hf_tl.load(model)
    head.load_state_dict(loaded.timm_model.get_classifier().state_dict())
    assert [each.labels for each in result] == [each.labels for each in plain]
    for prediction, expected in zip(result, plain, strict=True):
        assert prediction.embedding is not None
        assert prediction.embedding.dtype == np.float32
        with torch.inference_mode():
            shares = head(torch.from_numpy(prediction.embedding)).softmax(0).sort(descending=True).values
        assert shares.numpy() == pytest.approx(expected.probabilities, abs=1e-5)


def test_every_table_holds_them(model: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_bytes(b"no image")
    result = hf_tl.predict(model, photos, embeddings=True)
    rows = {}
    for suffix in ("csv", "jsonl", "parquet"):
        with pytest.raises(SystemExit):
            main(["predict", str(model), str(photos), "--embeddings", "--output", str(tmp_path / f"a.{suffix}")])
    rows["parquet"] = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    rows["jsonl"] = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text("utf-8").splitlines()]
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        texts = [row["embedding"] for row in csv.DictReader(file)]
    rows["csv"] = [{"embedding": [float(value) for value in text.split("|")] if text else None} for text in texts]
    (photos / "broken.png").unlink()
    for table in rows.values():
        assert len(table) == len(result)
        for row, prediction in zip(table, result, strict=True):
            if prediction.error is not None:
                assert row["embedding"] is None
            else:
                assert row["embedding"] == pytest.approx(prediction.embedding, abs=1e-6)


def test_what_has_no_embeddings_is_named(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = fails(["predict", str(model), str(photos), "--embeddings"], capsys)
    assert "--embeddings are written to a table: name one with --output" in message
    exported = hf_tl.export(model, "torch_export", tmp_path / "exported", dataset=str(photos))
    with pytest.raises(ConfigError, match=r"model\.pt2 gives no embeddings: name the model's folder"):
        hf_tl.predict(exported, photos, embeddings=True)
