"""Evaluation with horizontal flip."""

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from hf_tl.evaluation.measure import measure


class Half(nn.Module):
    """Model whose logits are the mean brightness of the left and the right half."""

    def forward(self, pixel_values: torch.Tensor) -> object:
        left, right = pixel_values.mean((1, 2)).chunk(2, dim=1)
        return type("Output", (), {"logits": torch.stack([left.mean(1), right.mean(1)], 1)})


@pytest.mark.parametrize(("flip", "expected"), [(False, 1.0), (True, 0.5)])
def test_the_mirror_image_counts_as_much_as_the_image(flip: bool, expected: float) -> None:
    """The average over an image and its mirror image does not reveal the brighter half."""
    images = torch.zeros(4, 3, 2, 4)
    for index in range(4):
        images[index, :, :, slice(0, 2) if index % 2 == 0 else slice(2, 4)] = 1.0
    rows = [{"pixel_values": image, "labels": index % 2} for index, image in enumerate(images)]
    metrics = measure(Accelerator(cpu=True), Half(), rows, batch_size=3, flip=flip)
    assert metrics["accuracy"] == expected
    if flip:
        assert metrics["loss"] == pytest.approx(torch.tensor(2.0).log().item())
