"""Comparison of a network with its two parts, frozen and trained: logits, gradients, statistics."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from backbones import zoo
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_tl.backbones.libraries.timm import create_timm_backbone
from hf_tl.backbones.prefix.boundary import Boundary
from hf_tl.backbones.prefix.search import find_boundary

IMAGE = (3, zoo.SIZE, zoo.SIZE)


def build_timm(architecture: str, shaken: bool = True, **arguments: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model, _ = create_timm_backbone(
        architecture, zoo.LABELS, pretrained=False, model_args=arguments, image_size=zoo.SIZE
    )
    return zoo.shake(model) if shaken else model.eval()


def build_transformers(name: str, **arguments: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    return zoo.shake(cls(cls.config_class(**{**zoo.TRANSFORMERS[name], **arguments}, num_labels=len(zoo.LABELS))))


def draw(image: tuple[int, int, int], count: int = 4) -> Tensor:
    return torch.randn(count, *image, generator=torch.Generator().manual_seed(5))


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-4) -> bool:
    return torch.allclose(actual, expected, rtol=rtol, atol=rtol * float(expected.abs().max()) + 1e-12)


def state_of(model: nn.Module) -> dict[str, Any]:
    """Return all state that finding a boundary must not change."""
    return {
        "tensors": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "buffers": {name: buffer.clone() for name, buffer in model.named_buffers()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "own": {name: dict.fromkeys(module.__dict__) for name, module in model.named_modules()},
        "forward": {name: module.__dict__.get("forward") for name, module in model.named_modules()},
        "random": {"": torch.get_rng_state()},
        "gradients": {name: parameter.grad is None for name, parameter in model.named_parameters()},
        "trains": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
    }


def assert_unchanged(model: nn.Module, before: dict[str, Any]) -> None:
    after = state_of(model)
    for kind, values in before.items():
        assert values.keys() == after[kind].keys()
        for name, value in values.items():
            current = after[kind][name]
            is_same = torch.equal(value, current) if isinstance(value, Tensor) else value == current
            assert is_same, (kind, name)


def find(model: PreTrainedModel, image: tuple[int, int, int]) -> Boundary:
    before = state_of(model)
    boundary = find_boundary(model, image)
    assert_unchanged(model, before)
    return boundary


def features_of(boundary: Boundary, model: PreTrainedModel, pixel_values: Tensor) -> list[Tensor]:
    mode = model.training
    with torch.inference_mode():
        features = boundary.features(model.eval(), pixel_values)
    model.train(mode)
    # tensors from disk are not inference tensors
    return [rows.clone() for rows in features]


def trained_step(
    model: PreTrainedModel, logits_of: Callable[[], Tensor]
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Run forward and backward in training mode; return logits, gradients and buffers, and restore all state."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    model.zero_grad()
    torch.manual_seed(3)
    logits = logits_of()
    nn.functional.cross_entropy(logits, torch.arange(len(logits)) % 3).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    moved = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    model.zero_grad()
    model.eval()
    return logits.detach(), gradients, moved


def check(model: PreTrainedModel, image: tuple[int, int, int]) -> Boundary:
    """Compare the parts with the whole of a frozen network."""
    boundary = find(model, image)
    pixel_values = draw(image)
    features = features_of(boundary, model, pixel_values)
    assert [tuple(rows.shape) for rows in features] == [(4, *leaf.row_shape) for leaf in boundary.leaves]
    assert boundary.values == sum(rows[0].numel() for rows in features)
    with torch.no_grad():
        assert close(boundary.logits(model.eval(), [rows.clone() for rows in features]), model(pixel_values).logits)

    whole = trained_step(model, lambda: model(pixel_values=pixel_values).logits)
    parts = trained_step(model, lambda: boundary.logits(model, [rows.clone() for rows in features]))
    assert close(parts[0], whole[0])
    assert parts[1].keys() == whole[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in whole[1].values())
    for name, gradient in whole[1].items():
        assert torch.allclose(parts[1][name], gradient, rtol=1e-3, atol=1e-4 * largest), name
    for name, buffer in whole[2].items():
        assert close(parts[2][name].double(), buffer.double()), name

    other = [rows.flip(0) for rows in features]
    with torch.no_grad():
        assert close(boundary.logits(model, other), model(pixel_values.flip(0)).logits), (
            "an image has no row of its own"
        )
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    assert all(map(torch.equal, features_of(boundary, model, pixel_values), features)), "features moved"
    return boundary
