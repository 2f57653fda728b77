"""Every architecture of timm and every image classifier of transformers: coverage, head and order of execution.

All are built on the meta device, because the order of module calls depends on shapes, not on values.
"""

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import timm
import torch
import transformers
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

import hf_tl.classics
from hf_tl.backbones.stages.stage import Stage, list_stages, trainable_parameters
from hf_tl.errors import StageError

assert hf_tl.classics  # registers AlexNet, ZFNet and GoogLeNet with timm

ENCODERS = (
    "deepseek_vit_412m_enc",
    "gemma4_vit_167m_enc",
    "gemma4_vit_570m_enc",
    "mobilenetv5_300m_enc",
    "qwen3_vit_88m_enc",
    "qwen3_vit_306m_enc",
    "qwen3_vit_416m_enc",
)
"""Architectures without a classifier in timm's list, whatever `num_classes` is."""
TIMM = [name for name in timm.list_models() if name not in ENCODERS]
SHAPES = [
    "alexnet",
    "beit_base_patch16_224",
    "cait_xxs24_224",
    "coat_mini",
    "convnext_atto",
    "crossvit_tiny_240",
    "deit_tiny_distilled_patch16_224",
    "densenet121",
    "efficientnet_b0",
    "efficientvim_m1",
    "efficientvit_b0",
    "googlenet",
    "hiera_tiny_224",
    "hrnet_w18_small",
    "levit_384_s8",
    "nextvit_small",
    "pnasnet5large",
    "selecsls42",
    "twins_svt_small",
    "vgg11",
    "visformer_tiny",
    "volo_d1_224",
    "xcit_nano_12_p8_224",
    "xception41p",
]
"""One small architecture of each shape that the rule must distinguish."""

CLASSIFIERS = [
    name
    for names in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.values()
    for name in ([names] if isinstance(names, str) else names)
    if name != "TimmWrapperForImageClassification"
]
REFUSED = {
    "DinatForImageClassification": (ImportError, "natten"),
    "ShieldGemma2ForImageClassification": (StageError, "whose shape follows the number of labels"),
}
# their input has 261 and 322 channels, which the default eight attention heads do not divide
PERCEIVER = {"num_cross_attention_heads": 1, "num_labels": 7, "num_latents": 8, "d_latents": 32, "num_blocks": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "PerceiverForImageClassificationLearned": PERCEIVER,
    "PerceiverForImageClassificationFourier": PERCEIVER,
    "PerceiverForImageClassificationConvProcessing": PERCEIVER,
    "ImageGPTForImageClassification": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "Siglip2ForImageClassification": {"vision_config": {"hidden_size": 24, "intermediate_size": 24}},
}


def build_timm(name: str, num_classes: int = 7) -> nn.Module:
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # deprecated names
        return timm.create_model(name, num_classes=num_classes).eval()


def build_transformers(name: str, num_labels: int = 7, device: str = "meta") -> Any:
    cls = getattr(transformers, name)
    with torch.device(device):
        return cls(cls.config_class(**{**CONFIGS.get(name, {}), "num_labels": num_labels})).eval()


def assert_partition(model: nn.Module, stages: tuple[Stage, ...]) -> None:
    for expected, field in (
        (model.named_parameters(), "parameter_names"),
        (model.named_buffers(), "buffer_names"),
    ):
        listed = [name for stage in stages for name in getattr(stage, field)]
        assert sorted(listed) == sorted(name for name, _ in expected)
    assert len(stages) >= 3
    assert all(stage.parameter_names for stage in stages)
    assert len({stage.name for stage in stages}) == len(stages)


def assert_modules_whole(model: nn.Module, stages: tuple[Stage, ...]) -> None:
    """Check that a module with tensors of one stage alone is in exactly that stage, and none is in two."""
    listed = {name: stage for stage in stages for name in stage.module_names}
    assert len(listed) == sum(len(stage.module_names) for stage in stages)
    owner = {name: i for i, stage in enumerate(stages) for name in (*stage.parameter_names, *stage.buffer_names)}
    first = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}
    for path, module in model.named_modules():
        indices = {owner[first[id(t)]] for t in (*module.parameters(), *module.buffers())}
        if len(indices) == 1:
            assert listed[path] is stages[min(indices)]
        elif indices:
            assert path not in listed
        elif not any(True for _ in module.children()):
            assert path in listed


def assert_head(stages: tuple[Stage, ...], before: dict[str, torch.Size], after: dict[str, torch.Size]) -> None:
    assert stages[-1].name == "head"
    assert set(stages[-1].parameter_names) == {name for name in before if before[name] != after.get(name)}


def assert_freezable(stages: tuple[Stage, ...]) -> None:
    for k in range(1, len(stages) + 1):
        expected = {name for stage in stages[-k:] for name in stage.parameter_names}
        assert trainable_parameters(stages, k) == expected == trainable_parameters(stages, stages[-k].name)


def first_calls(model: nn.Module, stages: tuple[Stage, ...], inputs: dict[str, torch.Tensor]) -> Iterator[int]:
    """Yield the stages of the modules with parameters, in the order of their first call in a forward pass."""
    owners: dict[str, set[int]] = {}
    for i, stage in enumerate(stages):
        for name in stage.parameter_names:
            owners.setdefault(name.rpartition(".")[0], set()).add(i)
    calls: dict[str, int] = {}

    def note(path: str, index: int, *_: object) -> None:
        calls.setdefault(path, index)

    for path, module in model.named_modules():
        if path and len(owners.get(path, ())) == 1:
            (index,) = owners[path]
            module.register_forward_pre_hook(partial(note, path, index))
    with torch.no_grad():
        model(**inputs)
    yield from calls.values()


def assert_order(model: nn.Module, stages: tuple[Stage, ...], inputs: dict[str, torch.Tensor]) -> None:
    calls = list(first_calls(model, stages, inputs))
    head = len(stages) - 1
    backbone = [index for index in calls if index != head]
    assert backbone == sorted(backbone)
    assert set(calls) == set(range(len(stages)))
    # with two parallel heads, the norm of the second (part of the backbone) is called after the classifier of the first
    assert all(calls.index(index) < calls.index(head) for index in range(head))


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def check_timm(name: str) -> None:
    model = build_timm(name)
    stages = list_stages(model)
    assert_partition(model, stages)
    assert_modules_whole(model, stages)
    assert_freezable(stages)
    assert_head(stages, shapes(model), shapes(build_timm(name, num_classes=9)))


def check_timm_order(name: str) -> None:
    model = build_timm(name)
    with torch.device("meta"):
        inputs = {"x": torch.empty(1, *model.pretrained_cfg["input_size"])}
    assert_order(model, list_stages(model), inputs)


@pytest.mark.long
@pytest.mark.parametrize("name", TIMM[::10])
def test_stages_of_a_tenth_of_timm(name: str) -> None:
    check_timm(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_stages_of_all_of_timm(name: str) -> None:
    check_timm(name)
    check_timm_order(name)


@pytest.mark.long
@pytest.mark.parametrize("name", SHAPES)
def test_timm_stages_are_in_forward_order(name: str) -> None:
    check_timm_order(name)


@pytest.mark.long
@pytest.mark.parametrize("name", ENCODERS)
def test_timm_encoder_is_refused(name: str) -> None:
    with pytest.raises(StageError, match=r"expected a classifier, found .*Encoder with"):
        list_stages(build_timm(name))


@pytest.mark.long
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_stages_of_every_transformers_class(name: str) -> None:
    if name in REFUSED:
        error, message = REFUSED[name]
        with pytest.raises(error, match=message):
            list_stages(build_transformers(name))
        return
    model = build_transformers(name)
    stages = list_stages(model)
    assert_partition(model, stages)
    assert_modules_whole(model, stages)
    assert_freezable(stages)
    assert_head(stages, shapes(model), shapes(build_transformers(name, num_labels=9)))


def inputs_of(name: str, model: Any, device: str) -> dict[str, torch.Tensor]:
    config = getattr(model.config, "vision_config", model.config)
    size = getattr(config, "image_size", None) or 224
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    with torch.device(device):
        if name == "ImageGPTForImageClassification":
            return {"input_ids": torch.zeros(1, 16, dtype=torch.long)}
        if name == "Siglip2ForImageClassification":
            patches = torch.zeros(1, 16, 3 * config.patch_size**2)
            mask, grid = torch.ones(1, 16, dtype=torch.long), torch.tensor([[4, 4]])
            return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": grid}
        return {"pixel_values": torch.zeros(1, 3, height, width)}


def check_transformers_order(name: str) -> None:
    device = "cpu" if name in CONFIGS else "meta"  # some networks read tensor values in their forward pass
    model = build_transformers(name, device=device)
    assert_order(model, list_stages(model), inputs_of(name, model, device))


RUNNABLE = [name for name in CLASSIFIERS if name not in REFUSED]


@pytest.mark.long
@pytest.mark.parametrize("name", RUNNABLE[::5])
def test_transformers_stages_are_in_forward_order(name: str) -> None:
    check_transformers_order(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNABLE)
def test_stages_of_every_transformers_class_are_in_forward_order(name: str) -> None:
    check_transformers_order(name)
