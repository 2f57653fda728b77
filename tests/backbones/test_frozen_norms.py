"""Normalization layers of frozen and trained stages: what trains, and which statistics move."""

import pytest
import timm
import torch
from backbones.steps import build, images, snapshot, train_step
from torch import nn

from hf_tl.backbones.stages.freezing import freeze, frozen_tensors, is_norm
from hf_tl.backbones.weights.digest import digest
from hf_tl.strategy import BatchNorm, Norm


@pytest.mark.parametrize("norm", ["frozen", "affine", "adapt"])
def test_norms_of_frozen_stages_follow_the_setting(norm: Norm) -> None:
    model = build()
    freeze(model, 1, norm)
    before, frozen = snapshot(model), digest(frozen_tensors(model))
    train_step(model, images())
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert norms
    expected = {"fc.weight", "fc.bias"}
    if norm != "frozen":
        expected |= {f"{name}.{leaf}" for name in norms for leaf in ("weight", "bias")}
    if norm == "adapt":
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        expected |= {f"{name}.{leaf}" for name in norms for leaf in statistics}
    assert moved == expected
    assert digest(frozen_tensors(model)) == frozen
    model.eval()
    assert not any(module.training for module in model.modules())


def test_norms_change_back_when_frozen_again() -> None:
    model = build()
    freeze(model, 1, "adapt")
    assert model.train().bn1.training
    freeze(model, 1)
    assert not model.train().bn1.training
    assert not model.bn1.weight.requires_grad


@pytest.mark.parametrize("norm", ["affine", "adapt"])
def test_layer_norms_count_as_norms(norm: Norm) -> None:
    model = build("test_vit")
    freeze(model, 1, norm)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    layer_norms = {name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    assert {f"{name}.weight" for name in layer_norms} <= trained
    assert all(name.startswith("head") or name.rpartition(".")[0] in layer_norms for name in trained)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.BatchNorm2d(3), True),
        (nn.LayerNorm(3), True),
        (nn.GroupNorm(1, 3), True),
        (timm.layers.BatchNormAct2d(3), True),
        (timm.layers.LayerNorm2d(3), True),
        (timm.layers.RmsNorm(3), True),
        (timm.layers.ConvNormAct(3, 3), False),
        (timm.layers.NormMlpClassifierHead(3, 2), False),
        (nn.Conv2d(3, 3, 1), False),
        (nn.Dropout(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_norm_is_known_by_name_and_shape(module: nn.Module, expected: bool) -> None:
    assert is_norm(module) is expected


def statistics(model: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {
        name: buffer.clone()
        for name, buffer in model.named_buffers()
        if name.startswith(prefix) and name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }


@pytest.mark.parametrize("batch_norm", ["keep", "update"])
def test_batch_norm_of_trained_stages_follows_the_setting(batch_norm: BatchNorm) -> None:
    model = build()
    freeze(model, 2, batch_norm=batch_norm)
    before, kept = snapshot(model), statistics(model, "layer4")
    assert kept
    train_step(model, images())
    has_moved = {name for name, tensor in statistics(model, "layer4").items() if not torch.equal(tensor, kept[name])}
    assert has_moved == (set() if batch_norm == "keep" else set(kept))
    assert set(kept).issubset(frozen_tensors(model)) == (batch_norm == "keep")
    trained = [name for name, parameter in model.named_parameters() if name.startswith("layer4")]
    assert any("bn" in name for name in trained)
    assert not any(torch.equal(before[name], model.state_dict()[name]) for name in trained)


@pytest.mark.parametrize("batch_norm", ["keep", "update"])
def test_kept_statistics_make_images_independent_of_their_batch(batch_norm: BatchNorm) -> None:
    model, pixels = build(), images()
    freeze(model, "all", batch_norm=batch_norm)
    model.train()
    together, alone = model(pixels), torch.cat([model(pixels[[i]]) for i in range(len(pixels))])
    assert torch.allclose(together, alone, atol=1e-4) == (batch_norm == "keep")


def test_keeping_statistics_is_for_norms_that_have_them() -> None:
    model = build("test_vit")
    freeze(model, "all", batch_norm="keep")
    assert all(module.training for module in model.train().modules())
    model = build()
    freeze(model, "all", batch_norm="keep")
    in_inference = {name for name, module in model.train().named_modules() if not module.training}
    assert {type(dict(model.named_modules())[name]) for name in in_inference} == {nn.BatchNorm2d}
    freeze(model, "all")
    assert all(module.training for module in model.train().modules())
