"""The scores of an exported network are those of NumPy, for features of every kind of last layer."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from abstention.test_head_input import load, pixels_of, tiny_dinov2
from backbones.checkpoints import tiny_vit
from transformers import PreTrainedModel

from hf_tl.abstention.head_input import HeadReader
from hf_tl.abstention.in_torch import LogitsAndScore
from hf_tl.abstention.scores import SCORES

NAMES = ("test_resnet", "test_vit", "test_convnext")
NETWORKS = [pytest.param(lambda name=name: load(name), id=name) for name in NAMES]


@pytest.mark.parametrize("make", [*NETWORKS, tiny_vit, tiny_dinov2])
@pytest.mark.parametrize("name", SCORES)
def test_scores_are_those_of_numpy(make: Callable[[], PreTrainedModel], name: str) -> None:
    model = make().eval()
    pixels = pixels_of(model)
    features, logits = (tensor.numpy() for tensor in HeadReader(model)(pixels))
    random = np.random.default_rng(0)
    training = features.mean(0) + random.normal(size=(40, features.shape[1])).astype(np.float32)
    score = SCORES[name].fit(training, np.arange(40) % 3)
    assert score is not None
    with torch.no_grad():
        own_logits, own = LogitsAndScore(model, score, pixels[:1]).eval()(pixels)
    np.testing.assert_allclose(own_logits.numpy(), logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(own.numpy(), score(features, logits), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SCORES)
def test_few_training_images_are_enough(name: str) -> None:
    """Fewer than the neighbors that are counted."""
    model = load("test_resnet").eval()
    pixels = pixels_of(model)
    features, logits = (tensor.numpy() for tensor in HeadReader(model)(pixels))
    score = SCORES[name].fit(features[:3] + 1, np.array([0, 1, 1]))
    assert score is not None
    with torch.no_grad():
        _, own = LogitsAndScore(model, score, pixels[:1]).eval()(pixels)
    np.testing.assert_allclose(own.numpy(), score(features, logits), rtol=1e-3, atol=1e-4)
