"""`load`: labels, head and frozen stages of a saved model."""

import json
from pathlib import Path

import pytest
import torch
from backbones.checkpoints import LABELS, edit_config, labels_of, save_timm, timm_network
from hub.client import run_python

from hf_tl.backbones.load import load
from hf_tl.strategy import Strategy


def test_load_keeps_duplicate_class_names(checkpoint: tuple[Path, dict[str, torch.Tensor]]) -> None:
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


def test_load_changes_nothing_in_other_models(checkpoint: tuple[Path, dict[str, torch.Tensor]]) -> None:
    model, transforms = load(checkpoint[0])
    assert labels_of(model) == LABELS
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert transforms.train.pipeline is transforms.eval.pipeline


@pytest.mark.parametrize(
    ("strategy", "trained"),
    [
        (Strategy.transfer(), {"fc"}),
        (Strategy.finetune(trainable_stages=2), {"layer4", "fc"}),
        (Strategy.full(), {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_load_freezes_as_recorded(strategy: Strategy, trained: set[str], tmp_path: Path) -> None:
    folder = save_timm(timm_network(), tmp_path)
    record = {"schema_version": 1, "base": {"name": None}, "strategy": strategy.to_record()}
    edit_config(folder, hf_tl=record)
    model, _ = load(folder)
    modules = {name.split(".")[1] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert modules == trained
    assert model.train().timm_model.layer3.training is ("layer3" in trained)
    assert model.config.hf_tl == json.loads(json.dumps(record))


def test_a_saved_classic_loads_in_a_fresh_process(tmp_path: Path) -> None:
    save_timm(timm_network("googlenet"), tmp_path)
    code = f"import hf_tl; model, _ = hf_tl.load({str(tmp_path)!r}); print(model.config.architecture)"
    assert run_python(code, "http://127.0.0.1:9", tmp_path, has_hf_tl=True).strip() == "googlenet"
