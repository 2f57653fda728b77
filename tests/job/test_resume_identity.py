"""A run resumes only from a checkpoint of the same weights, settings and preprocessing."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backbones.checkpoints import save_weights, timm_network
from job.small_data import QUICK, backbone, make_dataset
from torch.optim.optimizer import register_optimizer_step_post_hook

import hf_tl
from hf_tl.errors import CheckpointError
from hf_tl.strategy import Strategy

STRATEGY = Strategy.full(epochs=2)


@pytest.fixture
def interrupted(tmp_path: Path) -> Callable[..., None]:
    """Return a function that starts a run with SIGTERM after its second step."""

    def run(folder: Path, **settings: Any) -> None:
        count = [0]

        def stop(*_: object) -> None:
            count[0] += 1
            if count[0] == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        hook = register_optimizer_step_post_hook(stop)
        try:
            with pytest.raises(SystemExit):
                train(folder, **settings)
        finally:
            hook.remove()

    return run


def train(folder: Path, weights: Path | None = None, image_size: int = 32, **settings: Any) -> None:
    options: dict[str, Any] = {} if weights is None else {"weights": str(weights), "pretrained": True}
    model, transforms = backbone(image_size=image_size, **options)
    hf_tl.train(model, make_dataset(), STRATEGY, transforms=transforms, output_dir=str(folder), **{**QUICK, **settings})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image_size": 64}, "preprocessing"),
        ({"horizontal_flip": False}, "horizontal_flip"),
        ({"max_grad_norm": 5.0}, "max_grad_norm"),
        ({"decode_reduced": True}, "decode_reduced"),
        ({"seed": 1}, "seed"),
    ],
    ids=str,
)
def test_other_settings_are_refused_by_name(
    tmp_path: Path, interrupted: Callable[..., None], change: dict[str, Any], named: str
) -> None:
    file = save_weights(timm_network(), tmp_path / "mine.safetensors")
    interrupted(tmp_path / "out", weights=file)
    with pytest.raises(CheckpointError, match=named):
        train(tmp_path / "out", weights=file, resume_from_checkpoint="auto", **change)
    train(tmp_path / "out", weights=file, resume_from_checkpoint="auto")


def test_other_weights_are_refused(tmp_path: Path, interrupted: Callable[..., None]) -> None:
    file = save_weights(timm_network(), tmp_path / "mine.safetensors")
    network = timm_network()
    network.layer1[0].conv1.weight.data.mul_(2)
    other = save_weights(network, tmp_path / "other.safetensors")
    interrupted(tmp_path / "out", weights=file)
    with pytest.raises(CheckpointError, match="origin"):
        train(tmp_path / "out", weights=other, resume_from_checkpoint="auto")


def test_settings_that_change_nothing_may_differ(tmp_path: Path, interrupted: Callable[..., None]) -> None:
    file = save_weights(timm_network(), tmp_path / "mine.safetensors")
    interrupted(tmp_path / "out", weights=file)
    train(tmp_path / "out", weights=file, resume_from_checkpoint="auto", save_steps=1, per_device_eval_batch_size=4)
