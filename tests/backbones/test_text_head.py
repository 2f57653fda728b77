"""A head from class names predicts what the two-tower model itself predicts, in a model that needs no hf_tl."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from backbones.checkpoints import save_transformers, tiny_vit
from backbones.two_towers import (
    COLORS,
    PROMPT,
    colored,
    image_processor,
    make_towers,
    pixels_of,
    tokenizer,
    trained_towers,
    write_towers,
    zero_shot_logits,
)
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageClassification, CLIPForImageClassification, CLIPVisionConfig, CLIPVisionModel

import hf_tl
from hf_tl.backbones.text.embedding import embed_classes
from hf_tl.backbones.text.text_head import head_layer, text_head_of
from hf_tl.backbones.text.towers import timm_architecture, timm_weights
from hf_tl.backbones.weights.provenance import provenance_of
from hf_tl.config import ModelConfig
from hf_tl.errors import ConfigError, ModelError
from hf_tl.prompts import TEMPLATES

FAMILIES = ("clip", "siglip")
LABELS = list(COLORS)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("towers")
    return {family: write_towers(folder / family, family) for family in FAMILIES}


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return list(colored(200, seed=1)["image"])


def load(source: Path | str, **options: Any) -> tuple[Any, Any]:
    return hf_tl.load_backbone(str(source), LABELS, head_init="text", **{"prompt": PROMPT, **options})


def logits_of(model: Any, pixel_values: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(pixel_values=pixel_values).logits


def timm_tower(folder: Path) -> tuple[str, str]:
    """Return the names of a backbone in timm's format, whose checkpoint has no text tower, and of its text model."""
    model, _ = hf_tl.load_backbone(str(folder), LABELS, head_init="text")
    place = folder.with_name(f"{folder.name}-tower")
    del model.config.hf_tl
    model.save_pretrained(place)
    return str(place), str(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_predictions_are_those_of_the_two_tower_model(
    checkpoints: dict[str, Path], images: list[Image.Image], family: str
) -> None:
    pixels = pixels_of(images, family)
    expected = zero_shot_logits(trained_towers(family), pixels)
    accuracy = (expected.argmax(1) == torch.tensor(colored(200, seed=1)["label"])).float().mean()
    assert 0.5 < accuracy < 1  # above chance, 0.2
    model, _ = load(checkpoints[family])
    assert torch.equal(logits_of(model, pixels).argmax(1), expected.argmax(1))
    assert provenance_of(model).origin.head == "text"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_saved_model_is_plain(
    checkpoints: dict[str, Path], images: list[Image.Image], family: str, tmp_path: Path
) -> None:
    model, transforms = load(checkpoints[family])
    pixels = torch.stack([transforms.eval(image) for image in images[:5]])
    model.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(again).__name__ == "TimmWrapperForImageClassification"
    assert torch.allclose(logits_of(again.eval(), pixels), logits_of(model, pixels), atol=1e-5)
    assert [again.config.id2label[index] for index in range(len(LABELS))] == LABELS


@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_are_those_of_the_image_processor(
    checkpoints: dict[str, Path], images: list[Image.Image], family: str
) -> None:
    _, transforms = load(checkpoints[family])
    pixels = torch.stack([transforms.eval(image) for image in images])
    assert (pixels - pixels_of(images, family)).abs().max() < 0.03  # one of 256 levels, divided by the deviation


def test_the_probabilities_are_those_of_an_image_of_mean_norm(
    checkpoints: dict[str, Path], images: list[Image.Image]
) -> None:
    model, _ = load(checkpoints["clip"])
    head, towers, pixels = text_head_of(model), trained_towers("clip"), pixels_of(images, "clip")
    assert head is not None
    with torch.inference_mode():
        norms = towers.get_image_features(pixel_values=pixels).pooler_output.norm(dim=1)
    factor = (norms / head.norm)[:, None]
    assert torch.allclose(logits_of(model, pixels), zero_shot_logits(towers, pixels) * factor, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_timm_backbone_takes_the_text_tower_of_its_own_weights(
    checkpoints: dict[str, Path], images: list[Image.Image], family: str
) -> None:
    tower, text_model = timm_tower(checkpoints[family])
    model, _ = load(tower, text_model=text_model)
    pixels = pixels_of(images, family)
    assert torch.equal(logits_of(model, pixels).argmax(1), zero_shot_logits(trained_towers(family), pixels).argmax(1))


def test_the_text_tower_of_other_weights_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    tower, _ = timm_tower(checkpoints["clip"])
    other = write_towers(tmp_path / "other", "clip", make_towers("clip"))
    with pytest.raises(ModelError, match=r"found a backbone with others \(.* differs by"):
        load(tower, text_model=str(other))
    wider = write_towers(tmp_path / "wider", "clip", make_towers("clip", hidden_size=48))
    with pytest.raises(ModelError, match=r"features of 32 values, as the backbone has, found .*wider' for 48"):
        load(tower, text_model=str(wider))


def test_a_backbone_without_text_is_refused_by_name(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    tower, _ = timm_tower(checkpoints["clip"])
    vit = save_transformers(tiny_vit(), tmp_path / "plain-vit")
    for name in (tower, str(vit)):
        with pytest.raises(ModelError, match=rf"{Path(name).name} has none: name the CLIP or SigLIP .* as text_model"):
            load(name)
    with pytest.raises(ModelError, match=r"with a text tower, found .* of type vit"):
        load(tower, text_model=str(vit))


def test_a_classifier_without_its_text_tower_is_refused(tmp_path: Path) -> None:
    towers = make_towers("clip")
    CLIPForImageClassification(towers.config).save_pretrained(tmp_path)
    image_processor("clip").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"which lacks .*: name the checkpoint that it was made from"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"prompt": "a photo"}, "templates with {} in place of the class name"),
        ({"head_init": None}, "prompt is for a head from class names"),
        ({"head_init": None, "prompt": None, "text_model": "clip"}, "text_model is for a head from class names"),
        ({"pretrained": False}, "needs pretrained weights"),
        ({"strategy": "scratch"}, "needs pretrained weights"),
        ({"head_init": "names"}, "head_init takes text"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_loaded(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        hf_tl.load_backbone("no such model", LABELS, **{"head_init": "text", "prompt": PROMPT, **options})
    if "strategy" not in options:
        with pytest.raises(ConfigError, match=match):
            ModelConfig("no such model", **{"head_init": "text", "prompt": PROMPT, **options})


def test_class_names_that_are_numbers_are_refused(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"class names in words, found 0, 1_2, which say nothing"):
        hf_tl.load_backbone(str(checkpoints["clip"]), ["0", "1_2", "red"], head_init="text")


def test_prompts_fill_in_the_class_names_and_are_averaged(checkpoints: dict[str, Path]) -> None:
    towers = trained_towers("clip")
    first, second, both = (
        embed_classes(towers, tokenizer(), ["dark_red", "blue"], templates)
        for templates in (["a photo of {}"], ["the large {}"], ["a photo of {}", "the large {}"])
    )
    spaced = embed_classes(towers, tokenizer(), ["dark red", "blue"], ["a photo of {}"])
    assert torch.equal(first, spaced)
    assert not torch.allclose(first, second)
    mean = (first + second) / 2
    assert torch.allclose(both, mean / mean.norm(dim=1, keepdim=True), atol=1e-6)
    model, _ = hf_tl.load_backbone(str(checkpoints["clip"]), LABELS, head_init="text")
    head = text_head_of(model)
    assert head is not None
    assert head.templates == TEMPLATES


def test_another_image_size_keeps_the_text_head(checkpoints: dict[str, Path]) -> None:
    model, transforms = load(checkpoints["clip"], image_size=48)
    assert transforms.eval(Image.new("RGB", (90, 70))).shape == (3, 48, 48)
    assert text_head_of(model) is not None


def test_a_changed_head_is_no_text_head(checkpoints: dict[str, Path]) -> None:
    model, _ = load(checkpoints["clip"])
    head_layer(model).weight.data += 0.1
    assert text_head_of(model) is None


def test_towers_of_known_sizes_have_the_names_of_timm() -> None:
    def named(**sizes: Any) -> tuple[str, dict[str, Any]]:
        config = CLIPVisionConfig(**sizes)
        with torch.device("meta"):
            tower = CLIPVisionModel(config)
        return timm_architecture(config, timm_weights(getattr(tower, "vision_model", tower).state_dict()))

    assert named() == ("vit_base_patch32_clip_quickgelu_224", {})
    assert named(hidden_act="gelu", patch_size=16) == ("vit_base_patch16_clip_224", {})
    name, arguments = named(hidden_size=96, num_attention_heads=3)
    assert (name, arguments["embed_dim"], arguments["act_layer"]) == ("vit_base_patch32_clip_224", 96, "quick_gelu")


def test_the_activation_of_the_text_model_is_asked_of_a_timm_backbone(tmp_path: Path) -> None:
    """timm has the weights of OpenAI with GELU, and with the QuickGELU that they were trained with."""
    tower, text_model = timm_tower(write_towers(tmp_path / "clip", "clip"))
    load(tower, text_model=text_model)
    config = Path(tower, "config.json")
    config.write_text(config.read_text().replace('"quick_gelu"', '"gelu"'))
    with pytest.raises(ModelError, match=r"with the activation quick_gelu of the text model .* found GELU"):
        load(tower, text_model=text_model)


def test_no_text_tower_is_needed_for_other_heads(checkpoints: dict[str, Path]) -> None:
    model, _ = hf_tl.load_backbone(str(checkpoints["clip"]), LABELS)
    assert type(model).__name__ == "CLIPForImageClassification"
    assert timm.is_model("vit_base_patch32_clip_224")
