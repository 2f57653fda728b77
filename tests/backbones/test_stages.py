"""Stages of well-known networks under the names of the field, and of classes missing from every table."""

from typing import Any

import pytest
import timm
import torch
import transformers
from torch import nn

import hf_tl.classics
from hf_tl.backbones.stages.head import head_stages
from hf_tl.backbones.stages.stage import Stage, list_stages
from hf_tl.errors import StageError

pytestmark = pytest.mark.long

assert hf_tl.classics  # registers AlexNet, ZFNet and GoogLeNet with timm


def numbered(name: str, count: int) -> list[str]:
    return [f"{name}.{i}" for i in range(count)]


TIMM = {
    "resnet50": ["stem", "layer1", "layer2", "layer3", "layer4", "head"],
    "resnext50_32x4d": ["stem", "layer1", "layer2", "layer3", "layer4", "head"],
    "vgg16": [
        *("features.0-3", "features.5-8", "features.10-15", "features.17-22", "features.24-29"),
        *("pre_logits", "head"),
    ],
    "alexnet": [
        *("features.0-1", "features.3-4", "features.6-7", "features.8-9", "features.10-11"),
        *("pre_logits", "head"),
    ],
    "googlenet": [
        "stem",
        *("inception3a-inception3b", "inception4a-inception4e", "inception5a-inception5b"),
        "head",
    ],
    "vit_tiny_patch16_224": ["stem", *numbered("blocks", 12), "norm", "head"],
    "mixer_s16_224": ["stem", *numbered("blocks", 8), "norm", "head"],
    "swin_tiny_patch4_window7_224": ["stem", *numbered("layers", 4), "head"],
    "convnext_tiny": ["stem", *numbered("stages", 4), "head"],
    "efficientnet_b0": ["stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3-4", "blocks.5-6", "conv_head", "head"],
    "regnety_008": ["stem", "s1", "s2", "s3", "s4", "head"],
    "pnasnet5large": ["stem", "cell_stem_0", "cell_stem_1-cell_3", "cell_4-7", "cell_8-11", "head"],
    "inception_v3": [
        "stem",
        "Conv2d_3b_1x1-Conv2d_4a_3x3",
        *("Mixed_5b-Mixed_5d", "Mixed_6a-Mixed_6e", "Mixed_7a-Mixed_7c"),
        "head",
    ],
    "densenet121": [
        *("stem", "features.denseblock1"),
        *("features.transition1-denseblock2", "features.transition2-denseblock3", "features.transition3-denseblock4"),
        "head",
    ],
    "xception41": ["stem", "blocks.0", "blocks.1", "blocks.2-10", "blocks.11-12", "head"],
    "hrnet_w18_small": [
        *("stem", "layer1", "transition1-stage2", "transition2-stage3", "transition3-stage4"),
        *("incre_modules-final_layer", "head"),
    ],
    "twins_svt_small": [*numbered("blocks", 4), "head"],
    "coat_mini": [*(f"serial_blocks{i}" for i in range(1, 5)), "parallel_blocks", "head"],
    "samvit_base_patch16_224": ["stem", *numbered("blocks", 12), "neck", "head"],
}


TRANSFORMERS = {
    "ViTForImageClassification": ["stem", *numbered("layers", 12), "layernorm", "head"],
    "ResNetForImageClassification": ["stem", *numbered("encoder.stages", 4), "head"],
    "SwinForImageClassification": ["stem", *numbered("encoder.layers", 4), "head"],
    "ConvNextForImageClassification": ["stem", *numbered("encoder.stages", 4), "head"],
    "DeiTForImageClassificationWithTeacher": ["stem", *numbered("layers", 12), "layernorm", "head"],
    "LevitForImageClassificationWithTeacher": ["stem", *numbered("encoder.stages", 3), "head"],
    "MobileNetV2ForImageClassification": [
        *("stem", "layer.0-1", "layer.2-4", "layer.5-11", "layer.12-15"),
        *("conv_1x1", "head"),
    ],
    "PvtForImageClassification": [*numbered("encoder.block", 4), "head"],
}


def on_meta(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **options)


def classifier(name: str, **options: Any) -> Any:
    cls = getattr(transformers, name)
    with torch.device("meta"):
        return cls(cls.config_class(**options))


def names(stages: tuple[Stage, ...]) -> list[str]:
    return [stage.name for stage in stages]


def stage_of(stages: tuple[Stage, ...], tensor_or_module: str) -> str:
    (name,) = {
        stage.name
        for stage in stages
        if tensor_or_module in (*stage.parameter_names, *stage.buffer_names, *stage.module_names)
    }
    return name


@pytest.mark.parametrize("name", TIMM)
def test_stages_of_timm(name: str) -> None:
    assert names(list_stages(on_meta(name))) == TIMM[name]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_stages_of_transformers(name: str) -> None:
    stages = names(list_stages(classifier(name, num_labels=5)))  # ViT and DeiT had an encoder
    assert [stage.replace("encoder.layer.", "layers.") for stage in stages] == TRANSFORMERS[name]


@pytest.mark.parametrize(
    ("model", "places"),
    [
        ("vit_tiny_patch16_224", {"cls_token": "stem", "pos_embed": "stem", "patch_embed.proj": "stem"}),
        ("convnext_tiny", {"head.norm": "stages.3", "stages.1.downsample": "stages.1", "head.drop": "head"}),
        ("densenet121", {"features.transition1": "features.transition1-denseblock2", "global_pool": "head"}),
        ("resnet50", {"maxpool": "layer1", "bn1": "stem", "layer4.2.act3": "layer4", "bn1.running_mean": "stem"}),
        ("alexnet", {"features.2": "features.3-4", "pre_logits.0": "pre_logits", "features.1": "features.0-1"}),
        ("pnasnet5large", {"cell_4.conv_1x1": "cell_4-7", "cell_stem_1.conv_1x1.act": "cell_stem_1-cell_3"}),
        ("ghostnet_050", {"bn1": "stem", "blocks.8": "blocks.8-conv_head"}),
        ("twins_svt_small", {"patch_embeds.2": "blocks.2", "pos_drops.2": "blocks.2", "pos_block.0": "blocks.0"}),
        ("visformer_tiny", {"patch_embed2": "stage2", "pos_embed3": "stage3", "stem": "stem"}),
        ("efficientvim_m1", {"norm.0": "stages.0", "norm.3": "stages.2", "weights": "stages.2", "heads.0": "head"}),
        ("coat_mini", {"cls_token2": "serial_blocks2", "crpe3": "serial_blocks3", "norm4": "parallel_blocks"}),
        ("levit_384_s8", {"head.bn": "stages.2", "head_dist.bn": "stages.2", "head_dist.linear": "head"}),
    ],
)
def test_modules_and_tensors_are_in_the_stage_where_they_run(model: str, places: dict[str, str]) -> None:
    stages = list_stages(on_meta(model))
    assert {thing: stage_of(stages, thing) for thing in places} == places


def test_modules_that_span_stages_are_in_none() -> None:
    listed = {name for stage in list_stages(on_meta("convnext_tiny")) for name in stage.module_names}
    assert listed.isdisjoint({"", "stages", "head"})
    assert {"stem", "stages.0", "head.fc"} <= listed


def test_stages_of_the_wrapper_are_those_of_its_model() -> None:
    config = transformers.TimmWrapperConfig(architecture="test_resnet", num_labels=3)
    wrapper = transformers.TimmWrapperForImageClassification(config)
    inner = list_stages(wrapper.timm_model)
    outer = list_stages(wrapper)
    assert names(outer) == names(inner) == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    for plain, wrapped in zip(inner, outer, strict=True):
        for field in ("parameter_names", "buffer_names", "module_names"):
            assert tuple(f"timm_model.{name}" for name in getattr(plain, field)) == getattr(wrapped, field)
    listed = [name for stage in outer for name in stage.parameter_names]
    assert sorted(listed) == sorted(name for name, _ in wrapper.named_parameters())


def test_shared_tensors_are_named_once() -> None:
    model = timm.create_model("test_vit")
    model.blocks[1].mlp.fc1.weight = model.blocks[0].mlp.fc1.weight
    stages = list_stages(model)
    assert stage_of(stages, "blocks.0.mlp.fc1.weight") == "blocks.0"
    assert "blocks.1.mlp.fc1.weight" not in {name for stage in stages for name in stage.parameter_names}
    # it trains with the first block, so it is not part of the second alone
    assert "blocks.1.mlp.fc1" not in {name for stage in stages for name in stage.module_names}


def test_listing_leaves_the_model_and_the_random_state_alone() -> None:
    model = classifier("ViTForImageClassification", num_labels=3)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list_stages(model)
    assert torch.equal(torch.rand(3), expected)
    assert model.config.num_labels == 3


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("ViTForImageClassification", {"classifier"}),
        ("SiglipForImageClassification", {"classifier"}),
        ("SwiftFormerForImageClassification", {"head", "dist_head"}),
        ("PPLCNetForImageClassification", {"head"}),
        ("LevitForImageClassificationWithTeacher", {"classifier.linear", "classifier_distill.linear"}),
        ("ImageGPTForImageClassification", {"score"}),
    ],
)
@pytest.mark.parametrize("num_labels", [1, 2, 384, 768, 1280])
def test_head_whatever_the_number_of_labels(name: str, head: set[str], num_labels: int) -> None:
    if not hasattr(transformers, name):
        pytest.skip("this transformers has no such class")
    stages = list_stages(classifier(name, num_labels=num_labels))
    assert {parameter.rpartition(".")[0] for parameter in stages[-1].parameter_names} == head


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("vgg16", 2), ("alexnet", 2), ("zfnet", 2), ("caformer_s18", 2)),
        *(("resnet50", 1), ("vit_tiny_patch16_224", 1), ("swin_tiny_patch4_window7_224", 1)),
        *(("efficientnet_b0", 1), ("efficientvit_b0", 1), ("resnet50_clip", 1)),
    ],
)
def test_fully_connected_part(name: str, expected: int) -> None:
    assert head_stages(list_stages(on_meta(name))) == expected


@pytest.mark.parametrize(("name", "expected"), [("vgg11", 2), ("test_vit", 1), ("caformer_s18", 2)])
def test_fully_connected_part_in_the_wrapper(name: str, expected: int) -> None:
    with torch.device("meta"):
        wrapper = transformers.TimmWrapperForImageClassification(
            transformers.TimmWrapperConfig(architecture=name, num_labels=3)
        )
    assert head_stages(list_stages(wrapper)) == expected


@pytest.mark.parametrize("name", ["ViTForImageClassification", "PerceiverForImageClassificationLearned"])
def test_fully_connected_part_of_transformers_is_the_head(name: str) -> None:
    assert head_stages(list_stages(classifier(name))) == 1


class Block(nn.Module):
    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, stride=stride)


class NewClassifier(transformers.PreTrainedModel):
    """Image classifier of the usual structure."""

    config_class = transformers.ResNetConfig
    base_model_prefix = "new"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.new = nn.Module()
        self.new.patch = nn.Conv2d(3, 4, 1)
        self.new.proj = nn.Conv2d(4, 4, 1)
        self.new.steps = nn.ModuleList([Block(), Block(), Block(stride=2), Block()])
        self.dropout = nn.Dropout()
        self.logits = nn.ModuleList([nn.Linear(4, config.num_labels) for _ in range(2)])


class TwoTowers(NewClassifier):
    """Two lists of blocks, neither of which is most of the model."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.text = nn.Module()
        self.text.steps = nn.ModuleList([Block() for _ in range(4)])


class NoList(NewClassifier):
    """Blocks outside of any list."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.new.steps = nn.Identity()
        self.block1, self.block2 = Block(), Block()


def test_unknown_class_of_the_usual_structure() -> None:
    stages = list_stages(NewClassifier(transformers.ResNetConfig(num_labels=4)))
    assert names(stages) == ["stem", "steps.0-1", "steps.2-3", "head"]
    assert stages[-1].module_names == ("dropout", "logits", "logits.0", "logits.1")


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (TwoTowers, "expected one list of blocks or stages, found new.steps, text.steps in TwoTowers with new"),
        (NoList, "expected one list of blocks or stages, found none in NoList with new"),
    ],
)
def test_unknown_structure_is_an_error_that_shows_it(cls: type[NewClassifier], message: str) -> None:
    with pytest.raises(StageError, match=message):
        list_stages(cls(transformers.ResNetConfig(num_labels=4)))


def test_module_of_neither_library_is_refused() -> None:
    with pytest.raises(StageError, match=r"expected a classifier, found Sequential with 0 \(Linear\)"):
        list_stages(nn.Sequential(nn.Linear(2, 2)))


def test_timm_model_without_classes_is_refused() -> None:
    with pytest.raises(StageError, match="num_classes=0"):
        list_stages(on_meta("test_resnet", num_classes=0))


def test_feature_info_of_missing_modules_is_an_error() -> None:
    model = timm.create_model("test_resnet")
    model.feature_info[1]["module"] = "layer9"
    with pytest.raises(StageError, match=r"feature_info of ResNet with .* names modules that it lacks: layer9"):
        list_stages(model)
