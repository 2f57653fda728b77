"""Conversion of weights with other names, sizes and channels, and modes of all kinds of norms."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
import transformers
from backbones import zoo
from backbones.checkpoints import edit_config, save_timm, save_transformers
from backbones.checks import check_saved, tensors, train_step
from backbones.reload import Reloader
from safetensors.torch import save_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from hf_tl.backbones.load import load_backbone, load_model
from hf_tl.backbones.stages.freezing import freeze
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.errors import ConfigError, ModelError
from hf_tl.strategy import Norm

LABELS = zoo.LABELS


def always(names: tuple[str, ...], *chosen: str) -> list[object]:
    """Mark all names but the chosen ones as slow."""
    return [pytest.param(name, marks=() if name in chosen else pytest.mark.slow) for name in names]


def pixels(size: int, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def save(weights: dict[str, Tensor], file: Path) -> str:
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}, file)
    return str(file)


# --- weights of torchvision and of the architectures' authors


@pytest.mark.parametrize(
    "name",
    [
        "alexnet",
        "densenet121",
        "googlenet",
        "regnet_x_400mf",
        "resnet18",
        pytest.param("vgg11_bn", marks=pytest.mark.slow),
    ],
)
def test_torchvision_s_checkpoints(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = torchvision.models.get_model(name, weights=None, num_classes=5).eval()
    file = save(reference.state_dict(), tmp_path / "w.safetensors")
    ours = {"regnet_x_400mf": "regnetx_004_tv"}.get(name, name)
    model, _ = load_backbone(f"timm:{ours}", LABELS, weights=file)
    features: list[Tensor] = []
    last = [module for module in reference.modules() if isinstance(module, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    with torch.no_grad():
        reference(pixels(224))
        network = model.timm_model
        converted = network.forward_head(network.forward_features(pixels(224)), pre_logits=True)
    torch.testing.assert_close(converted.flatten(1), features[0])


def original_swin(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert to the authors' Swin, with the downsampling at the end of the previous stage, and saved masks."""
    names = {}
    for name in weights:
        *before, number = name.split(".downsample")[0].rsplit(".", 1)
        is_moved = ".downsample." in name
        names[name] = f"{before[0]}.{int(number) - 1}{name[name.index('.downsample.') :]}" if is_moved else name
    renamed = {names[name].replace("head.fc.", "head."): tensor for name, tensor in weights.items()}
    return renamed | {"layers.0.blocks.1.attn_mask": torch.zeros(1)}


def original_convnext(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    def original(name: str) -> str:
        name = name.replace("stem.", "downsample_layers.0.").replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        if ".downsample." in name:
            _, stage, _, rest = name.split(".", 3)
            return f"downsample_layers.{stage}.{rest}"
        return name.replace(".blocks.", ".").replace("head.norm.", "norm.").replace("head.fc.", "head.")

    return {original(name): tensor for name, tensor in weights.items()}


@pytest.mark.parametrize(
    ("name", "rename"),
    [("swin_tiny_patch4_window7_224", original_swin), ("convnext_atto", original_convnext)],
)
def test_checkpoints_of_the_authors(name: str, rename: Callable[..., dict[str, Tensor]], tmp_path: Path) -> None:
    source = timm.create_model(name, num_classes=7)
    renamed = rename(source.state_dict())
    assert renamed.keys() != source.state_dict().keys()
    torch.save({"model": renamed}, tmp_path / "w.pth")
    model, _ = load_backbone(f"timm:{name}", LABELS, weights=str(tmp_path / "w.pth"))
    head = set(list_stages(source)[-1].parameter_names)
    loaded, expected = model.timm_model.state_dict(), source.state_dict()
    assert [key for key in expected if key not in head and not torch.equal(loaded[key], expected[key])] == []


def test_deit_with_a_distillation_token(tmp_path: Path) -> None:
    """The authors wrote it for timm; the weights have two heads and two tokens."""
    source = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=7)
    torch.save({"model": source.state_dict()}, tmp_path / "w.pth")
    model, _ = load_backbone("timm:deit_tiny_distilled_patch16_224", LABELS, weights=str(tmp_path / "w.pth"))
    assert torch.equal(model.timm_model.dist_token, source.dist_token)


@pytest.mark.parametrize("name", ["regnetx_002", "swin_tiny_patch4_window7_224", "test_vit"])
def test_weights_of_another_architecture_are_refused_whatever_timm_s_function_raises(name: str, tmp_path: Path) -> None:
    file = save(timm.create_model("test_efficientnet").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"weights=.w.safetensors. does not fit"):
        load_backbone(f"timm:{name}", LABELS, weights=file)


# --- channels


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "googlenet", "lcnet_035"])
def test_color_weights_for_gray_images(name: str, tmp_path: Path) -> None:
    source = timm.create_model(name, num_classes=7)
    file = save(source.state_dict(), tmp_path / "w.safetensors")
    model, _ = load_backbone(f"timm:{name}", LABELS, weights=file, in_chans=1)
    conv = source.pretrained_cfg["first_conv"]
    expected = adapt_input_conv(1, source.get_submodule(conv).weight)
    assert torch.equal(model.timm_model.get_submodule(conv).weight, expected)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_gray_models_are_saved_as_such(name: str, plain: Reloader, tmp_path: Path) -> None:
    model, preprocessing = load_model(f"timm:{name}", LABELS, pretrained=False, in_chans=1, image_size=64)
    check_saved(model, preprocessing, {"pixel_values": pixels(64, 1)}, plain, tmp_path)


# --- image sizes

INTERPOLATED = ("beit_base_patch16_224", "mvitv2_tiny", "test_coatnet", "test_vit", "tnt_s_legacy_patch16_224")
ONE_SIZE = ("cait_xxs24_224", "gmlp_ti16_224", "levit_128s", "pit_ti_224")


@pytest.mark.parametrize("name", always(INTERPOLATED, "test_vit"))
@pytest.mark.parametrize("path", ["checkpoint", "weights"])
def test_weights_of_another_size_are_interpolated(name: str, path: str, plain: Reloader, tmp_path: Path) -> None:
    """Like timm when it loads a checkpoint with `img_size`; the saved model keeps the size."""
    torch.manual_seed(0)
    arguments = {} if path == "weights" else zoo.TIMM[name]
    source = zoo.shake(timm.create_model(name, num_classes=3, **arguments))
    folder = save_timm(source, tmp_path / "checkpoint")
    edit_config(folder, model_args={**arguments, "num_classes": 3})
    expected = timm.create_model(f"local-dir:{folder}", pretrained=True, img_size=(128, 128)).eval()
    if path == "checkpoint":
        model, preprocessing = load_model(str(folder), LABELS, image_size=128)
    else:
        model, preprocessing = load_model(
            f"timm:{name}", LABELS, weights=str(folder / "model.safetensors"), image_size=128
        )
        expected.load_state_dict(
            {n: model.timm_model.state_dict()[n] for n in list_stages(expected)[-1].parameter_names}, strict=False
        )
    assert preprocessing.input_size == (3, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(model(pixel_values=pixels(128)).logits, expected(pixels(128)), rtol=0, atol=0)
    (tmp_path / "saved").mkdir()
    check_saved(model, preprocessing, {"pixel_values": pixels(128)}, plain, tmp_path / "saved")


@pytest.mark.parametrize("name", always(ONE_SIZE, "pit_ti_224"))
def test_a_size_for_which_timm_cannot_convert_the_weights(name: str, plain: Reloader, tmp_path: Path) -> None:
    source = timm.create_model(name, num_classes=3)
    folder = save_timm(source, tmp_path / "checkpoint")
    with pytest.raises(ModelError, match=f"{name} supports images of 224 x 224 pixels only, found image_size=96"):
        load_backbone(str(folder), LABELS, image_size=96)
    with pytest.raises(ModelError, match=r"of another shape: .*image_size=96 may not fit these weights"):
        load_backbone(f"timm:{name}", LABELS, image_size=96, weights=str(folder / "model.safetensors"))
    model, preprocessing = load_model(str(folder), LABELS, image_size=96, pretrained=False)
    (tmp_path / "saved").mkdir()
    check_saved(model, preprocessing, {"pixel_values": pixels(96)}, plain, tmp_path / "saved")


@pytest.mark.parametrize(
    ("name", "size"), [("crossvit_tiny_240", 64), ("inception_v3", 32), ("efficientformer_l1", 64), ("nest_tiny", 72)]
)
def test_a_size_that_the_architecture_cannot_run(name: str, size: int) -> None:
    with pytest.raises((ConfigError, ModelError), match="image_size"):
        load_backbone(f"timm:{name}", LABELS, pretrained=False, image_size=size)


def config_of(name: str, **changes: object) -> transformers.PreTrainedModel:
    cls = getattr(transformers, name)
    return zoo.shake(cls(cls.config_class(**(zoo.TRANSFORMERS[name] | changes), id2label=dict(enumerate(LABELS)))))


@pytest.mark.parametrize(
    "name",
    [
        "CLIPForImageClassification",
        "DeiTForImageClassification",
        "Dinov2ForImageClassification",
        "IJepaForImageClassification",
        "SiglipForImageClassification",
        "ViTForImageClassification",
        "ViTMSNForImageClassification",
    ],
)
def test_transformers_classes_that_interpolate(name: str, plain: Reloader, tmp_path: Path) -> None:
    source = config_of(name)
    folder = save_transformers(source, tmp_path / "checkpoint", size=64)
    model, preprocessing = load_model(str(folder), LABELS, image_size=96)
    assert preprocessing.input_size == (3, 96, 96)
    arguments = {} if name.startswith("Dinov2") else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        expected = source(pixel_values=pixels(96), **arguments).logits
        torch.testing.assert_close(model(pixel_values=pixels(96)).logits, expected)
    (tmp_path / "saved").mkdir()
    check_saved(model, preprocessing, {"pixel_values": pixels(96)}, plain, tmp_path / "saved")


@pytest.mark.parametrize(
    "name",
    [
        "ConvNextForImageClassification",
        "PvtV2ForImageClassification",
        "ResNetForImageClassification",
        "SwinForImageClassification",
        "Swinv2ForImageClassification",
    ],
)
def test_transformers_classes_that_take_other_sizes(name: str, plain: Reloader, tmp_path: Path) -> None:
    source = config_of(name)
    folder = save_transformers(source, tmp_path / "checkpoint", size=64)
    model, preprocessing = load_model(str(folder), LABELS, image_size=128)
    assert preprocessing.input_size == (3, 128, 128)
    (tmp_path / "saved").mkdir()
    check_saved(model, preprocessing, {"pixel_values": pixels(128)}, plain, tmp_path / "saved")


@pytest.mark.parametrize(
    ("name", "changes", "tensor"),
    [
        ("BeitForImageClassification", {"use_relative_position_bias": True}, "relative_position_bias_table"),
        ("HieraForImageClassification", {}, "position_embeddings"),
        ("LevitForImageClassification", {}, "attention_biases"),
        ("PerceiverForImageClassificationLearned", {}, "position_embeddings"),
        ("PvtForImageClassification", {}, "position_embeddings"),
    ],
)
def test_transformers_classes_of_one_size(name: str, changes: dict[str, bool], tensor: str, tmp_path: Path) -> None:
    folder = save_transformers(config_of(name, **changes), tmp_path, size=64)
    with pytest.raises(ModelError, match=f"{name} does not support image_size=96: the shape of .*{tensor} depends"):
        load_backbone(str(folder), LABELS, image_size=96)


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
@pytest.mark.parametrize("kind", ["timm", "transformers"])
def test_the_problem_type_is_kept(problem_type: str, kind: str, tmp_path: Path) -> None:
    """`regression` is not classification; the two others set the loss of later users of the model."""
    folder = tmp_path / "checkpoint"
    if kind == "timm":
        save_timm(timm.create_model("test_resnet", num_classes=3), folder)
    else:
        save_transformers(config_of("ResNetForImageClassification"), folder, size=64)
    model, _ = load_backbone(str(folder), LABELS, problem_type=problem_type)
    model.save_pretrained(tmp_path / "again")
    again = transformers.AutoConfig.from_pretrained(tmp_path / "again")
    assert again.problem_type == problem_type


# --- norms of frozen stages

BATCH, LAYER, GROUP = nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm
NORMS = {
    "poolformerv2_s12": (GROUP, LAYER),
    "lcnet_035": BATCH,
    "resnetv2_18": BATCH,
    "swin_tiny_patch4_window7_224": LAYER,
    "test_byobnet": BATCH,
    "test_convnext": LAYER,
    "BitForImageClassification": GROUP,
    "ConvNextV2ForImageClassification": LAYER,
    "RegNetForImageClassification": BATCH,
    "ViTForImageClassification": LAYER,
}
"""Classes of the norms, by architecture."""


@pytest.mark.parametrize("norm", ["frozen", "affine", "adapt"])
@pytest.mark.parametrize("name", always(tuple(NORMS), "BitForImageClassification", "lcnet_035", "test_convnext"))
def test_norms_of_frozen_stages(name: str, norm: Norm) -> None:
    torch.manual_seed(0)
    model, preprocessing = zoo.build_timm(name) if name in zoo.TIMM else zoo.build_transformers(name)
    head = list_stages(model)[-1]
    freeze(model, 1, norm)
    model.train()
    before = {name: tensor.detach().clone() for name, tensor in tensors(model).items()}
    train_step(model, zoo.batch(model, preprocessing))
    moved = {name for name, tensor in tensors(model).items() if not torch.equal(tensor, before[name])}
    norms = [(path, module) for path, module in model.named_modules() if isinstance(module, NORMS[name])]
    scales = {f"{path}.{key}" for path, module in norms for key, _ in module.named_parameters(recurse=False)}
    statistics = {f"{path}.{key}" for path, module in norms for key, _ in module.named_buffers(recurse=False)}
    expected = set(head.parameter_names)
    if norm != "frozen":
        expected |= scales
    if norm == "adapt":
        expected |= statistics
    assert scales
    assert moved == expected
