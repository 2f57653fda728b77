"""Features at each stage from one forward pass, of small real networks of both libraries."""

from pathlib import Path

import numpy as np
import pytest
import torch
from backbones.checkpoints import save_timm, save_transformers, save_weights, timm_network, tiny_resnet, tiny_vit
from datasets import ClassLabel, Dataset, Features, Image
from torchvision.transforms import Compose, Normalize, ToTensor

from hf_tl.advisor.measuring.depths import Depths
from hf_tl.advisor.measuring.observation import observe
from hf_tl.backbones.load import load_model
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.data.decoding.images import ImageTransform
from hf_tl.features.feature_store import open_store

PLAIN = ImageTransform(Compose([ToTensor(), Normalize((0.5,) * 3, (0.5,) * 3)]))


def images(count: int = 6, side: int = 32, seed: int = 0) -> Dataset:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    features = Features(image=Image(), label=ClassLabel(names=["a", "b"]))
    return Dataset.from_dict({"image": list(pixels), "label": [row % 2 for row in range(count)]}, features=features)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_vit", "timm:test_convnext", "timm:test_efficientnet"])
def test_the_last_depth_is_what_the_head_is_given(name: str) -> None:
    model, preprocessing = load_model(name, ["a", "b"], pretrained=False)
    pixel_values = torch.randn(3, *preprocessing.input_size)
    features, logits = Depths(model).read(pixel_values)
    network = model.timm_model
    expected = network.forward_head(network.forward_features(pixel_values), pre_logits=True)
    torch.testing.assert_close(features[-1], expected)
    torch.testing.assert_close(logits, network(pixel_values))
    assert len(features) == len(list_stages(model)) - 1


@torch.inference_mode()
def test_earlier_depths_are_averages_over_positions_and_tokens() -> None:
    model, _ = load_model("timm:test_resnet", ["a", "b"], pretrained=False)
    pixel_values, network = torch.randn(3, 3, 64, 64), model.timm_model
    maps = network.maxpool(network.act1(network.bn1(network.conv1(pixel_values))))
    features, _ = Depths(model).read(pixel_values)
    torch.testing.assert_close(features[1], network.layer1(maps).mean((2, 3)))
    model = tiny_vit()
    pixel_values = torch.randn(3, 3, 32, 32)
    hidden = model(pixel_values, output_hidden_states=True).hidden_states
    features, _ = Depths(model).read(pixel_values)
    torch.testing.assert_close(features[1], hidden[1].mean(1))


@torch.inference_mode()
def test_channels_are_found_where_they_come_last() -> None:
    model, preprocessing = load_model("timm:swin_tiny_patch4_window7_224", ["a", "b"], pretrained=False)
    features, _ = Depths(model).read(torch.randn(2, *preprocessing.input_size))
    assert [each.shape[1] for each in features] == [96, 96, 192, 384, 768]


def test_the_pass_is_folded_and_kept(tmp_path: Path) -> None:
    store = open_store(tmp_path / "features", 1)
    network = timm_network()
    save_timm(network, tmp_path / "model")
    rows = images()
    first, second = (
        observe(load_model(str(tmp_path / "model"), None)[0], rows, PLAIN, torch.device("cpu"), store) for _ in range(2)
    )
    model, _ = load_model(str(tmp_path / "model"), None)
    with torch.inference_mode():
        expected, logits = Depths(model).read(torch.stack([PLAIN(row["image"]) for row in rows]))
    for observation in (first, second):
        for features, other in zip(observation.depths.values(), expected, strict=True):
            np.testing.assert_allclose(features, other, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(observation.logits, logits, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(first.last, second.last)
    [entry] = store.entries()
    assert entry.title == "evidence, 6 images at 5 depths"
    observe(model, images(seed=1), PLAIN, torch.device("cpu"), store)
    assert len(store.entries()) == 2  # other images have an entry of their own


def test_a_cache_that_cannot_be_written_to_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    store = open_store(tmp_path / "file", 1)
    assert len(observe(tiny_resnet(), images(), PLAIN, torch.device("cpu"), store).last) == 6


# --- the source head


def test_the_source_head_is_kept(tmp_path: Path) -> None:
    model, _ = load_model(str(save_transformers(tiny_vit(), tmp_path)), None)
    assert model.config.hf_tl["origin"]["head"] == "kept"
    assert torch.equal(model.classifier.weight, tiny_vit().classifier.weight)
    other, _ = load_model(str(tmp_path), ["cat", "dog"])
    assert other.config.hf_tl["origin"]["head"] == "new"


def test_a_file_with_the_architectures_classes_has_a_head(tmp_path: Path) -> None:
    whole = timm_network("test_resnet", tuple(map(str, range(1000))))
    file = save_weights(whole, tmp_path / "whole.safetensors")
    model, _ = load_model("timm:test_resnet", None, weights=str(file))
    assert model.config.hf_tl["origin"]["head"] == "kept"
    assert torch.equal(model.timm_model.fc.weight, whole.fc.weight)
    part = save_weights(timm_network(), tmp_path / "part.safetensors")
    model, _ = load_model("timm:test_resnet", None, weights=str(part))
    assert model.config.hf_tl["origin"]["head"] == "new"


def test_a_checkpoint_without_a_head_has_none(tmp_path: Path) -> None:
    save_transformers(tiny_vit(), tmp_path)
    tiny_vit().vit.save_pretrained(tmp_path)
    model, _ = load_model(str(tmp_path), None)
    assert model.config.hf_tl["origin"]["head"] == "new"
