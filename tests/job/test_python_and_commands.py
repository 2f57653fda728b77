"""Python and the command line train to the same weights and metrics; the script that people copy runs."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from backbones.checkpoints import save_timm, timm_network
from job.small_data import LABELS, make_dataset, write_folder

import hf_tl
from hf_tl.cli import main
from hf_tl.record import read_record

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_in_python.py"
FLAGS = ["--per_device_train_batch_size", "8", "--report_to", "none", "--learning_rate", "0.01", "--cpu_threads", "1"]


@pytest.mark.parametrize("strategy", ["transfer", "finetune"])
@pytest.mark.parametrize("seed", [0, 7])
def test_the_same_seed_gives_the_same_model(tmp_path: Path, strategy: str, seed: int) -> None:
    (tmp_path / "net").mkdir()
    net = str(save_timm(timm_network(), tmp_path / "net"))
    images = str(write_folder(make_dataset(60, noise=12), tmp_path / "images"))
    words = ["train", "--model", net, "--dataset", images, "--strategy", strategy, "--seed", str(seed), *FLAGS]
    main([*words, "--epochs", "3", "--output_dir", str(tmp_path / "command")])
    settings: dict[str, Any] = {"report_to": "none", "batch_size": 8, "cpu_threads": 1, "seed": seed}
    chosen: dict[str, Any] = {"epochs": 3, "learning_rate": 0.01}
    hf_tl.train(net, images, strategy, **settings, **chosen, output_dir=str(tmp_path / "name"))
    data = hf_tl.load_data(images, seed=seed)
    plan = hf_tl.Strategy.of(strategy, **chosen)
    model, transforms = hf_tl.load_backbone(net, data.labels, plan, seed=seed)
    hf_tl.train(model, data, plan, transforms=transforms, **settings, output_dir=str(tmp_path / "object"))
    command, *others = (read_record(tmp_path / way) for way in ("command", "name", "object"))
    for record in others:
        assert record.strategy == command.strategy
        assert record.measured["test"].metrics == command.measured["test"].metrics
        assert record.weights_digest == command.weights_digest
    other, _ = hf_tl.load_backbone(net, LABELS, seed=seed + 1)
    assert not other.timm_model.fc.weight.equal(hf_tl.load_backbone(net, LABELS, seed=seed)[0].timm_model.fc.weight)


def test_auto_with_a_loaded_model_searches_without_the_advisor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net").mkdir()
    model, transforms = hf_tl.load_backbone(str(save_timm(timm_network(), tmp_path / "net")), LABELS)
    settings: dict[str, Any] = {"report_to": "none", "batch_size": 8, "cpu_threads": 1, "epochs": 1}
    result = hf_tl.train(
        model, make_dataset(40), "auto", transforms=transforms, output_dir=tmp_path / "out", **settings
    )
    output = capsys.readouterr()
    assert "Searching the stage depth from its defaults: the advisor measures models by their names" in output.out
    assert result.record.recommendation is None
    assert result.record.rungs


def test_the_script_that_people_copy(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    net = str(save_timm(timm_network(), tmp_path / "net"))
    images = str(write_folder(make_dataset(40), tmp_path / "images"))
    words = [images, "--model", net, "--epochs", "1", "--output_dir", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in ("test accuracy ", "1 epoch of the head: trained head", ": predicted "):
        assert text in done.stdout
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) <= 60
