"""A record, and a saved model to publish."""

import shutil
from pathlib import Path

import pytest
import torch
from publish.records import LABELS, make_record
from publish.saving import save_model

from hf_tl.backbones.load import load_backbone
from hf_tl.record import RunRecord
from hf_tl.strategy import Strategy


@pytest.fixture
def record() -> RunRecord:
    return make_record()


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run of a tiny timm model, with other leftovers of training."""
    torch.manual_seed(0)
    strategy = Strategy.transfer()
    model, transforms = load_backbone("timm:test_resnet", LABELS, strategy, pretrained=False)
    folder = tmp_path_factory.mktemp("saved") / "out"
    save_model(model, transforms, make_record(), folder)
    (folder / "checkpoints" / "step_1").mkdir(parents=True)
    (folder / "checkpoints" / "step_1" / "optimizer.bin").write_bytes(b"state")
    (folder / "optimizer.safetensors").write_bytes(b"state")
    (folder / "train.log").write_text("log")
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "out dir"))
