"""The reload check compares both models on one device in one precision, even if training used TF32."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from publish.records import make_record
from publish.saving import save_model
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hf_tl.backbones.load import load_model
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.publish.save import TOLERANCE, check_reload

HAS_PRECISIONS = hasattr(torch.backends.cudnn, "conv")
"""Whether torch names the precision of float32 products; older versions only allow TF32 or not."""
SWITCH, TF32, IEEE = ("fp32_precision", "tf32", "ieee") if HAS_PRECISIONS else ("allow_tf32", True, False)
PRODUCTS = (functional.linear, functional.conv2d, torch.conv2d)


class Tf32(TorchFunctionMode):
    """Round the inputs of products to the 10 bits of TF32, unless the precision of float32 products is `ieee`."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, arguments: tuple[Any, ...] = (), options: Any = None
    ) -> Any:
        if function in PRODUCTS and getattr(torch.backends.cuda.matmul, SWITCH) != IEEE:
            arguments = tuple(rounded(value) if isinstance(value, Tensor) else value for value in arguments)
        return function(*arguments, **(options or {}))


def rounded(values: Tensor) -> Tensor:
    bits = values.detach().clone().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


@contextmanager
def allowed_tf32() -> Iterator[None]:
    """Set the switch as a training with TF32 does."""
    before = getattr(torch.backends.cuda.matmul, SWITCH)
    setattr(torch.backends.cuda.matmul, SWITCH, TF32)
    try:
        yield
    finally:
        setattr(torch.backends.cuda.matmul, SWITCH, before)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Any, Any, Path]:
    torch.manual_seed(0)
    model, preprocessing = load_model("timm:test_resnet", ["a", "b"], pretrained=False)
    model.timm_model.fc.weight.data.mul_(100)
    record = make_record(tuple(stage.name for stage in list_stages(model)), ("a", "b"))
    return model, preprocessing, save_model(model, preprocessing, record, tmp_path / "out")


def test_tf32_moves_logits_by_more_than_the_tolerance(saved: tuple[Any, Any, Path]) -> None:
    model, preprocessing, _ = saved
    pixels = torch.rand(1, *preprocessing.input_size)
    with torch.inference_mode():
        exact = model(pixel_values=pixels).logits
        with allowed_tf32(), Tf32():
            moved = model(pixel_values=pixels).logits
    assert (exact - moved).abs().max() > TOLERANCE * max(1.0, exact.abs().max().item())


def test_a_model_trained_with_tf32_is_saved(saved: tuple[Any, Any, Path]) -> None:
    model, preprocessing, folder = saved
    with allowed_tf32():
        with Tf32():
            check_reload(model, preprocessing, folder)
        assert getattr(torch.backends.cuda.matmul, SWITCH) == TF32


@pytest.mark.gpu
def test_a_model_on_a_gpu_is_saved(saved: tuple[Any, Any, Path]) -> None:
    model, preprocessing, folder = saved
    torch.set_float32_matmul_precision("high")
    try:
        check_reload(model.cuda(), preprocessing, folder)
    finally:
        torch.set_float32_matmul_precision("highest")
