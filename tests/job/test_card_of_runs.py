"""Cards of runs from Python: the name of the dataset, and the origin of cached features."""

from pathlib import Path
from typing import Any

import pytest
import torch
from job.small_data import QUICK, backbone, make_dataset

import hf_tl
from hf_tl.errors import ConfigError
from hf_tl.strategy import Strategy

HEAD = Strategy.transfer(epochs=2)


def card_of(folder: Path, **settings: Any) -> str:
    torch.manual_seed(0)
    hf_tl.train(backbone()[0], make_dataset(), HEAD, output_dir=str(folder), **{**QUICK, **settings})
    return (folder / "README.md").read_text(encoding="utf-8")


def test_a_loaded_dataset_has_the_name_that_the_user_gave(tmp_path: Path) -> None:
    assert "trained on `small pets` with hf_tl" in card_of(tmp_path / "named", dataset_name="small pets")
    card = card_of(tmp_path / "unnamed")
    assert "trained on `in-memory dataset` with hf_tl" in card
    assert "datasets:" not in card, "it is no dataset of the Hub"


def test_a_dataset_with_a_name_takes_no_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave out dataset_name="):
        hf_tl.train(backbone()[0], "digits", HEAD, dataset_name="numbers", output_dir=str(tmp_path / "out"))


def test_costs_name_features_of_an_earlier_run(tmp_path: Path) -> None:
    settings = {"feature_cache": "on", "feature_cache_dir": str(tmp_path / "cache")}
    first, second = (card_of(tmp_path / name, **settings) for name in ("first", "second"))
    assert "with one pass of the images through the frozen stages" in first
    assert "the frozen features came from the cache of an earlier run" in second
    assert "per second" not in first + second
