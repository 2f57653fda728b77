"""Checkpoints of every form, and processes that load the models that the tests of this folder save."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.register_assert_rewrite("backbones.checks", "backbones.parts")

from backbones.checkpoints import (  # noqa: E402
    LABELS,
    save_timm,
    save_transformers,
    save_wrapper,
    timm_network,
    tiny_resnet,
    tiny_vit,
)
from backbones.reload import Reloader  # noqa: E402


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloader]:
    """Yield a process without hf_tl."""
    with Reloader(tmp_path_factory.mktemp("plain")) as reloader:
        yield reloader


@pytest.fixture(scope="session")
def with_classics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloader]:
    """Yield a process that has imported `hf_tl.classics`."""
    with Reloader(tmp_path_factory.mktemp("classics"), has_classics=True) as reloader:
        yield reloader


@pytest.fixture(params=["timm", "wrapper", "vit", "resnet"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """Return a folder, and its weights under the names of the loaded model."""
    folder = tmp_path / "checkpoint"
    if request.param in ("timm", "wrapper"):
        network = timm_network()
        save_timm(network, folder) if request.param == "timm" else save_wrapper(
            network, folder, dict(enumerate(LABELS))
        )
        return folder, {f"timm_model.{name}": tensor for name, tensor in network.state_dict().items()}
    model = tiny_vit() if request.param == "vit" else tiny_resnet()
    return save_transformers(model, folder), dict(model.state_dict())
