"""Digest of the frozen tensors, which shows that no bit of them changed."""

import pytest
import torch
from backbones.steps import build
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hf_tl.backbones.load import load_backbone
from hf_tl.backbones.stages.freezing import freeze, frozen_tensors
from hf_tl.backbones.weights.digest import digest


def test_frozen_tensors_of_a_wrapped_model_have_its_names() -> None:
    model, _ = load_backbone("timm:test_resnet", ["a", "b"], pretrained=False)
    freeze(model, 2)
    tensors = frozen_tensors(model)
    assert tensors.keys() <= model.state_dict().keys()
    assert {"timm_model.bn1.weight", "timm_model.bn1.running_mean", "timm_model.bn1.num_batches_tracked"} <= set(
        tensors
    )
    assert not {name for name in tensors if name.startswith(("timm_model.layer4", "timm_model.fc"))}


DTYPES = (
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.bool),
    *(torch.complex64,),
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4, 5)], ids=str)
def test_the_digest_reads_every_type_and_shape(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor, zeros = torch.ones(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
    assert digest({"a": tensor}) == digest({"a": tensor.clone()})
    assert (digest({"a": tensor}) == digest({"a": zeros})) is (tensor.numel() == 0)


def test_the_digest_reads_names_types_and_shapes() -> None:
    tensor = torch.zeros(4)
    digests = {
        digest({"a": tensor}),
        digest({"b": tensor}),
        digest({"a": tensor.reshape(2, 2)}),
        digest({"a": tensor.to(torch.int32)}),
        digest({"a": -tensor}),
        digest({"a": tensor, "b": tensor}),
        digest({}),
    }
    assert len(digests) == 7


def test_the_digest_does_not_depend_on_order_or_memory_layout() -> None:
    a, b = torch.randn(2, 3, 4, 4), torch.randn(3)
    assert digest({"a": a, "b": b}) == digest({"b": b, "a": a.to(memory_format=torch.channels_last)})


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_one_bit_of_one_frozen_tensor_changes_the_digest(data: st.DataObject) -> None:
    model = _frozen_resnet()
    tensors = frozen_tensors(model)
    before = digest(tensors)
    tensor = tensors[data.draw(st.sampled_from(sorted(tensors)))].detach()
    raw = tensor.reshape(-1).view(torch.uint8)
    index, bit = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(0, 7))
    raw[index] ^= 1 << bit
    assert digest(frozen_tensors(model)) != before
    raw[index] ^= 1 << bit
    assert digest(frozen_tensors(model)) == before


_CACHE: dict[str, nn.Module] = {}


def _frozen_resnet() -> nn.Module:
    if not _CACHE:
        _CACHE["model"] = build().to(torch.bfloat16)
        freeze(_CACHE["model"], 1)
    return _CACHE["model"]
