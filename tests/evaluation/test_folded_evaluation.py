"""Long evaluations run with BatchNorm folded into the convolutions, with the same predictions."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

import hf_tl
from hf_tl.data.decoding.images import collate
from hf_tl.evaluation import measure
from hf_tl.evaluation.measure import FOLDED_FROM, predict_split


class Pixels(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __init__(self, count: int) -> None:
        self.pixels = torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.pixels[index], "labels": torch.tensor(index % 2), "index": torch.tensor(index)}


@pytest.fixture(params=[1, "all"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    model, _ = hf_tl.load_backbone("timm:test_resnet", ["a", "b"], pretrained=False, image_size=64)
    hf_tl.freeze(model, "all")
    model.train()(pixel_values=torch.randn(8, 3, 64, 64))  # gives the norms statistics of their own
    hf_tl.freeze(model, request.param)
    return model


def test_long_evaluations_are_folded_and_give_the_same(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(
                lambda module, *_: calls.append("folded" if "forward" in module.__dict__ else "own")
            )
    images, weights = Pixels(FOLDED_FROM), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = predict_split(Accelerator(), model, images, 50, collate_fn=collate).logits
    assert calls[-1] == "folded"
    monkeypatch.setattr(measure, "FOLDED_FROM", FOLDED_FROM + 1)
    calls.clear()
    plain = predict_split(Accelerator(), model, images, 50, collate_fn=collate).logits
    assert {*calls} == {"own"}
    np.testing.assert_allclose(folded, plain, rtol=1e-4, atol=1e-5)
    assert not np.array_equal(folded, plain), "nothing was folded"
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
