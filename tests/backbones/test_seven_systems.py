"""The systems of the ImageNet challenge end to end: load, stages, freezing, a step, saving and loading."""

import re
from pathlib import Path

import pytest
import torch
from backbones.checks import check_frozen, check_saved, check_step
from backbones.reload import Reloader
from backbones.zoo import shake
from hub.client import run_python
from torch import nn

import hf_tl
from hf_tl.backbones.describe import build_skeleton
from hf_tl.backbones.load import load_model
from hf_tl.backbones.stages.freezing import freeze
from hf_tl.backbones.stages.head import head_stages
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.config import StrategyConfig
from hf_tl.record import read_record

PAGE = Path(hf_tl.__file__).parent / "backbones" / "README.md"
README = Path(hf_tl.__file__).parents[1] / "README.md"
ROW = re.compile(r"^\| \[(.+?)\]\(.*\) \| \d{4} \| ([\d,]+) \| (\d+): (.*?) \| .* \| `(timm:.+?)` \|$", re.MULTILINE)
SYSTEMS = {match[5]: match for match in ROW.finditer(PAGE.read_text(encoding="utf-8"))}
LARGE = ("alexnet", "pnasnet5large", "vgg16", "zfnet")
SIZES = {"pnasnet5large": 96}
LABELS = ("cat", "dog", "owl")


def architecture(name: str) -> str:
    return name.removeprefix("timm:").partition(".")[0]


def by_size(name: str) -> object:
    return pytest.param(name, marks=pytest.mark.slow if architecture(name) in LARGE else (), id=architecture(name))


def test_all_seven_are_in_the_table() -> None:
    names = ["alexnet", "zfnet", "googlenet", "vgg16", "resnet50", "resnext50_32x4d", "pnasnet5large"]
    assert [architecture(name) for name in SYSTEMS] == names


def test_the_readme_has_the_same_seven() -> None:
    short = re.findall(r"^\| .+ \| \d{4} \| ([\d,]+) \| .* \| `(timm:.+?)` \|$", README.read_text(), re.MULTILINE)
    assert {name: parameters for parameters, name in short} == {name: match[2] for name, match in SYSTEMS.items()}


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_table_matches_the_code(name: str) -> None:
    _, parameters, count, stages, _ = SYSTEMS[name].groups()
    model = build_skeleton(name)
    assert f"{sum(parameter.numel() for parameter in model.parameters()):,}" == parameters
    names = [stage.name for stage in list_stages(model)]
    assert ", ".join(f"`{stage}`" for stage in names) == stages
    assert len(names) == int(count)


@pytest.mark.parametrize("name", SYSTEMS)
def test_freezing_at_every_depth(name: str) -> None:
    model = build_skeleton(name)
    for trainable_stages in range(1, len(list_stages(model)) + 1):
        check_frozen(model, trainable_stages)


@pytest.mark.parametrize("name", [by_size(name) for name in SYSTEMS])
def test_a_step_and_a_reload(name: str, plain: Reloader, with_classics: Reloader, tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = SIZES.get(architecture(name), 64)
    model, preprocessing = load_model(name, LABELS, pretrained=False, image_size=size)
    shake(model)
    inputs = {"pixel_values": torch.randn(3, 3, size, size)}
    for trainable_stages in (1, 2, len(list_stages(model))):
        check_step(model, inputs, trainable_stages)
    reloader = with_classics if type(model.timm_model).__module__.startswith("hf_tl") else plain
    check_saved(model.eval(), preprocessing, inputs, reloader, tmp_path)


# --- the fully connected part


def convolutions(model: nn.Module) -> set[str]:
    """Return the names of all convolutions, without those that implement the fully connected part of timm's VGG."""
    names = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    return {name for name in names if "pre_logits" not in name}


@pytest.mark.parametrize(
    ("name", "hidden"), [("vgg16", "pre_logits"), ("alexnet", "pre_logits"), ("zfnet", "pre_logits"), ("resnet50", "")]
)
@pytest.mark.parametrize("strategy", ["transfer", "finetune"])
def test_the_fully_connected_part_trains_and_no_convolution(name: str, hidden: str, strategy: str) -> None:
    model = build_skeleton(f"timm:{name}")
    count = head_stages(list_stages(model))
    assert count == (2 if hidden else 1)
    first, *later = StrategyConfig(strategy=strategy).build(count).phases
    freeze(model, first.trainable_stages)
    trained = {name.rpartition(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    rest = {name for name, module in model.named_modules() if next(module.parameters(recurse=False), None) is not None}
    assert trained.isdisjoint(convolutions(model))
    norms = {name for name in rest if "bn" in name or "downsample" in name}
    assert trained == rest - convolutions(model) - norms
    assert [phase.trainable_stages for phase in later] == ([count + 1] if strategy == "finetune" else [])


@pytest.mark.slow
@pytest.mark.parametrize(("head", "trained"), [("fully_connected", 54_575_114), ("last_layer", 40_970)])
def test_a_run_with_a_fully_connected_head(head: str, trained: int, tmp_path: Path) -> None:
    """AlexNet's fully connected part has 9216 x 4096 + 4096 + 4096 x 4096 + 4096 + 4096 x 10 + 10 parameters."""
    flags = ["--model", "timm:alexnet", "--no-pretrained", "--image_size", "64", "--head", head, "--dataset", "digits"]
    flags += ["--num_train_epochs", "0.05", "--report_to", "none", "--output_dir", str(tmp_path / "run")]
    code = f"from hf_tl.cli import main; raise SystemExit(main({['train', *flags]!r}))"
    run_python(code, "http://127.0.0.1:9", tmp_path, has_hf_tl=True)
    record = read_record(tmp_path / "run")
    assert record.model.parameters_trained == trained
    expected = ("pre_logits", "head") if head == "fully_connected" else ("head",)
    assert [phase.trained_stages for phase in record.phases] == [expected]
