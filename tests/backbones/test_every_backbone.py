"""Every kind of backbone: a step changes only trained tensors, and a saved model loads in both libraries."""

from pathlib import Path

import pytest
import timm
import torch
import transformers
from backbones import zoo
from backbones.checks import check_saved, check_step
from backbones.reload import Reloader
from timm.models import model_entrypoint
from transformers import PreTrainedModel

from hf_tl.backbones.describe import describe_stages
from hf_tl.backbones.libraries.preprocessing import Preprocessing
from hf_tl.backbones.load import load_backbone
from hf_tl.backbones.stages.freezing import fix_unused, freeze
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.errors import ModelError

ALWAYS = (
    *("deit_tiny_distilled_patch16_224", "googlenet", "lcnet_035", "levit_128s", "mobilevit_xxs", "test_coatnet"),
    *("test_convnext", "test_nfnet", "test_resnet", "test_vit", "vgg11"),
    *("vit_base_patch16_siglip_224", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"),
    *("LevitForImageClassificationWithTeacher", "ResNetForImageClassification", "SiglipForImageClassification"),
    *("SwinForImageClassification", "ViTForImageClassification"),
)
"""A tenth of the backbones, with all kinds of heads, stages and norms."""
CLASSICS = ("alexnet", "googlenet", "zfnet")
UNTRAINED = {
    "CLIPForImageClassification": ("vision_model.post_layernorm.",),
    "CvtForImageClassification": ("stages.2.layers.2.attention.attention.convolution_projection_query.",),
    "Dinov2ForImageClassification": ("mask_token",),
    "Dinov2WithRegistersForImageClassification": ("mask_token",),
    "MetaClip2ForImageClassification": ("vision_model.post_layernorm.",),
    "Siglip2ForImageClassification": ("vision_model.head.",),
    "SiglipForImageClassification": ("vision_model.head.",),
    "SwiftFormerForImageClassification": ("attn.w_g",),
}
"""Parts of the names of parameters without a gradient at any depth, because the logits do not depend on them, by class.
The classifiers of CLIP and SigLIP average the patches, before the norm and the pooling head of the class token. Mask
tokens are for pretraining. CvT's last layer uses only the class token, whose query is not convolved. SwiftFormer
normalizes `query @ w_g` over an axis of length one."""
KINDS = tuple(
    pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in (*zoo.TIMM, *zoo.TRANSFORMERS)
)


def build(name: str) -> tuple[PreTrainedModel, Preprocessing]:
    torch.manual_seed(0)
    return zoo.build_timm(name) if name in zoo.TIMM else zoo.build_transformers(name)


def test_the_zoo_has_every_module_and_class() -> None:
    modules = {model_entrypoint(name).__module__.rpartition(".")[2] for name in zoo.TIMM}
    assert modules == set(timm.list_modules())
    assert {*zoo.TRANSFORMERS, *zoo.REFUSED} == set(zoo.CLASSES)


@pytest.mark.parametrize("name", KINDS)
def test_a_step_at_every_depth(name: str) -> None:
    model, preprocessing = build(name)
    inputs, count = zoo.batch(model, preprocessing), len(list_stages(model))
    for trainable_stages in sorted({1, 2, (count + 1) // 2, count}):
        check_step(model, inputs, trainable_stages, UNTRAINED.get(name, ()))


@pytest.mark.parametrize("name", [kind for kind in KINDS if kind.values[0] not in zoo.NOT_LOADED])
def test_parameters_without_gradients_are_detected_before_training(name: str) -> None:
    """Exactly the parameters that DistributedDataParallel would wait for."""
    model, preprocessing = build(name)
    inputs = zoo.batch(model, preprocessing)
    freeze(model, 1)
    state, flags = torch.get_rng_state(), [parameter.requires_grad for parameter in model.parameters()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    unused = fix_unused(model, inputs["pixel_values"][:2])
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    freeze(model, "all")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained.isdisjoint(unused)
    for name in unused:
        model.get_parameter(name).requires_grad_(True)
    model.train()(**inputs).logits.sum().backward()
    assert {name for name in trained if model.get_parameter(name).grad is None} == set()
    assert {name for name in unused if model.get_parameter(name).grad is not None} == set()


@pytest.mark.parametrize("name", KINDS)
def test_saved_models_load_anywhere(name: str, plain: Reloader, with_classics: Reloader, tmp_path: Path) -> None:
    model, preprocessing = build(name)
    inputs = zoo.batch(model, preprocessing)
    model.train()(**inputs)  # gives the norms statistics of their own
    freeze(model.eval(), 1)
    reloader = with_classics if name in CLASSICS else plain
    check_saved(model, preprocessing, inputs, reloader, tmp_path, takes_images=name not in zoo.NOT_LOADED)


@pytest.mark.parametrize("name", zoo.NOT_LOADED)
def test_models_that_need_more_than_images_are_refused_at_loading(name: str, tmp_path: Path) -> None:
    model, _ = zoo.build_transformers(name)
    model.save_pretrained(tmp_path)
    zoo.processor_for(name).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=zoo.NOT_LOADED[name]):
        load_backbone(str(tmp_path), zoo.LABELS)


@pytest.mark.parametrize("name", zoo.REFUSED)
def test_classes_without_stages_are_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    cls = getattr(transformers, name)
    cls.config_class(architectures=[name]).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=zoo.REFUSED[name]):
        describe_stages(str(tmp_path))
