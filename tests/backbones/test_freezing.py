"""Freezing: no gradients, inference mode, and unchanged bits, whatever is called."""

import copy
import io
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from backbones.steps import build, frozen_modules_in_training, images, snapshot, train_step
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from hf_tl.backbones.stages.freezing import freeze, frozen_tensors
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.backbones.weights.digest import digest
from hf_tl.errors import StageError

ARCHITECTURES = ("test_resnet", "test_efficientnet", "test_vit", "test_convnext", "test_mambaout", "test_nfnet")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("depth", [1, 2, "all"])
def test_a_step_moves_what_trains_and_no_bit_of_the_rest(architecture: str, depth: int | str) -> None:
    model = build(architecture)
    freeze(model, depth)
    before, frozen = snapshot(model), digest(frozen_tensors(model))
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    train_step(model, images())
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    trained = list_stages(model)[0 if depth == "all" else -depth :]
    assert trains <= moved <= trains | {name for stage in trained for name in stage.buffer_names}
    assert digest(frozen_tensors(model)) == frozen


def test_the_control_without_freezing_drifts() -> None:
    """Control: a BatchNorm without gradients alone still updates its statistics."""
    model = build()
    model.requires_grad_(False).fc.requires_grad_(True)
    before = snapshot(model)
    train_step(model, images())
    assert not torch.equal(model.state_dict()["bn1.running_mean"], before["bn1.running_mean"])


CALLS: dict[str, Callable[[nn.Module], object]] = {
    "train": lambda model: model.train(),
    "train(True) twice": lambda model: model.train(True).train(),
    "eval then train": lambda model: model.eval().train(),
    "a submodule": lambda model: [child.train() for child in model.children()],
    "each module": lambda model: [module.train() for module in list(model.modules())],
    "apply": lambda model: model.apply(lambda module: module.train()),
    "DataParallel": lambda model: nn.DataParallel(model).train(),
    "Sequential": lambda model: nn.Sequential(model, nn.Softmax(-1)).train(),
    "compiled": lambda model: torch.compile(model, backend="eager").train(),
    "accelerate": lambda model: Accelerator(cpu=True).prepare(model).train(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit"])
def test_frozen_stages_stay_in_inference_mode(architecture: str, call: str) -> None:
    model = build(architecture, drop_path_rate=0.1)
    freeze(model, 2)
    CALLS[call](model)
    assert frozen_modules_in_training(model, 2) == []
    head = list_stages(model)[-1].module_names[-1]
    assert dict(model.named_modules())[head].training


def test_eval_reaches_every_module() -> None:
    model = build()
    freeze(model, 2)
    model.train().eval()
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("mode", [True, False])
def test_freezing_keeps_the_mode_of_the_rest(mode: bool) -> None:
    model = build().train(mode)
    freeze(model, 2)
    assert model.training is model.fc.training is model.layer4.training is mode
    assert not model.layer3.training


def through_pickle(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def through_torch_save(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle, through_torch_save])
def test_a_copy_is_frozen_by_itself(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    model = build()
    freeze(model, 1)
    twin = duplicate(model)
    freeze(model, "all")
    model.train()
    twin.train()
    assert frozen_modules_in_training(twin, 1) == []
    assert model.layer1.training
    assert sorted(name for name, p in twin.named_parameters() if p.requires_grad) == ["fc.bias", "fc.weight"]
    frozen = digest(frozen_tensors(twin))
    train_step(twin, images())
    assert digest(frozen_tensors(twin)) == frozen


def test_state_dict_class_and_repr_are_unchanged() -> None:
    model = build()
    keys, classes, text = list(model.state_dict()), [type(module) for module in model.modules()], repr(model)
    freeze(model, 2)
    assert (list(model.state_dict()), [type(module) for module in model.modules()], repr(model)) == (
        keys,
        classes,
        text,
    )


@pytest.mark.long
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_trains_its_suffix_alone(backend: str) -> None:
    torch.compiler.reset()
    model = build()
    freeze(model, 2)
    compiled = torch.compile(model, backend=backend)
    before, frozen = snapshot(model), digest(frozen_tensors(model))
    train_step(compiled, images(2))
    assert digest(frozen_tensors(model)) == frozen
    assert not torch.equal(model.fc.weight, before["fc.weight"])
    assert not torch.equal(model.layer4[0].bn1.running_mean, before["layer4.0.bn1.running_mean"])
    model.eval()
    torch.testing.assert_close(compiled(images(2)), model(images(2)))


def test_freezing_again_changes_what_is_frozen() -> None:
    model = build()
    for depth in (1, "all", 3, 2, 1):
        frozen = freeze(model, depth)
        model.train()
        stages = list_stages(model)
        expected = stages[: 0 if depth == "all" else -depth]
        assert frozen == expected
        gradient_free = {name for stage in expected for name in stage.parameter_names}
        assert {name for name, p in model.named_parameters() if not p.requires_grad} == gradient_free
        assert (not model.layer3.training) is (depth in (1, 2))
        assert (not model.conv1.training) is (depth != "all")


@pytest.mark.parametrize("depth", [1, "all"])
def test_parameters_that_the_architecture_fixes_stay_fixed(depth: int | str) -> None:
    """Sine and cosine position embeddings are parameters that never train."""
    model = build("vit_tiny_patch16_224", depth=2, img_size=64)
    model.pos_embed.requires_grad_(False)
    freeze(model, depth)
    freeze(model, "all", "adapt")
    before = model.pos_embed.clone()
    train_step(model, images())
    assert not model.pos_embed.requires_grad
    assert torch.equal(model.pos_embed, before)
    assert "pos_embed" in frozen_tensors(model)
    assert model.patch_embed.proj.weight.requires_grad


def test_a_model_frozen_by_hand_is_an_error_not_a_run_that_trains_nothing() -> None:
    model = build()
    model.requires_grad_(False)
    with pytest.raises(
        StageError, match=r"found requires_grad=False on fc.weight, fc.bias; call model.requires_grad_\(True\)"
    ):
        freeze(model, 1)
    model.requires_grad_(True)
    freeze(model, 1)
    assert model.fc.weight.requires_grad


def test_names_and_expressions_freeze_by_stage_and_by_parameter() -> None:
    model = build()
    freeze(model, ("layer2",))
    model.train()
    assert [name for name in ("layer1", "layer2", "layer3") if getattr(model, name).training] == ["layer2"]
    freeze(model, r"re:layer4\.0\.conv2")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"layer4.0.conv2.weight", "fc.weight", "fc.bias"}
    frozen = digest(frozen_tensors(model))
    train_step(model, images())
    assert not model.layer4[0].bn1.training  # a norm without trained parameters, in a partly trained stage
    assert digest(frozen_tensors(model)) == frozen


@pytest.mark.parametrize("stages", [0, 7, "layer9", ("stem", "nothing"), "re:nothing", "re:("])
def test_wrong_stages_change_nothing(stages: int | str) -> None:
    model = build()
    with pytest.raises(StageError, match="trainable_stages"):
        freeze(model, stages)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.train().layer1.training


def test_a_transformers_model_is_frozen_in_the_same_way() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = ViTConfig(
        image_size=32, patch_size=8, num_labels=3, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5, **sizes
    )
    model = ViTForImageClassification(config)
    freeze(model, 2)
    frozen = digest(frozen_tensors(model))
    train_step(model, images(size=32))
    assert digest(frozen_tensors(model)) == frozen
    assert frozen_modules_in_training(model, 2) == []
    assert model.classifier.training


def test_dropout_in_frozen_stages_is_off() -> None:
    model = build("test_vit", proj_drop_rate=0.5, drop_path_rate=0.5)
    freeze(model, 1)
    model.train()
    with torch.no_grad():
        assert torch.equal(model(images()), model(images()))


def test_the_lock_survives_a_move_and_a_cast() -> None:
    model = build()
    freeze(model, 2)
    model = model.to(torch.float64).to(memory_format=torch.channels_last)
    model.train()
    assert frozen_modules_in_training(model, 2) == []


def test_a_user_s_own_train_attribute_is_kept() -> None:
    """Only the lock of this module is removed."""
    model = build()
    own = partial(nn.Module.train, model.layer1)
    model.layer1.__dict__["train"] = own
    freeze(model, "all")
    assert model.layer1.__dict__["train"] is own
