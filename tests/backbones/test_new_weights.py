"""Weights that are drawn anew for a model that is there: all of them, or those of its head."""

from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from hf_tl.backbones.load import load_model
from hf_tl.backbones.stages import list_stages
from hf_tl.backbones.transformers import new_head, random_weights


@pytest.mark.parametrize("name", ["timm:tf_efficientnet_lite0", "timm:resnet18"])
def test_a_new_head_is_that_of_pretrained_weights(name: str, tmp_path: Path) -> None:
    """Networks that are not pretrained draw their heads in other ways: an EfficientNet's is eleven times as large."""
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model(name.removeprefix("timm:")).state_dict(), weights)
    model, _ = load_model(name, ["a", "b", "c"], weights=str(weights), image_size=64)
    expected = model.get_submodule("timm_model").get_classifier().weight
    found = new_head(type(model), model.config, seed=1)
    assert found.keys() == set(list_stages(model)[-1].parameter_names)
    [drawn] = [tensor for tensor in found.values() if tensor.ndim == 2]
    assert drawn.shape == expected.shape
    assert float(drawn.std()) == pytest.approx(float(expected.std()), rel=0.1)
    assert not drawn.equal(expected)
    state, anew = model.state_dict(), random_weights(type(model), model.config, seed=1)
    assert {key: tensor.shape for key, tensor in anew.items()} == {key: tensor.shape for key, tensor in state.items()}
    again = random_weights(type(model), model.config, seed=1)
    assert all(anew[key].equal(again[key]) for key in anew)
