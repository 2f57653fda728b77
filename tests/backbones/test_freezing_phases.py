"""Freezing by a phase, with and without low-rank adapters in the model, and settings that do not exist."""

import pytest
import torch
from backbones.steps import SIZE, build, images
from torch import nn
from transformers import PreTrainedModel

import hf_tl
from hf_tl.backbones.stages.adapted import is_adapter, plain_name
from hf_tl.backbones.stages.freezing import freeze
from hf_tl.errors import ConfigError
from hf_tl.lora.layers import adapt

WITH_LORA = hf_tl.Phase(2, 1, tuning=hf_tl.LoRA(2))


def load() -> PreTrainedModel:
    return hf_tl.load_backbone("timm:test_resnet", ["cat", "dog", "owl"], pretrained=False, image_size=SIZE)[0]


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(("setting", "values"), [("norm", "frozen, affine, adapt"), ("batch_norm", "update, keep")])
def test_a_setting_that_does_not_exist_is_refused(setting: str, values: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting} of a phase takes one of {values}, found 'Frozen'"):
        freeze(build(), 2, **{setting: "Frozen"})


def test_a_phase_brings_its_settings() -> None:
    by_phase, by_arguments = build(), build()
    freeze(by_phase, hf_tl.Phase(2, 1, norm="adapt", batch_norm="keep"), "frozen", "update")
    freeze(by_arguments, 2, norm="adapt", batch_norm="keep")
    assert trained(by_phase) == trained(by_arguments) != trained(build())
    modes = [[module.training for module in model.train().modules()] for model in (by_phase, by_arguments)]
    assert modes[0] == modes[1]


def test_a_phase_with_adapters_trains_the_weights_of_a_model_without() -> None:
    """So a model is frozen whose adapters were merged."""
    merged, plain = build(), build()
    freeze(merged, WITH_LORA)
    freeze(plain, 2)
    assert trained(merged) == trained(plain)


def test_only_a_phase_with_adapters_trains_those_of_a_model() -> None:
    model, plain = load(), load()
    freeze(plain, 1)
    head = trained(plain)
    freeze(plain, 2)
    layers = adapt(model, WITH_LORA, images())
    freeze(model, WITH_LORA)
    adapters = {name for name in trained(model) if is_adapter(name)}
    assert len(adapters) == 2 * len(layers) > 0
    assert {plain_name(name) for name in trained(model) - adapters} == head
    freeze(model, hf_tl.Phase(2, 1))
    assert {plain_name(name) for name in trained(model)} == trained(plain)
    freeze(model, WITH_LORA)
    assert {name for name in trained(model) if is_adapter(name)} == adapters


def test_norms_of_adapted_stages_follow_the_setting() -> None:
    """The weights of these stages stay fixed; their norms train where the phase says so."""
    model = load()
    phase = hf_tl.Phase(2, 1, norm="affine", tuning=hf_tl.LoRA(2))
    adapt(model, phase, images())
    freeze(model, phase)
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert {f"{name}.{tensor}" for name in norms for tensor in ("weight", "bias")} <= trained(model)
    weights = {name for name in trained(model) if not is_adapter(name) and name.rpartition(".")[0] not in norms}
    assert {name.rpartition(".")[2] for name in weights} == {"weight", "bias"}
    assert len(weights) == 2  # of the head
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()(images())
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
