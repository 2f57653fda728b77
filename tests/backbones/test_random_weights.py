"""Random reinitialization of an existing model."""

import pytest

from hf_tl.backbones.libraries.transformers import random_weights
from hf_tl.backbones.load import load_model

pytestmark = pytest.mark.long


@pytest.mark.parametrize(
    ("name", "image_size"),
    [("timm:tf_efficientnet_lite0", 64), ("timm:test_vit", 96), ("timm:zfnet", 64), ("timm:test_resnet", 32)],
)
def test_random_weights_follow_the_architecture_and_the_seed(name: str, image_size: int) -> None:
    """The distributions are the architecture's, not the one that transformers uses for all layers."""
    model, _ = load_model(name, ["a", "b", "c"], pretrained=False, image_size=image_size)
    own = model.state_dict()
    drawn, again, other = (random_weights(type(model), model.config, seed) for seed in (1, 1, 2))
    assert {key: tensor.shape for key, tensor in drawn.items()} == {key: tensor.shape for key, tensor in own.items()}
    assert all(drawn[key].equal(again[key]) for key in drawn)
    large = [key for key, tensor in own.items() if key.endswith("weight") and tensor.ndim > 1 and tensor.numel() > 1000]
    for key in large:
        assert not drawn[key].equal(other[key])
        assert float(drawn[key].std()) == pytest.approx(float(own[key].std()), rel=0.15), key
    assert large
