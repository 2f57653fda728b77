"""Parameters that the logits do not depend on stay fixed, and looking for them changes nothing else."""

import pytest
import torch
from backbones.steps import SIZE, images
from transformers import Dinov2Config, Dinov2ForImageClassification

import hf_tl
from hf_tl.backbones.stages.freezing import fix_unused, fixed_parameters, freeze, frozen_tensors
from hf_tl.errors import StageError

MASK = "dinov2.embeddings.mask_token"
"""Parameter that only pretraining reads."""


def tiny_dinov2() -> Dinov2ForImageClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    return Dinov2ForImageClassification(Dinov2Config(**sizes, num_labels=3))


def test_what_only_pretraining_reads_is_never_trained() -> None:
    model = tiny_dinov2()
    assert fixed_parameters(model) == frozenset()
    assert fix_unused(model, images(2, 28)) == [MASK]
    assert fixed_parameters(model) == {MASK}
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == [MASK]
    assert fix_unused(model, images(2, 28)) == []
    freeze(model, "all")
    assert list(frozen_tensors(model)) == [MASK]


def test_a_head_that_was_frozen_by_hand_is_an_error() -> None:
    model = tiny_dinov2()
    model.classifier.requires_grad_(False)
    with pytest.raises(StageError, match="expected a head that trains"):
        fix_unused(model, images(2, 28))


def test_the_search_changes_nothing_else() -> None:
    model, _ = hf_tl.load_backbone("timm:test_resnet", ["cat", "dog"], pretrained=False, image_size=SIZE)
    freeze(model, 2)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    modes, random = [module.training for module in model.modules()], torch.get_rng_state()
    assert fix_unused(model, images(2)) == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trained
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
