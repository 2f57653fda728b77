"""Backbone presets: they exist, of the stated sizes, and their table says how they were pretrained and licensed."""

import pytest
import timm
import torch

from hf_tl.backbones.candidates import candidates
from hf_tl.backbones.presets import BUDGETS, LIMITS, PRESETS, describe_presets
from hf_tl.cli import main
from hf_tl.config import ModelConfig


@pytest.mark.parametrize(("preset", "name"), [(preset, name) for preset in BUDGETS for name in PRESETS[preset]])
def test_a_backbone_for_a_budget_has_the_stated_license_and_size(preset: str, name: str) -> None:
    architecture = name.removeprefix("timm/")
    assert architecture in timm.list_pretrained()
    assert timm.get_pretrained_cfg(architecture).license in ("apache-2.0", "mit")
    with torch.device("meta"):
        model = timm.create_model(architecture)
    smaller = [LIMITS[budget] for budget in BUDGETS if LIMITS[budget] < LIMITS[preset]]
    assert max(smaller, default=0) < sum(parameter.numel() for parameter in model.parameters()) <= LIMITS[preset]


@pytest.mark.parametrize("preset", sorted(PRESETS.keys() - set(BUDGETS)))
def test_a_backbone_of_a_kind_of_pretraining_learned_without_labels(preset: str) -> None:
    rows = {row.split()[0]: row for row in describe_presets().splitlines() if row.strip()}
    for name in PRESETS[preset]:
        assert f" {preset.replace('_', '-')} (" in rows[name]
        assert "supervised" not in rows[name].replace("self-supervised", "")
        if name.startswith("timm/"):
            assert name.removeprefix("timm/") in timm.list_pretrained()
            with torch.device("meta"):
                model = timm.create_model(name.removeprefix("timm/"), num_classes=0)
            assert sum(parameter.numel() for parameter in model.parameters()) <= LIMITS[preset]


def test_the_table_of_presets_names_each_backbone_with_its_license(capsys: pytest.CaptureFixture[str]) -> None:
    main(["presets"])
    rows = [row.split() for row in capsys.readouterr().out.splitlines()]
    licenses = {row[0]: row[-1] for row in rows if row and "/" in row[0]}
    assert set(licenses) == {name for names in PRESETS.values() for name in names}
    for name, license_name in licenses.items():
        if name.startswith("timm/"):
            assert license_name == timm.get_pretrained_cfg(name.removeprefix("timm/")).license


def test_a_preset_stands_for_its_backbones() -> None:
    backbones = candidates(ModelConfig(model="mobile, google/vit-base-patch16-224"))
    assert [backbone.name for backbone in backbones] == [*PRESETS["mobile"], "google/vit-base-patch16-224"]


def test_a_folder_takes_precedence_over_a_preset(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small").mkdir()
    monkeypatch.chdir(tmp_path)
    assert [backbone.name for backbone in candidates(ModelConfig(model="small"))] == ["small"]
