"""Saved models, one of each library, and images to verify their exports on."""

from pathlib import Path

import pytest
import torch
from backbones.checkpoints import save_timm, save_transformers, timm_network, tiny_vit
from exporting.models import write_images
from publish.records import LABELS, make_record
from publish.saving import save_model

from hf_tl.backbones.load import load_backbone
from hf_tl.strategy import Strategy


@pytest.fixture(scope="session")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "colors")


@pytest.fixture(scope="session")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm(timm_network(), tmp_path_factory.mktemp("timm") / "canary-model")


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_transformers(tiny_vit(), tmp_path_factory.mktemp("vit") / "canary-model")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the folder of a finished run, for one test."""
    torch.manual_seed(0)
    model, transforms = load_backbone("timm:test_resnet", LABELS, Strategy.transfer(), pretrained=False)
    return save_model(model, transforms, make_record(), tmp_path / "out")
