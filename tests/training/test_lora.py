"""Low-rank adapters: what a phase with LoRA changes, what is saved, and what loads again without hf_tl."""

import copy
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hub.server import HubServer
from huggingface_hub import ModelCard, snapshot_download
from torch import Tensor, nn
from training.small_runs import LABELS, Run, make_images, moved, snapshot, train

import hf_tl
from hf_tl.backbones.stages.adapted import has_adapters, plain_name
from hf_tl.errors import ConfigError, PublishError, StageError
from hf_tl.lora.layers import adapt, merge, plain_tensors
from hf_tl.record import read_record
from hf_tl.trainer.adapted import phase_of_adapters

CNN, VIT = "timm:test_resnet", "timm:test_vit"
SETTINGS: dict[str, Any] = {
    "report_to": "none", "validation_fraction": 0.3, "test_fraction": 0.3, "per_device_train_batch_size": 2,
}  # fmt: skip
ADAPTERS = [hf_tl.LoRA(2), hf_tl.LoRA(4, alpha=8, dropout=0.1), hf_tl.LoRA(2, dora=True)]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def adapted(name: str, lora: hf_tl.LoRA, stages: int | str = "all") -> tuple[nn.Module, hf_tl.Phase, Tensor]:
    model, _ = hf_tl.load_backbone(name, LABELS, pretrained=False, image_size=64)
    phase, pixels = hf_tl.Phase(stages, 1, tuning=lora), torch.randn(2, 3, 64, 64)
    adapt(model, phase, pixels)
    hf_tl.freeze(model, phase)
    return model, phase, pixels


@pytest.mark.parametrize("lora", ADAPTERS, ids=["plain", "scaled", "dora"])
@pytest.mark.parametrize("name", [CNN, VIT])
def test_merged_adapters_give_the_same_logits(name: str, lora: hf_tl.LoRA) -> None:
    model, _, pixels = adapted(name, lora)
    before = {name: tensor.clone() for name, tensor in plain_tensors(model, merged=False).items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        model.train()(pixel_values=pixels, labels=torch.tensor([0, 2])).loss.backward()
        optimizer.step()
    logits, expected = model.eval()(pixel_values=pixels).logits, plain_tensors(model)
    merge(model)
    assert not has_adapters(model)
    torch.testing.assert_close(model(pixel_values=pixels).logits, logits, atol=1e-5, rtol=1e-5)
    assert model.state_dict().keys() == before.keys() == expected.keys()
    assert not moved(expected, snapshot(model))
    assert moved(before, snapshot(model)), "nothing was trained"


def test_only_adapters_and_the_head_train() -> None:
    model, _, pixels = adapted(CNN, hf_tl.LoRA(2), 3)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {"lora_A", "lora_B", "fc"} == {name.split(".")[-3 if "lora" in name else -2] for name in trained}
    before = snapshot(model)
    model.train()(pixel_values=pixels, labels=torch.tensor([0, 2])).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    assert moved(before, snapshot(model)) <= trained
    assert {name.split(".")[1] for name in trained} == {"layer3", "layer4", "fc"}


def test_a_layer_whose_weight_is_read_and_not_called_is_left_out() -> None:
    """EVA adds a bias to the queries and values alone, and reads the weight of `qkv` for it."""
    model, _ = hf_tl.load_backbone("timm:eva02_tiny_patch14_224", LABELS, pretrained=False, image_size=56)
    names = adapt(model, hf_tl.Phase("all", 1, tuning=hf_tl.LoRA(2)), torch.randn(2, 3, 56, 56))
    assert {name.rpartition(".")[2] for name in names if ".attn." in name} == {"proj"}


def test_targets_choose_layers_and_a_pattern_without_layers_is_refused() -> None:
    model, _ = hf_tl.load_backbone(VIT, LABELS, pretrained=False, image_size=64)
    pixels = torch.randn(2, 3, 64, 64)
    names = adapt(copy.deepcopy(model), hf_tl.Phase("all", 1, tuning=hf_tl.LoRA(2, targets="re:qkv$")), pixels)
    assert names
    assert all(name.endswith("qkv") for name in names)
    with pytest.raises(StageError, match="no layer of the trained stages matches 'conv'"):
        adapt(model, hf_tl.Phase("all", 1, tuning=hf_tl.LoRA(2, targets="re:conv")), pixels)


@pytest.mark.parametrize("phases", ["adapted alone", "adapted"])
def test_weights_under_adapters_do_not_move(tmp_path: Path, phases: str) -> None:
    training = train(Run(str(tmp_path), phases))
    for record in training.state.log.phases[1:]:
        assert record.proof is not None
        assert record.proof.holds
    frozen = {plain_name(name) for name in training.frozen[max(training.frozen)]}
    assert any("layer4" in name and name.endswith("conv1.weight") for name in frozen), "no weight of an adapted layer"


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return make_images(Run(""))


@pytest.fixture(scope="module", params=[CNN, VIT])
def run(request: pytest.FixtureRequest, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model and, in `start`, of the weights that it started from."""
    model, transforms = hf_tl.load_backbone(request.param, LABELS, pretrained=False, image_size=64)
    folder = tmp_path_factory.mktemp("lora")
    torch.save(model.state_dict(), folder / "start.pt")
    strategy = hf_tl.Strategy.lora(rank=2, epochs=3)
    return hf_tl.train(
        model, dataset, strategy, transforms=transforms, output_dir=folder / "run", **SETTINGS
    ).output_dir


def rebuilt(run: Path, adapter: str) -> nn.Module:
    """Add an adapter to the starting weights, whose head is another one."""
    from peft import PeftModel
    from transformers import AutoModelForImageClassification

    start = AutoModelForImageClassification.from_pretrained(run)
    weights = torch.load(run.with_name("start.pt"))
    head = hf_tl.list_stages(start)[-1].parameter_names
    start.load_state_dict({name: 0 * tensor if name in head else tensor for name, tensor in weights.items()})
    return PeftModel.from_pretrained(start, adapter).eval()


def check_same_logits(model: nn.Module, run: Path) -> None:
    from transformers import AutoModelForImageClassification

    trained = AutoModelForImageClassification.from_pretrained(run).eval()
    pixels = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        expected = trained(pixels).logits
        torch.testing.assert_close(model(pixel_values=pixels).logits, expected, atol=1e-5, rtol=1e-5)


def test_the_adapter_alone_turns_the_starting_model_into_the_trained_one(run: Path) -> None:
    check_same_logits(rebuilt(run, str(run / "adapter")), run)


def test_the_saved_model_loads_frozen_as_its_last_phase(run: Path, dataset: Dataset) -> None:
    model, transforms = hf_tl.load(run)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not has_adapters(model)
    assert hf_tl.evaluate(run, dataset).images
    again = hf_tl.train(
        model, dataset, "lora", epochs=3, transforms=transforms, output_dir=run.parent / "again", **SETTINGS
    )
    assert again.record.start.kind == "trained"


def test_record_and_card_state_the_adapters(run: Path) -> None:
    assert read_record(run).phases[-1].recipe.tuning == hf_tl.LoRA(2)
    card = (run / "README.md").read_text(encoding="utf-8")
    assert "LoRA of rank 2" in card
    assert re.search(r"trained, of adapters and of layers in full, beside [\d,]+ of the network", card)


def test_an_adapter_is_published_alone(run: Path, hub: HubServer, tmp_path: Path) -> None:
    hf_tl.push(run, "user/adapter", adapter_only=True)
    folder = snapshot_download("user/adapter", endpoint=hub.url, local_dir=tmp_path / "adapter")
    assert "model.safetensors" not in os.listdir(folder)
    check_same_logits(rebuilt(run, folder), run)
    card = ModelCard.load(Path(folder, "README.md"))
    assert card.data.library_name == "peft"
    assert "LoRA of rank 2" in card.text
    assert "USER/NAME" not in card.text


def test_a_model_without_adapter_is_not_published_as_one(run: Path, hub: HubServer, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("adapter"))
    with pytest.raises(PublishError, match="holds no adapter"):
        hf_tl.push(tmp_path / "copy", "user/adapter", adapter_only=True)


def test_layers_trained_in_full_before_leave_no_adapter(tmp_path: Path, dataset: Dataset) -> None:
    phases = [hf_tl.Phase(2, steps=1), hf_tl.Phase(2, steps=1, tuning=hf_tl.LoRA(2))]
    model, transforms = hf_tl.load_backbone(CNN, LABELS, pretrained=False, image_size=64)
    result = hf_tl.train(model, dataset, phases, transforms=transforms, output_dir=tmp_path / "run", **SETTINGS)
    assert not (result.output_dir / "adapter").exists()


@pytest.mark.parametrize("phases", ["adapted alone", "adapted climb"])
def test_a_phase_with_adapters_trains_on_cached_features_alike(tmp_path: Path, phases: str) -> None:
    """Below the lowest adapted stage the prefix is frozen."""
    outputs = []
    for cache in ("on", "off"):
        run = Run(str(tmp_path / cache), phases, {"feature_cache": cache, "feature_cache_dir": str(tmp_path / "c")})
        outputs.append(train(replace(run, dropout=0, expected_rung=2 if "climb" in phases else None)))
    on, off = outputs
    assert on.state.log.phases[-1].uses_features
    assert not off.state.log.phases[-1].uses_features
    for name, tensor in snapshot(off.model).items():
        torch.testing.assert_close(snapshot(on.model)[name], tensor, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("settings", [{"gradient_checkpointing": True}, {"gradient_accumulation_steps": 2}], ids=str)
def test_settings_of_the_loop_hold_with_adapters(tmp_path: Path, settings: dict[str, Any]) -> None:
    sizes = {"per_device_train_batch_size": 4 // settings.get("gradient_accumulation_steps", 1)}
    plain = train(Run(str(tmp_path / "plain"), "adapted alone", dropout=0))
    other = train(Run(str(tmp_path / "other"), "adapted alone", {**sizes, **settings}, dropout=0))
    for name, tensor in snapshot(plain.model).items():
        torch.testing.assert_close(snapshot(other.model)[name], tensor, atol=1e-4, rtol=1e-3)


def test_dora_beside_stages_trained_in_full_is_refused_under_trainer() -> None:
    full, dora = hf_tl.Phase(2, 1), hf_tl.Phase(2, 1, tuning=hf_tl.LoRA(2, dora=True))
    with pytest.raises(ConfigError, match="DoRA's magnitudes"):
        phase_of_adapters([full, dora])
    assert phase_of_adapters([hf_tl.Phase(1, 1), dora]) == dora
