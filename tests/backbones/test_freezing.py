"""Freezing: no gradients, inference mode, and unchanged bits, whatever is called."""

import copy
import io
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from hf_tl.backbones.load import load_backbone
from hf_tl.backbones.stages.freezing import freeze, frozen_tensors, is_norm
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.backbones.weights.digest import digest
from hf_tl.errors import StageError
from hf_tl.strategy import BatchNorm, Norm

ARCHITECTURES = ("test_resnet", "test_efficientnet", "test_vit", "test_convnext", "test_mambaout", "test_nfnet")
SIZE = 64


def build(architecture: str = "test_resnet", **arguments: object) -> nn.Module:
    """Build a model in which every parameter gets a gradient: initial gains of zero block gradients."""
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=3, **arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def images(count: int = 4, size: int = SIZE) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def train_step(model: nn.Module, pixels: torch.Tensor) -> None:
    """Take one step of SGD at a learning rate at which every parameter with a gradient changes."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model.train()
    logits = model(pixels)
    logits = getattr(logits, "logits", logits)
    nn.functional.cross_entropy(logits, torch.arange(len(pixels)) % 3).backward()
    optimizer.step()


def frozen_modules_in_training(model: nn.Module, trainable_stages: int) -> list[str]:
    modules = dict(model.named_modules())
    frozen = list_stages(model)[:-trainable_stages]
    return [name for stage in frozen for name in stage.module_names if modules[name].training]


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


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


@pytest.mark.parametrize("norm", ["frozen", "affine", "adapt"])
def test_norms_of_frozen_stages_do_as_they_are_told(norm: Norm) -> None:
    model = build()
    freeze(model, 1, norm)
    before, frozen = snapshot(model), digest(frozen_tensors(model))
    train_step(model, images())
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert norms
    expected = {"fc.weight", "fc.bias"}
    if norm != "frozen":
        expected |= {f"{name}.{leaf}" for name in norms for leaf in ("weight", "bias")}
    if norm == "adapt":
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        expected |= {f"{name}.{leaf}" for name in norms for leaf in statistics}
    assert moved == expected
    assert digest(frozen_tensors(model)) == frozen
    model.eval()
    assert not any(module.training for module in model.modules())


def test_norms_change_back_when_frozen_again() -> None:
    model = build()
    freeze(model, 1, "adapt")
    assert model.train().bn1.training
    freeze(model, 1)
    assert not model.train().bn1.training
    assert not model.bn1.weight.requires_grad


@pytest.mark.parametrize("norm", ["affine", "adapt"])
def test_layer_norms_count_as_norms(norm: Norm) -> None:
    model = build("test_vit")
    freeze(model, 1, norm)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    layer_norms = {name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    assert {f"{name}.weight" for name in layer_norms} <= trained
    assert all(name.startswith("head") or name.rpartition(".")[0] in layer_norms for name in trained)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.BatchNorm2d(3), True),
        (nn.LayerNorm(3), True),
        (nn.GroupNorm(1, 3), True),
        (timm.layers.BatchNormAct2d(3), True),
        (timm.layers.LayerNorm2d(3), True),
        (timm.layers.RmsNorm(3), True),
        (timm.layers.ConvNormAct(3, 3), False),
        (timm.layers.NormMlpClassifierHead(3, 2), False),
        (nn.Conv2d(3, 3, 1), False),
        (nn.Dropout(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_norm_is_known_by_name_and_shape(module: nn.Module, expected: bool) -> None:
    assert is_norm(module) is expected


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
    with pytest.raises(StageError, match="--trainable_stages"):
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


def test_frozen_tensors_of_a_wrapped_model_have_its_names() -> None:
    model, _ = load_backbone("timm:test_resnet", ["a", "b"], pretrained=False)
    freeze(model, 2)
    tensors = frozen_tensors(model)
    assert tensors.keys() <= model.state_dict().keys()
    assert {"timm_model.bn1.weight", "timm_model.bn1.running_mean", "timm_model.bn1.num_batches_tracked"} <= set(
        tensors
    )
    assert not {name for name in tensors if name.startswith(("timm_model.layer4", "timm_model.fc"))}


DTYPES = (
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.bool),
    *(torch.complex64,),
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4, 5)], ids=str)
def test_the_digest_reads_every_type_and_shape(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    ones, zeros = torch.ones(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
    assert digest({"a": ones}) == digest({"a": ones.clone()})
    assert (digest({"a": ones}) == digest({"a": zeros})) is (ones.numel() == 0)


def test_the_digest_reads_names_types_and_shapes() -> None:
    tensor = torch.zeros(4)
    digests = {
        digest({"a": tensor}),
        digest({"b": tensor}),
        digest({"a": tensor.reshape(2, 2)}),
        digest({"a": tensor.to(torch.int32)}),
        digest({"a": -tensor}),
        digest({"a": tensor, "b": tensor}),
        digest({}),
    }
    assert len(digests) == 7


def test_the_digest_does_not_depend_on_order_or_memory_layout() -> None:
    a, b = torch.randn(2, 3, 4, 4), torch.randn(3)
    assert digest({"a": a, "b": b}) == digest({"b": b, "a": a.to(memory_format=torch.channels_last)})


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_one_bit_of_one_frozen_tensor_changes_the_digest(data: st.DataObject) -> None:
    model = _frozen_resnet()
    tensors = frozen_tensors(model)
    before = digest(tensors)
    tensor = tensors[data.draw(st.sampled_from(sorted(tensors)))].detach()
    raw = tensor.reshape(-1).view(torch.uint8)
    index, bit = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(0, 7))
    raw[index] ^= 1 << bit
    assert digest(frozen_tensors(model)) != before
    raw[index] ^= 1 << bit
    assert digest(frozen_tensors(model)) == before


_CACHE: dict[str, nn.Module] = {}


def _frozen_resnet() -> nn.Module:
    if not _CACHE:
        _CACHE["model"] = build().to(torch.bfloat16)
        freeze(_CACHE["model"], 1)
    return _CACHE["model"]


def test_a_user_s_own_train_attribute_is_left_alone() -> None:
    """Only the lock of this module is removed."""
    model = build()
    own = partial(nn.Module.train, model.layer1)
    model.layer1.__dict__["train"] = own
    freeze(model, "all")
    assert model.layer1.__dict__["train"] is own


def statistics(model: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    return {
        name: buffer.clone()
        for name, buffer in model.named_buffers()
        if name.startswith(prefix) and name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }


@pytest.mark.parametrize("batch_norm", ["keep", "update"])
def test_batch_norm_of_trained_stages_does_as_it_is_told(batch_norm: BatchNorm) -> None:
    model = build()
    freeze(model, 2, batch_norm=batch_norm)
    before, kept = snapshot(model), statistics(model, "layer4")
    assert kept
    train_step(model, images())
    has_moved = {name for name, tensor in statistics(model, "layer4").items() if not torch.equal(tensor, kept[name])}
    assert has_moved == (set() if batch_norm == "keep" else set(kept))
    assert set(kept).issubset(frozen_tensors(model)) == (batch_norm == "keep")
    trained = [name for name, parameter in model.named_parameters() if name.startswith("layer4")]
    assert any("bn" in name for name in trained)
    assert not any(torch.equal(before[name], model.state_dict()[name]) for name in trained)


@pytest.mark.parametrize("batch_norm", ["keep", "update"])
def test_kept_statistics_make_images_independent_of_their_batch(batch_norm: BatchNorm) -> None:
    model, pixels = build(), images()
    freeze(model, "all", batch_norm=batch_norm)
    model.train()
    together, alone = model(pixels), torch.cat([model(pixels[[i]]) for i in range(len(pixels))])
    assert torch.allclose(together, alone, atol=1e-4) == (batch_norm == "keep")


def test_keeping_statistics_is_for_norms_that_have_them() -> None:
    model = build("test_vit")
    freeze(model, "all", batch_norm="keep")
    assert all(module.training for module in model.train().modules())
    model = build()
    freeze(model, "all", batch_norm="keep")
    in_inference = {name for name, module in model.train().named_modules() if not module.training}
    assert {type(dict(model.named_modules())[name]) for name in in_inference} == {nn.BatchNorm2d}
    freeze(model, "all")
    assert all(module.training for module in model.train().modules())
