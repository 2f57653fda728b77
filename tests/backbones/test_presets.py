"""Backbone presets for a budget: they exist, with weights under the stated licenses and of the stated sizes."""

import pytest
import timm
import torch

from hf_tl.backbones.candidates import candidates
from hf_tl.backbones.presets import LIMITS, PRESETS
from hf_tl.config import ModelConfig


@pytest.mark.parametrize(("preset", "name"), [(preset, name) for preset, names in PRESETS.items() for name in names])
def test_a_backbone_of_a_preset_has_the_stated_license_and_size(preset: str, name: str) -> None:
    architecture = name.removeprefix("timm/")
    assert architecture in timm.list_pretrained()
    assert timm.get_pretrained_cfg(architecture).license in ("apache-2.0", "mit")
    with torch.device("meta"):
        model = timm.create_model(architecture)
    smaller = [limit for limit in LIMITS.values() if limit < LIMITS[preset]]
    assert max(smaller, default=0) < sum(parameter.numel() for parameter in model.parameters()) <= LIMITS[preset]


def test_a_preset_stands_for_its_backbones() -> None:
    backbones = candidates(ModelConfig(model="mobile, google/vit-base-patch16-224"))
    assert [backbone.name for backbone in backbones] == [*PRESETS["mobile"], "google/vit-base-patch16-224"]


def test_a_folder_takes_precedence_over_a_preset(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small").mkdir()
    monkeypatch.chdir(tmp_path)
    assert [backbone.name for backbone in candidates(ModelConfig(model="small"))] == ["small"]
