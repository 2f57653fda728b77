"""Pretraining and license of published weights: what origin, card and messages say, and what the network pools."""

import logging
from pathlib import Path

import pytest
import timm
import torch
from backbones.checkpoints import LABELS, PETS, photo, save_timm, save_transformers, timm_network, tiny_vit
from huggingface_hub import constants
from timm.models import save_for_hf
from transformers import AutoModelForImageClassification

from hf_tl.backbones.libraries.pooling import pooling_args
from hf_tl.backbones.load import load, load_backbone
from hf_tl.backbones.weights.pretraining import METHODS, authors_pretraining, timm_method, timm_pretraining
from hf_tl.backbones.weights.provenance import provenance_of
from hf_tl.errors import ModelError

TINY = {"depth": 2, "embed_dim": 64, "num_heads": 4}
DINOV3 = "timm/tiny_dinov3"
COMMIT = "0" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache of the Hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def in_cache(cache: Path, name: str) -> Path:
    """Return the folder of a repository in the cache, still empty."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return snapshot


@pytest.fixture
def dinov3(cache: Path) -> torch.nn.Module:
    """Return a small DINOv3, which is in the cache as timm publishes it: without a classifier."""
    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch16_dinov3", num_classes=0, **TINY).eval()
    save_for_hf(network, in_cache(cache, DINOV3), model_args=TINY, safe_serialization=True)
    return network


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("hf_tl"), "propagate", True)
    return caplog


@pytest.mark.parametrize(
    ("weights", "pretraining"),
    [
        ("convnext_tiny.dinov3_lvd1689m", "self-supervised (DINOv3)"),
        ("convnext_tiny.eupe_lvd1689m", None),
        ("resnet18.fb_swsl_ig1b_ft_in1k", None),
        ("resnet50.a1_in1k", "supervised"),
        ("resnet50_clip.openai", "image-text (CLIP)"),
        ("beit_base_patch16_224.in22k_ft_in22k_in1k", "self-supervised (BEiT), then supervised"),
        ("hiera_tiny_224.mae", "self-supervised (MAE)"),
        ("hiera_tiny_224.mae_in1k_ft_in1k", "self-supervised (MAE), then supervised"),
        ("test_resnet.r160_in1k", "supervised"),
        ("vit_base_patch14_reg4_dinov2.lvd142m", "self-supervised (DINOv2)"),
        ("vit_base_patch16_224.augreg_in21k", "supervised"),
        ("vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", "image-text (CLIP), then supervised"),
        ("vit_base_patch16_dinov3_qkvb.eupe_lvd1689m", None),
        ("vit_base_patch16_siglip_224.v2_webli", "image-text (SigLIP 2)"),
        ("vit_base_patch16_siglip_224.webli", "image-text (SigLIP)"),
        ("vit_pe_core_base_patch16_224.fb", None),
    ],
)
def test_the_tag_says_how_weights_were_pretrained(weights: str, pretraining: str | None) -> None:
    assert weights in timm.list_pretrained()
    assert timm_pretraining(weights) == pretraining


def test_every_method_of_the_table_has_weights() -> None:
    methods = {timm_method(weights) for weights in timm.list_pretrained()}
    assert methods - {None} == set(METHODS)


def test_weights_with_the_classes_of_imagenet_were_trained_on_labels() -> None:
    classifiers = [name for name in timm.list_pretrained() if timm.get_pretrained_cfg(name).num_classes == 1000]
    known = {name: timm_pretraining(name) for name in classifiers if timm_pretraining(name) is not None}
    others = [name for name, pretraining in known.items() if not str(pretraining).endswith("supervised")]
    # timm states 1000 classes for them, but their weights have no classifier
    assert others == ["resmlp_12_224.fb_dino", "resmlp_24_224.fb_dino"]
    assert len(known) > 1_000


def test_only_the_authors_repositories_are_known() -> None:
    assert authors_pretraining("microsoft/beit-base-patch16-224", "beit", has_classifier=True) == (
        "self-supervised (BEiT), then supervised"
    )
    assert authors_pretraining("user/dinov2-of-cats", "dinov2", has_classifier=False) is None


def test_a_trained_class_token_is_pooled(dinov3: torch.nn.Module, tmp_path: Path) -> None:
    assert dinov3.global_pool == "avg"
    model, transforms = load_backbone(DINOV3, PETS)
    model.save_pretrained(tmp_path / "saved")
    reloaded = AutoModelForImageClassification.from_pretrained(tmp_path / "saved").eval()
    pixels = transforms.eval(photo())[None]
    with torch.inference_mode():
        head = model.timm_model.head
        expected = head(dinov3.forward_features(pixels)[:, 0])
        torch.testing.assert_close(model(pixel_values=pixels).logits, expected)
        torch.testing.assert_close(reloaded(pixel_values=pixels).logits, expected)
    again, _ = load(tmp_path / "saved")
    assert again.timm_model.global_pool == "token"


@pytest.mark.parametrize(
    ("weights", "classes"), [("vit_small_patch16_dinov3.lvd1689m", 10), ("convnext_tiny.dinov3_lvd1689m", 0)]
)
def test_a_classifier_and_a_network_without_class_token_keep_their_pooling(weights: str, classes: int) -> None:
    assert pooling_args(weights, classes) == {}


def test_origin_names_pretraining_and_license(dinov3: torch.nn.Module) -> None:
    model, _ = load_backbone(DINOV3, PETS)
    origin = provenance_of(model).origin
    assert (origin.pretraining, origin.license) == ("self-supervised (DINOv3)", "dinov3-license")


def test_a_license_with_terms_is_announced_before_the_weights_are_read(
    dinov3: torch.nn.Module, cache: Path, lines: pytest.LogCaptureFixture
) -> None:
    next(cache.rglob("*.safetensors")).unlink()
    with pytest.raises(ModelError):
        load_backbone(DINOV3, PETS)
    expected = (
        f"license dinov3-license: read its terms before you use or publish them (https://huggingface.co/{DINOV3})"
    )
    assert expected in lines.text


def test_a_license_is_announced_before_timm_downloads(cache: Path, lines: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ModelError):
        load_backbone("timm:vit_small_patch16_dinov3.lvd1689m", PETS)
    assert "license dinov3-license" in lines.text


def test_permissive_licenses_and_those_of_folders_are_not_announced(
    dinov3: torch.nn.Module, cache: Path, tmp_path: Path, lines: pytest.LogCaptureFixture
) -> None:
    save_timm(timm_network(), in_cache(cache, "timm/test_resnet.r160_in1k"))
    load_backbone("timm/test_resnet.r160_in1k", PETS)
    load_backbone(str(next(cache.rglob("model.safetensors")).parent), PETS)
    assert "license" not in lines.text


def test_a_local_folder_of_transformers_has_no_known_pretraining(tmp_path: Path) -> None:
    model, _ = load_backbone(str(save_transformers(tiny_vit(), tmp_path)), LABELS)
    assert provenance_of(model).origin.pretraining is None
