"""Loading of checkpoints in every form: a plain model, a head for the labels, and transforms."""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from backbones.checkpoints import (
    LABELS,
    edit_config,
    save_timm,
    save_transformers,
    save_weights,
    save_wrapper,
    timm_network,
    tiny_resnet,
    tiny_vit,
)
from hub.client import run_python
from hub.server import HubServer
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel

from hf_tl.backbones.load import load, load_backbone, preprocessing_of
from hf_tl.backbones.weights.provenance import provenance_of
from hf_tl.errors import ConfigError, ModelError
from hf_tl.strategy import Strategy

PETS = ("cat", "dog", "owl")


def photo(width: int = 90, height: int = 70) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def head_names(model: PreTrainedModel) -> set[str]:
    return {name for name, _ in model.named_parameters() if ".fc." in name or name.startswith("classifier")}


def backbone_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if name not in head_names(model)}


def labels_of(model: PreTrainedModel) -> tuple[str, ...]:
    return tuple(model.config.id2label[index] for index in range(model.config.num_labels))


@pytest.fixture(params=["timm", "wrapper", "vit", "resnet"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """Return a folder, and its weights under the names of the loaded model."""
    folder = tmp_path / "checkpoint"
    if request.param in ("timm", "wrapper"):
        network = timm_network()
        save_timm(network, folder) if request.param == "timm" else save_wrapper(
            network, folder, dict(enumerate(LABELS))
        )
        return folder, {f"timm_model.{name}": tensor for name, tensor in network.state_dict().items()}
    model = tiny_vit() if request.param == "vit" else tiny_resnet()
    return save_transformers(model, folder), dict(model.state_dict())


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
        torch.manual_seed(seed)
        model, _ = load_backbone(str(checkpoint[0]), PETS)
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
def test_no_weights_are_loaded_where_none_are_wanted(
    checkpoint: tuple[Path, dict[str, torch.Tensor]], strategy: Strategy | None
) -> None:
    folder, weights = checkpoint
    for file in [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
        file.write_bytes(b"not read")
    model, transforms = load_backbone(str(folder), PETS, strategy, pretrained=strategy is not None)
    moved = [n for n, p in model.named_parameters() if p.ndim > 1 and torch.equal(p, weights[n])]
    assert moved == []
    assert model.config.hf_tl["origin"]["kind"] == "random"
    assert provenance_of(model).origin.is_random
    assert torch.equal(transforms.eval(photo()), _own_transform(folder)(photo()))


def _own_transform(folder: Path) -> Callable[[Image.Image], torch.Tensor]:
    processor = AutoImageProcessor.from_pretrained(folder)
    return lambda image: processor(image, return_tensors="pt")["pixel_values"][0]


def test_scratch_keeps_a_timm_checkpoint_s_own_preprocessing(tmp_path: Path) -> None:
    network = timm_network()
    network.pretrained_cfg |= {"mean": (0.1, 0.2, 0.3), "std": (0.7, 0.8, 0.9), "input_size": (3, 96, 96)}
    _, transforms = load_backbone(str(save_timm(network, tmp_path)), PETS, Strategy.scratch())
    expected = create_transform(**resolve_data_config(pretrained_cfg=network.pretrained_cfg), is_training=False)
    assert torch.equal(transforms.eval(photo()), expected(photo()))


@pytest.mark.parametrize(
    "architecture", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_mambaout"]
)
def test_random_weights_are_timm_s_own(architecture: str) -> None:
    """Neither the wrapper's normal distribution for every layer, nor a head other than timm's."""
    torch.manual_seed(3)
    expected = timm.create_model(architecture, num_classes=3).state_dict()
    torch.manual_seed(3)
    model, _ = load_backbone(f"timm:{architecture}", PETS, pretrained=False)
    found = model.timm_model.state_dict()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize(
    ("name", "in_chans"), [("test_resnet", 1), ("test_resnet", 3), ("test_vit", 1), ("alexnet", 1)]
)
def test_gray_images_for_one_channel(name: str, in_chans: int) -> None:
    model, transforms = load_backbone(f"timm:{name}", PETS, in_chans=in_chans, pretrained=False)
    for transform in (transforms.eval, transforms.train):
        pixels = transform(photo(300, 300))
        assert pixels.shape[0] == in_chans
        assert model(pixel_values=pixels[None]).logits.shape == (1, 3)
    assert model.config.pretrained_cfg["input_size"][0] == in_chans
    assert len(model.config.pretrained_cfg["mean"]) == in_chans


@pytest.mark.parametrize("in_chans", [0, 2, 4])
def test_images_have_one_or_three_channels(in_chans: int) -> None:
    with pytest.raises(ConfigError, match="--in_chans is 3 for color or 1 for gray images"):
        load_backbone("timm:test_resnet", PETS, in_chans=in_chans, pretrained=False)


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "test_vit",
        "test_vit_relpos",
        "vit_tiny_patch16_224",
        "mixer_s32_224",
        "swin_tiny_patch4_window7_224",
    ],
)
def test_another_image_size(name: str) -> None:
    model, transforms = load_backbone(f"timm:{name}", PETS, image_size=64, pretrained=False)
    pixels = transforms.eval(photo())
    assert pixels.shape == transforms.train(photo()).shape == (3, 64, 64)
    assert model(pixel_values=pixels[None]).logits.shape == (1, 3)


def test_position_embeddings_are_interpolated_as_timm_does(tmp_path: Path) -> None:
    network = timm_network("vit_tiny_patch16_224", depth=2, embed_dim=48, num_heads=2, img_size=96)
    nn.init.normal_(network.pos_embed)
    folder = save_timm(network, tmp_path, pretrained_cfg={"input_size": [3, 96, 96], "fixed_input_size": True})
    args = {"depth": 2, "embed_dim": 48, "num_heads": 2, "img_size": 96, "num_classes": 3}
    edit_config(folder, model_args=args)
    model, transforms = load_backbone(str(folder), LABELS, image_size=64)
    network.set_input_size(img_size=(64, 64))
    pixels = transforms.eval(photo())[None]
    assert pixels.shape[-2:] == (64, 64)
    torch.testing.assert_close(model(pixel_values=pixels).logits, network(pixels), rtol=0, atol=0)
    assert model.config.model_args["img_size"] == [64, 64]


def test_transformers_position_embeddings_are_interpolated(tmp_path: Path) -> None:
    vit = tiny_vit()
    nn.init.normal_(vit.vit.embeddings.position_embeddings)
    folder = save_transformers(vit, tmp_path)
    model, transforms = load_backbone(str(folder), LABELS, image_size=48)
    pixels = transforms.eval(photo())[None]
    assert pixels.shape[-2:] == (48, 48)
    expected = vit(pixel_values=pixels, interpolate_pos_encoding=True).logits
    torch.testing.assert_close(model(pixel_values=pixels).logits, expected)
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "again").eval()
    torch.testing.assert_close(again(pixel_values=pixels).logits, expected)


def test_a_transformers_convolutional_net_takes_any_size(tmp_path: Path) -> None:
    model, transforms = load_backbone(str(save_transformers(tiny_resnet(), tmp_path)), LABELS, image_size=64)
    assert model(pixel_values=transforms.eval(photo())[None]).logits.shape == (1, 3)


def test_a_size_that_the_network_cannot_take_is_an_error(tmp_path: Path) -> None:
    folder = save_timm(timm_network("mixer_s32_224"), tmp_path)
    with pytest.raises(ModelError, match="takes images of 224 x 224 pixels only, and --image_size is 64"):
        load_backbone(str(folder), LABELS, image_size=64)


def test_problem_type_is_noted_and_changes_the_loss() -> None:
    model, _ = load_backbone("timm:test_resnet", PETS, pretrained=False, problem_type="multi_label_classification")
    assert model.config.problem_type == "multi_label_classification"
    pixels, labels = torch.randn(2, 3, 64, 64), torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    output = model(pixel_values=pixels, labels=labels)
    expected = nn.functional.binary_cross_entropy_with_logits(output.logits, labels)
    torch.testing.assert_close(output.loss, expected)


def test_weights_are_float32_whatever_the_file_holds(tmp_path: Path) -> None:
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


# --- weights from a file


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


def test_weights_and_channels_belong_to_timm_names(tmp_path: Path) -> None:
    folder = save_transformers(tiny_vit(), tmp_path)
    for arguments in ({"weights": "w.safetensors"}, {"in_chans": 1}):
        with pytest.raises(ConfigError, match="go with --model timm:ARCHITECTURE"):
            load_backbone(str(folder), PETS, **arguments)


# --- checkpoints that cannot be loaded


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("timm:test_resnt", r"no architecture 'test_resnt'; did you mean test_resnet"),
        ("timm:resnet5O", r"did you mean .*resnet50"),
        ("timm:xyzzyqqq", r"see timm.list_models\(\)"),
        ("timm:test_resnet.nothing", r"no weights 'test_resnet.nothing'; it has the tags r160_in1k"),
        ("timm:", "no architecture ''"),
        ("timm:zfnet", "its authors published none"),
        ("timm:vit_base_patch16_xp_224", "No pretrained weights"),
    ],
)
def test_wrong_timm_names(name: str, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        load_backbone(name, PETS)


REPORT = """
from hf_tl.backbones.load import load_backbone
from hf_tl.errors import ModelError
for name in {names}:
    try:
        load_backbone(name, ["a", "b"])
    except ModelError as error:
        print(error)
"""


def test_wrong_hub_names(hub: HubServer, tmp_path: Path) -> None:
    names = ["user/nothing", "./no_folder", "resnet50"]
    message = run_python(REPORT.format(names=names), hub.url, tmp_path, has_hf_tl=True)
    assert [f"no model {name!r}" in message for name in names] == [True] * 3
    assert message.count("--model takes a Hub id (user/name), a local directory with config.json") == 3
    assert "did you mean timm:resnet50?" in message


@pytest.mark.slow
def test_timm_weights_without_a_network_say_so(tmp_path: Path) -> None:
    """The address refuses connections, as on a machine without a network; huggingface_hub retries for a minute."""
    message = run_python(REPORT.format(names=["timm:test_resnet"]), "http://127.0.0.1:9", tmp_path, has_hf_tl=True)
    assert "timm cannot create 'test_resnet'" in message
    assert "check the network, or give --weights FILE" in message


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    for call in (lambda: load(tmp_path), lambda: load_backbone(str(tmp_path), PETS)):
        with pytest.raises(ModelError, match=r"(?s)no model .*config\.json"):
            call()


@pytest.mark.parametrize("file", ["model.safetensors", "preprocessor_config.json"])
def test_a_missing_file_is_named(file: str, tmp_path: Path) -> None:
    folder = save_transformers(tiny_vit(), tmp_path)
    (folder / file).unlink()
    with pytest.raises(ModelError, match=file.replace(".", r"\.")):
        load_backbone(str(folder), PETS)


def test_truncated_weights_are_named(checkpoint: tuple[Path, dict[str, torch.Tensor]]) -> None:
    file = checkpoint[0] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"the weights of .* cannot be loaded"):
        load_backbone(str(checkpoint[0]), PETS)


def test_weights_of_another_architecture_are_refused(checkpoint: tuple[Path, dict[str, torch.Tensor]]) -> None:
    save_file({"embedding.weight": torch.zeros(3)}, checkpoint[0] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"do not fit .*: .* and \d+ more missing"):
        load_backbone(str(checkpoint[0]), PETS)


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_one_tensor_of_the_backbone_that_does_not_fit_is_named(
    change: str, checkpoint: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    file = checkpoint[0] / "model.safetensors"
    weights = load_file(file)
    name = next(name for name, tensor in weights.items() if tensor.ndim == 4)
    tensor = weights.pop(name)
    if change == "shape":
        weights[name] = torch.zeros(*tensor.shape[:3], tensor.shape[3] + 2)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=name.removeprefix("timm_model.").replace(".", r"\.")):
        load_backbone(str(checkpoint[0]), PETS)


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (_write, (str(self.marker),))


def _write(path: str) -> None:
    Path(path).write_text("code ran")


def test_a_pickle_that_holds_code_is_refused_and_nothing_runs(
    checkpoint: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    folder, marker = checkpoint[0], tmp_path / "marker"
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Payload(marker)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="the weights of"):
        load_backbone(str(folder), PETS)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()  # the payload works


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (["one"], "at least two classes, found 1: one"),
        ([], "at least two classes, found 0"),
        (["a", "b", "a"], "given twice: a"),
        ("ab", "labels must be a list of names, found 'ab'"),
        ([1, 2], "labels must be a list of names"),
    ],
)
def test_labels_that_cannot_be_used(labels: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load_backbone("timm:test_resnet", labels, pretrained=False)


# --- saved models


def test_load_keeps_names_that_are_given_twice(checkpoint: tuple[Path, dict[str, torch.Tensor]]) -> None:
    """ImageNet's own names contain "crane" twice."""
    folder, weights = checkpoint
    names = ["crane", "heron", "crane"]
    config = json.loads((folder / "config.json").read_text())
    if "label_names" in config:
        edit_config(folder, label_names=names)
    else:
        edit_config(folder, id2label={str(index): name for index, name in enumerate(names)}, label2id={})
    model, _ = load(folder)
    assert labels_of(model) == tuple(names)
    state = model.state_dict()
    assert [name for name in weights if not torch.equal(weights[name], state[name])] == []


def test_load_gives_any_model_as_it_is(checkpoint: tuple[Path, dict[str, torch.Tensor]]) -> None:
    model, transforms = load(checkpoint[0])
    assert labels_of(model) == LABELS
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert transforms.train.pipeline is transforms.eval.pipeline


@pytest.mark.parametrize(
    ("strategy", "trained"),
    [
        (Strategy.transfer(), {"fc"}),
        (Strategy.finetune(stages=1), {"layer4", "fc"}),
        (Strategy.full(), {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_load_freezes_as_recorded(strategy: Strategy, trained: set[str], tmp_path: Path) -> None:
    folder = save_timm(timm_network(), tmp_path)
    record = {"schema_version": 1, "base": {"name": None}, "strategy": strategy.to_record()}
    edit_config(folder, hf_tl=record)
    model, _ = load(folder)
    found = {name.split(".")[1] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert found == trained
    assert model.train().timm_model.layer3.training is ("layer3" in trained)
    assert model.config.hf_tl == json.loads(json.dumps(record))


def test_load_backbone_freezes_for_the_first_phase() -> None:
    strategy = Strategy.finetune(stages=2)
    model, _ = load_backbone("timm:test_resnet", PETS, strategy, pretrained=False)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "timm_model.fc.weight",
        "timm_model.fc.bias",
    ]
    assert Strategy.from_record(model.config.hf_tl["strategy"]) == strategy


def test_a_saved_classic_loads_in_a_fresh_process(tmp_path: Path) -> None:
    save_timm(timm_network("googlenet"), tmp_path)
    code = f"import hf_tl; model, _ = hf_tl.load({str(tmp_path)!r}); print(model.config.architecture)"
    assert run_python(code, "http://127.0.0.1:9", tmp_path, has_hf_tl=True).strip() == "googlenet"


# --- transforms

SETTINGS = [
    {"input_size": (3, 64, 64), "crop_pct": 0.875, "interpolation": "bicubic"},
    {"input_size": (3, 64, 64), "crop_pct": 1.0, "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3},
    {"input_size": (3, 48, 64), "crop_pct": 0.9, "crop_mode": "squash", "interpolation": "bicubic"},
    {"input_size": (3, 64, 64), "crop_pct": 0.95, "crop_mode": "border", "interpolation": "nearest"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.get("crop_mode", "center"))
@pytest.mark.parametrize("size", [(90, 70), (70, 90), (64, 64), (30, 200)], ids=str)
def test_evaluation_pixels_are_timm_s(settings: dict[str, object], size: tuple[int, int], tmp_path: Path) -> None:
    network = timm_network()
    network.pretrained_cfg |= settings
    _, transforms = load_backbone(str(save_timm(network, tmp_path)), LABELS)
    data = resolve_data_config(pretrained_cfg=network.pretrained_cfg)
    expected = create_transform(**data, is_training=False)(photo(*size))
    assert torch.equal(transforms.eval(photo(*size)), expected)
    assert torch.equal(_own_transform(tmp_path)(photo(*size)), expected)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "test_vit", "tf_efficientnet_lite0", "alexnet"])
def test_evaluation_pixels_of_timm_names_are_timm_s(name: str) -> None:
    _, transforms = load_backbone(f"timm:{name}", LABELS, pretrained=False)
    data = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    assert torch.equal(transforms.eval(photo(300, 260)), create_transform(**data, is_training=False)(photo(300, 260)))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("size", [(90, 70), (32, 32)], ids=str)
def test_evaluation_pixels_are_the_image_processor_s(fast: bool, size: tuple[int, int], tmp_path: Path) -> None:
    folder = save_transformers(tiny_vit(), tmp_path, fast=fast)
    _, transforms = load_backbone(str(folder), LABELS)
    assert torch.equal(transforms.eval(photo(*size)), _own_transform(folder)(photo(*size)))


def test_preprocessing_of_a_model_is_that_of_its_transforms(checkpoint: tuple[Path, dict[str, torch.Tensor]]) -> None:
    model, transforms = load_backbone(str(checkpoint[0]), LABELS)
    for found in (preprocessing_of(model, transforms), preprocessing_of(model)):
        assert torch.equal(found.evaluation(photo()), transforms.eval(photo()))
        assert found.input_size == tuple(transforms.eval(photo()).shape)


def test_preprocessing_follows_another_image_size(checkpoint: tuple[Path, dict[str, torch.Tensor]]) -> None:
    model, transforms = load_backbone(str(checkpoint[0]), LABELS, image_size=64)
    found = preprocessing_of(model, transforms)
    assert found.input_size == (3, 64, 64)
    assert found.to_record()["input_size"] == [3, 64, 64]
