"""Backbone for the tests of the advisor."""

import pytest
from backbones.checkpoints import save_transformers, tiny_resnet


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_transformers(tiny_resnet(), tmp_path_factory.mktemp("resnet")))
