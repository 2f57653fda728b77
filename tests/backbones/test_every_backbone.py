"""Every kind of backbone: a step moves what trains and no bit of the rest, and what is saved loads anywhere."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from backbones import zoo
from backbones.reload import Reloader
from timm.models import model_entrypoint
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_tl.backbones.freezing import freeze
from hf_tl.backbones.preprocessing import Preprocessing
from hf_tl.backbones.stages import list_stages
from hf_tl.publish.save import _write_checkpoint, check_reload

ALWAYS = (
    *("deit_tiny_distilled_patch16_224", "googlenet", "lcnet_035", "levit_128s", "mobilevit_xxs", "test_coatnet"),
    *("test_convnext", "test_nfnet", "test_resnet", "test_vit", "vgg11"),
    *("LevitForImageClassificationWithTeacher", "ResNetForImageClassification", "SiglipForImageClassification"),
    *("SwinForImageClassification", "ViTForImageClassification"),
)
"""A tenth, of all kinds of heads, stages and norms."""
CLASSICS = ("alexnet", "googlenet", "zfnet")
UNTRAINED = {
    "CLIPForImageClassification": ("vision_model.post_layernorm.",),
    "CvtForImageClassification": ("convolution_projection_query.",),
    "Dinov2ForImageClassification": ("mask_token",),
    "Dinov2WithRegistersForImageClassification": ("mask_token",),
    "MetaClip2ForImageClassification": ("vision_model.post_layernorm.",),
    "Siglip2ForImageClassification": ("vision_model.head.",),
    "SiglipForImageClassification": ("vision_model.head.",),
    "SwiftFormerForImageClassification": ("attn.w_g",),
}
"""By class: parts of the names of parameters that get no gradient, whatever is frozen, because the logits do not depend
on them. The classifiers of CLIP and SigLIP average the patches, before the norm and the pooling head of the
class token; mask tokens are for pretraining; of CvT's last layer only the class token is read, whose query is not
convolved; SwiftFormer normalises `query @ w_g` over an axis of length one."""
KINDS = tuple(
    pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in (*zoo.TIMM, *zoo.TRANSFORMERS)
)


def build(name: str) -> tuple[PreTrainedModel, Preprocessing]:
    torch.manual_seed(0)
    return zoo.build_timm(name) if name in zoo.TIMM else zoo.build_transformers(name)


def test_every_module_and_class_is_there() -> None:
    modules = {model_entrypoint(name).__module__.rpartition(".")[2] for name in zoo.TIMM}
    assert modules == set(timm.list_modules())
    assert {*zoo.TRANSFORMERS, *zoo.REFUSED} == set(zoo.CLASSES)


# --- freezing


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def train_step(model: nn.Module, inputs: dict[str, Tensor]) -> None:
    """One step at a rate at which the smallest gradient moves its parameter."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    logits = model(**inputs)[0]
    nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1]).backward()
    assert all(parameter.grad.isfinite().all() for parameter in trained if parameter.grad is not None)
    torch.optim.SGD(trained, lr=1e12).step()


def check_step(model: nn.Module, inputs: dict[str, Tensor], trainable_stages: int, untrained: tuple[str, ...]) -> None:
    stages = list_stages(model)
    frozen, trained = stages[:-trainable_stages], stages[-trainable_stages:]
    assert freeze(model, trainable_stages) == frozen
    model.train()
    modules = dict(model.named_modules())
    assert [name for stage in frozen for name in stage.module_names if modules[name].training] == []
    assert [n for stage in trained for n in stage.module_names if not modules[n].training] == []
    before = {name: tensor.detach().clone() for name, tensor in tensors(model).items()}
    train_step(model, inputs)
    moved = {name for name, tensor in tensors(model).items() if not torch.equal(tensor, before[name])}
    kept = {name for stage in frozen for name in (*stage.parameter_names, *stage.buffer_names)}
    trains = {name for stage in trained for name in stage.parameter_names}
    assert sorted(moved & kept) == []
    assert trains - moved == {name for name in trains if any(part in name for part in untrained)}
    with torch.no_grad():
        for name, tensor in tensors(model).items():
            tensor.copy_(before[name])
    model.zero_grad()


@pytest.mark.parametrize("name", KINDS)
def test_a_step_at_every_depth(name: str) -> None:
    model, preprocessing = build(name)
    inputs, count = zoo.batch(model, preprocessing), len(list_stages(model))
    for trainable_stages in sorted({1, 2, (count + 1) // 2, count}):
        check_step(model, inputs, trainable_stages, UNTRAINED.get(name, ()))


# --- saving


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloader]:
    with Reloader(tmp_path_factory.mktemp("plain")) as reloader:
        yield reloader


@pytest.fixture(scope="module")
def with_classics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloader]:
    with Reloader(tmp_path_factory.mktemp("classics"), classics=True) as reloader:
        yield reloader


@pytest.mark.parametrize("name", KINDS)
def test_saved_models_load_anywhere(name: str, plain: Reloader, with_classics: Reloader, tmp_path: Path) -> None:
    model, preprocessing = build(name)
    inputs = zoo.batch(model, preprocessing)
    model.train()(**inputs)  # so that the norms have statistics of their own
    freeze(model.eval(), 1)
    _write_checkpoint(model, preprocessing, tmp_path)
    if name not in zoo.NOT_LOADED:
        check_reload(model, preprocessing, tmp_path)
    found, logits = (with_classics if name in CLASSICS else plain).load(tmp_path, inputs)
    shutil.rmtree(tmp_path)  # pytest would keep gigabytes
    with torch.no_grad():
        expected = model(**inputs)[0]
    assert expected.shape == (4, 3)
    assert logits.keys() == ({"transformers", "timm"} if name in zoo.TIMM else {"transformers"})
    assert [library for library, found in logits.items() if not torch.equal(found, expected)] == []
    assert found["labels"] == list(zoo.LABELS) == found.get("timm_labels", found["labels"])
    assert bool(found["hf_tl"]) is (name in CLASSICS)
