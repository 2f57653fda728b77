"""Recipes by family: vision transformers train a quarter of their blocks where other networks train a stage."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from backbones import zoo
from backbones.checkpoints import save_timm, timm_network
from job.small_data import QUICK, make_dataset
from transformers import TrainingArguments

import hf_tl
from hf_tl.backbones.stages.family import family_of
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.card.summary import announce
from hf_tl.recipes.families import HIERARCHICAL, Family
from hf_tl.strategy import Strategy
from hf_tl.trainer.arguments import adopt

VIT_S = Family(is_isotropic=True, stages_at_once=4)
TUNING = ("finetune", "gradual", "full", "auto")


def build(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        if name in zoo.TRANSFORMERS:
            cls = getattr(transformers, name)
            return cls(cls.config_class(**zoo.TRANSFORMERS[name]))
        return timm.create_model(name, num_classes=3)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "vit_small_patch16_224",
            "vit_small_patch14_reg4_dinov2",
            "vit_small_patch16_dinov3",
            "beit_base_patch16_224",
        ),
        *("vit_base_patch16_siglip_224", "vit_base_patch16_clip_224", "test_vit", "mixer_s32_224"),
        *("Dinov2ForImageClassification", "ViTForImageClassification", "CLIPForImageClassification"),
    ],
)
def test_stacks_of_equal_blocks_are_isotropic(name: str) -> None:
    model = build(name)
    family, backbone = family_of(model), len(list_stages(model)) - 1
    assert family.is_isotropic
    assert 1 <= family.stages_at_once <= backbone / 4 + 1
    assert 3 * family.stages_at_once < backbone


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "test_convnext", "swin_tiny_patch4_window7_224", "test_efficientnet", "vgg11", "hiera_tiny_224"),
        *("convmixer_768_32", "SwinForImageClassification", "ResNetForImageClassification"),
    ],
)
def test_steps_of_resolution_and_batch_norm_are_hierarchical(name: str) -> None:
    assert family_of(build(name)) == HIERARCHICAL


def test_a_vit_s_trains_its_norm_and_three_blocks_at_once() -> None:
    model = build("vit_small_patch14_dinov2")
    assert family_of(model) == VIT_S
    [_, phase] = Strategy.finetune().resolve(500, family=VIT_S).phases
    trained = [stage.name for stage in list_stages(model)[-int(phase.trainable_stages) :]]
    assert trained == ["blocks.9", "blocks.10", "blocks.11", "norm", "head"]


@pytest.mark.parametrize(
    ("strategy", "depths"),
    [
        (Strategy.finetune(), [1, 5]),
        (Strategy.gradual(), [1, 5, 9, 13, "all"]),
        (Strategy.auto(), [1, 5, 13, "all"]),
        (Strategy.full(), ["all"]),
        (Strategy.finetune(trainable_stages=3), [1, 3]),
        (Strategy.gradual(trainable_stages=7), [1, 5, 7]),
        (Strategy.auto(trainable_stages=(2, "all")), [1, 2, "all"]),
    ],
    ids=str,
)
def test_depths_of_an_isotropic_network(strategy: Strategy, depths: list[Any]) -> None:
    assert [phase.trainable_stages for phase in strategy.resolve(5_000, family=VIT_S).phases] == depths


@pytest.mark.parametrize("images", [50, 5_000, 500_000])
@pytest.mark.parametrize("name", TUNING)
def test_isotropic_networks_always_decay(name: str, images: int) -> None:
    last = Strategy.of(name).resolve(images, family=VIT_S).phases[-1]
    assert (last.layer_decay, last.backbone_learning_rate) == (0.75, 3e-4)
    assert Strategy.of(name, layer_decay=0.9).resolve(images, family=VIT_S).phases[-1].layer_decay == 0.9


@pytest.mark.parametrize("name", [*TUNING, "scratch", "transfer"])
def test_random_weights_and_other_strategies_have_one_recipe(name: str) -> None:
    strategy = Strategy.full() if name == "full" else Strategy.of(name)
    isotropic = strategy.resolve(5_000, pretrained=False, family=VIT_S)
    hierarchical = strategy.resolve(5_000, pretrained=False)
    decays = [[phase.layer_decay for phase in each.phases] for each in (isotropic, hierarchical)]
    assert decays[0] == decays[1]


def test_trainer_follows_the_family(tmp_path: Path) -> None:
    args = TrainingArguments(output_dir=str(tmp_path), report_to=[])
    phases = {
        name: adopt(args, Strategy.finetune(), 5_000, build(name), {}).phases[-1]  # type: ignore[arg-type]
        for name in ("test_vit", "resnet18")
    }
    assert (phases["test_vit"].trainable_stages, phases["test_vit"].layer_decay) == (3, 0.75)
    assert (phases["resnet18"].trainable_stages, phases["resnet18"].layer_decay) == (2, 1)


def test_a_run_records_and_announces_the_recipe_of_its_family(tmp_path: Path) -> None:
    backbone = save_timm(timm_network("test_vit"), tmp_path / "backbone")
    settings = {**QUICK, "save_total_limit": 0, "epochs": 2}
    result = hf_tl.train(str(backbone), make_dataset(), "finetune", output_dir=str(tmp_path / "out"), **settings)
    last = result.record.strategy.phases[-1]
    assert (last.trainable_stages, last.layer_decay) == (3, 0.75)
    text = announce(hf_tl.load(result)[0], result.record.strategy, 1)
    assert (
        "of the last 3 stages\nRates     head 0.001, last backbone stage 0.0003, times 0.75 for each stage before"
        in text
    )
