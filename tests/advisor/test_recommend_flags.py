"""Flags of `hf-tl recommend`: the printed command, the files, and the feature cache."""

import json
import resource
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator
from advisor.colored_images import NAMES, colored, write_colored

import hf_tl
from hf_tl.advisor.advice import take_advice
from hf_tl.advisor.recommendation import FIGURE, RECORD
from hf_tl.backbones.candidates import Backbone, candidates
from hf_tl.cli import main
from hf_tl.config import RECOMMENDED_STRATEGY as STRATEGY
from hf_tl.config import RunConfig, StrategyConfig, TrainingConfig
from hf_tl.data.datasets import load_data
from hf_tl.errors import ConfigError
from hf_tl.features.feature_store import open_store
from hf_tl.record import read_record, split_digest

SMALL = ["--report_to", "none", "--cpu_threads", "1"]
"""Flags of small runs: on a busy machine, two threads wait for each other."""


def test_the_command_line_prints_a_command_that_trains(
    backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_colored(tmp_path / "colors", dict.fromkeys(NAMES, 25))
    out = tmp_path / "out"
    main(["recommend", "--trial_budget", "0", "--dataset", str(folder), "--model", backbone, "--output_dir", str(out)])
    printed = capsys.readouterr().out
    [line] = [line for line in printed.splitlines() if line.startswith("Train")]
    words = line.split()[1:]
    assert words[:2] == ["hf-tl", "train"]
    model = tmp_path / "model"
    main([*words[1:], "--num_train_epochs", "1", "--output_dir", str(model), *SMALL])
    strategy = json.loads((out / STRATEGY).read_text())
    assert json.loads((model / "run.json").read_text())["strategy"]["name"] == strategy["name"]


def test_the_command_names_what_decides_the_splits(
    backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The advisor must not use the test images of the training that it recommends."""
    folder, out = write_colored(tmp_path / "colors", dict.fromkeys(NAMES, 25)), tmp_path / "out"
    flags = ["--seed", "3", "--test_fraction", "0.3", "--output_dir", str(out)]
    main(["recommend", "--trial_budget", "0", "--dataset", str(folder), "--model", backbone, *flags])
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Train")]
    assert "--test_fraction 0.3 --seed 3" in line
    assert "--validation_fraction" not in line
    data = load_data(str(folder), seed=3, test_fraction=0.3)
    record = json.loads((out / RECORD).read_text())
    assert record["data"]["splits"] == {split: split_digest(digests) for split, digests in data.digests.items()}
    model = tmp_path / "model"
    main([*line.split()[2:], "--num_train_epochs", "1", "--output_dir", str(model), *SMALL])
    test = read_record(model).data.splits["test"]
    assert test.digest == record["data"]["splits"]["test"]
    for split in ([], ["--seed", "3"], ["--seed", "3", "--test_fraction", "0.2"]):
        wrong = ["train", "--model", backbone, "--dataset", str(folder), "--recommendation", str(out), *split]
        with pytest.raises(SystemExit):
            main([*wrong, "--output_dir", str(tmp_path / "wrong")])
        assert "is for other splits of colors, and may have used test images of these" in capsys.readouterr().err
    strategy = json.loads((out / STRATEGY).read_text())
    short = {**strategy, "phases": [{**phase, "epochs": 1} for phase in strategy["phases"]]}
    (out / STRATEGY).write_text(json.dumps(short))
    right = ["--seed", "3", "--test_fraction", "0.3", *SMALL, "--output_dir", str(tmp_path / "right")]
    main(["train", "--model", backbone, "--dataset", str(folder), "--recommendation", str(out), *right])


def test_a_folder_that_cannot_be_written_to(backbone: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="is a file; name a folder"):
        hf_tl.recommend(
            "there is none", backbone, output_dir=tmp_path / "file", trial_budget=0
        )  # before anything is loaded
    assert (tmp_path / "file").read_text() == "mine"


def test_an_interrupted_write_leaves_the_earlier_report(backbone: str, tmp_path: Path) -> None:
    first = hf_tl.recommend(colored(np.arange(60) % 3), backbone, output_dir=tmp_path, trial_budget=0)
    (tmp_path / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {RECORD, FIGURE, STRATEGY, "notes.txt"}
    without_training = replace(first, backbone=None, strategy=None, data={**first.data, "name": "other"})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))  # room for the record, not for the figure
    try:
        with pytest.raises(ConfigError, match="cannot be written: File too large"):
            without_training.save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    without_training.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {RECORD, FIGURE, "notes.txt"}
    assert json.loads((tmp_path / RECORD).read_text())["data"]["name"] == "other"


def test_no_path_is_printed_or_saved_that_the_user_did_not_write(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_colored(tmp_path / "colors", dict.fromkeys(NAMES, 25))
    shutil.copy(tmp_path / "colors" / "red" / "3.png", tmp_path / "colors" / "red" / "copy.png")
    shutil.copytree(backbone, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    main(
        [
            "recommend",
            "--trial_budget",
            "0",
            "--dataset",
            "colors",
            "--model",
            "model",
            "missing/model",
            "--output_dir",
            "out",
        ]
    )
    texts = capsys.readouterr().out, (tmp_path / "out" / RECORD).read_text()
    for text in texts:
        assert "hf-tl train --model model --dataset colors --strategy" in text
        assert str(tmp_path) not in text


def test_the_default_backbone_needs_no_weights_in_the_command(tmp_path: Path) -> None:
    """The path of the demo's weights is that of an installed package on this machine."""
    folder = write_colored(tmp_path / "colors", dict.fromkeys(NAMES, 25))
    recommendation = hf_tl.recommend(str(folder), image_size=32, trial_budget=0)
    assert recommendation.command is not None
    assert recommendation.command.startswith(f"hf-tl train --dataset {folder} --image_size 32 --strategy ")
    assert recommendation.candidate is not None
    assert recommendation.candidate.weights is not None
    assert str(Path(recommendation.candidate.weights).parent) not in json.dumps(recommendation.to_record())
    [backbone] = candidates(RunConfig().model, 32)
    assert backbone == recommendation.candidate


def test_the_advisor_follows_the_flags_of_the_feature_cache(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, named = tmp_path / "usual", tmp_path / "named"
    monkeypatch.setenv("HF_TL_CACHE", str(usual))
    data = load_data(colored(np.arange(240) % 3, spread=1))
    small = {"max_images": 60}
    hf_tl.recommend(data, backbone, **small, feature_cache="off", trial_budget=0)
    assert not usual.exists()
    hf_tl.recommend(data, backbone, **small, feature_cache_dir=named, trial_budget=0)
    assert not usual.exists()
    assert [entry.title for entry in open_store(named, 1).entries()] == ["evidence, 60 images at 5 depths"]
    hf_tl.recommend(data, backbone, **small, feature_cache_gb=1e-9, trial_budget=0)
    assert not open_store(usual, 1).entries()
    hf_tl.recommend(data, backbone, **small, trial_budget=0)
    assert len(open_store(usual, 1).entries()) == 1


@pytest.mark.parametrize(("flags", "folder"), [({"feature_cache": "off"}, None), ({}, "named")])
def test_a_run_of_auto_follows_them_too(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], folder: str | None
) -> None:
    monkeypatch.setenv("HF_TL_CACHE", str(tmp_path / "usual"))
    data = load_data(colored(np.arange(90) % 3, spread=1))
    training = TrainingConfig(feature_cache_dir=tmp_path / "named", **flags)
    config = RunConfig(strategy=StrategyConfig(strategy="auto", trial_budget=0), training=training)
    take_advice(Accelerator(cpu=True), data, [Backbone(backbone)], config, str(tmp_path / "out"))
    assert {path.name for path in tmp_path.iterdir()} == {"out", *([folder] if folder else [])}
