"""Equality of a network and its two parts, frozen and trained: logits, gradients, statistics."""

from typing import Any

import pytest
import torch
from backbones.parts import IMAGE, build_timm, build_transformers, check, close, draw, features_of, find

from hf_tl.backbones.stages.freezing import freeze
from hf_tl.backbones.stages.stage import list_stages

pytestmark = pytest.mark.long

SMALL_NASNET = {"num_features": 96, "stem_size": 8}
"""Each cell reads the outputs of the two cells before it, so that two outputs are stored."""


ALWAYS: dict[str, dict[str, Any]] = {
    "test_resnet": {},
    "test_vit": {"drop_path_rate": 0.3, "proj_drop_rate": 0.2},
    "test_convnext": {"drop_path_rate": 0.3, "drop_rate": 0.2},
}


CLASSES = (
    *("ViTForImageClassification", "ResNetForImageClassification", "SwinForImageClassification"),
    *("ConvNextForImageClassification",),
)


@pytest.mark.parametrize("name", [*ALWAYS, *CLASSES])
def test_the_parts_equal_the_whole_at_every_stage(name: str) -> None:
    build = (lambda: build_timm(name, **ALWAYS[name])) if name in ALWAYS else (lambda: build_transformers(name))
    model = build()
    values = []
    for depth in range(1, len(list_stages(model))):
        freeze(model, depth)
        values.append(check(model, IMAGE).values)
    assert values[0] == min(values)
    assert len(set(values)) > 1 or "ViT" in name or "vit" in name, "the boundary does not move with the stages"


def test_several_outputs_are_stored_when_the_suffix_reads_them() -> None:
    model = build_timm("nasnetalarge", **SMALL_NASNET)
    freeze(model, 2)
    boundary = check(model, IMAGE)
    assert len(boundary.modules) == len(boundary.leaves) == 2


def test_a_branch_multiplied_by_zero_counts_as_read() -> None:
    """timm initializes the last norm of a residual block with a gain of zero, which changes as soon as it trains."""
    model = build_timm("test_resnet", shaken=False)
    gains = [module.weight for name, module in model.named_modules() if name.endswith("layer4.0.bn2")]
    assert len(gains) == 1
    assert not gains[0].any()
    freeze(model, 2)
    boundary = find(model, IMAGE)
    assert boundary.modules == ["timm_model.layer3"]
    pixel_values = draw(IMAGE)
    features = features_of(boundary, model, pixel_values)
    with torch.no_grad():
        gains[0].fill_(1)
        assert close(boundary.logits(model, features), model(pixel_values).logits)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "ViTForImageClassification"])
@pytest.mark.parametrize(
    "options", [{"norm": "affine"}, {"norm": "adapt"}, {"batch_norm": "keep"}], ids=lambda options: str(options)
)
def test_trained_norms_move_the_boundary(name: str, options: dict[str, Any]) -> None:
    model = build_timm(name) if name.startswith("test_") else build_transformers(name)
    freeze(model, 2)
    whole = find(model, IMAGE).modules
    freeze(model, 2, **options)
    boundary = check(model, IMAGE)
    assert (boundary.modules == whole) == ("batch_norm" in options), "a norm that trains lies before the boundary"


def test_boundary_of_stages_that_are_not_adjacent() -> None:
    model = build_timm("test_resnet")
    freeze(model, ("layer2",))
    assert check(model, IMAGE).modules == ["timm_model.layer1"]
    freeze(model, ("layer1", "layer4"))
    assert {name.split(".")[1] for name in check(model, IMAGE).modules} <= {"conv1", "bn1", "act1", "maxpool"}
    freeze(model, "re:layer3")
    assert check(model, IMAGE).modules == ["timm_model.layer2"]


def test_the_prefix_is_not_run_with_the_suffix() -> None:
    model = build_timm("test_resnet")
    freeze(model, 2)
    boundary = find(model, IMAGE)
    features = features_of(boundary, model, draw(IMAGE))
    called: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda module, inputs, name=name: called.append(name))
    boundary.logits(model, features)
    assert "timm_model.layer4" in called
    assert not [name for name in called if name.startswith(("timm_model.layer3.", "timm_model.conv1."))]
    called.clear()
    features_of(boundary, model, draw(IMAGE))
    assert "timm_model.layer3" in called
    assert not [name for name in called if "layer4" in name or ".fc" in name]


def test_a_forward_attribute_of_a_module_is_restored() -> None:
    """Mixed precision sets a `forward` on the model object."""
    model = build_timm("test_resnet")
    freeze(model, 1)
    layer = model.timm_model.layer3
    layer.forward = forward = layer.forward
    check(model, IMAGE)
    assert layer.__dict__["forward"] is forward


def test_training_works_after_evaluation() -> None:
    """Buffers created in inference mode must not enter the graph."""
    model = build_timm("test_resnet")
    freeze(model, 2)
    boundary = find(model, IMAGE)
    features = features_of(boundary, model, draw(IMAGE))
    with torch.inference_mode():
        expected = boundary.logits(model.eval(), [rows.clone() for rows in features])
    assert boundary._scratch
    assert not any(tensor.is_inference() for tensor in boundary._scratch.values())
    logits = boundary.logits(model, [rows.clone() for rows in features])
    logits.sum().backward()
    assert close(logits.detach(), expected.clone())
    more = [torch.cat([rows, rows, rows]) for rows in features]
    with torch.no_grad():
        assert close(boundary.logits(model, more)[4:8], logits.detach()), "a batch larger than any before"
