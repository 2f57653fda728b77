"""Every format supports networks of both libraries, and batches of any size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from backbones.zoo import TIMM, batch, build_timm, build_transformers

from hf_tl.exporting.formats import FORMATS, write_model

NETWORKS = (
    "test_efficientnet", "test_vit", "googlenet", "ConvNextForImageClassification", "SwinForImageClassification",
    "ViTForImageClassification",
)  # fmt: skip
MORE = ("alexnet", "zfnet", "vgg11", "pnasnet5large", "swin_tiny_patch4_window7_224", "levit_128s", "test_nfnet")


def check_logits(network: str, name: str, folder: Path) -> None:
    """Compare an exported file's logits with those of its model, on batch sizes other than that of the export."""
    model, preprocessing = build_timm(network) if network in TIMM else build_transformers(network)
    write_model(name, model, preprocessing.input_size, folder)
    run = FORMATS[name].runtime.open(folder / FORMATS[name].runtime.file)
    for count in (1, 3, 5):
        pixels = batch(model, preprocessing, count)["pixel_values"]
        with torch.inference_mode():
            expected = model(pixel_values=pixels).logits.numpy()
        np.testing.assert_allclose(run(pixels.numpy()), expected, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.long
@pytest.mark.parametrize("name", ["torchscript", "torch_export"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_logits_are_those_of_the_model(network: str, name: str, tmp_path: Path) -> None:
    check_logits(network, name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("network", [*NETWORKS, *MORE])
def test_the_logits_of_onnx_are_those_of_the_model(network: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    check_logits(network, "onnx", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchscript", "torch_export"])
@pytest.mark.parametrize("network", MORE)
def test_the_logits_of_more_networks_are_those_of_the_model(network: str, name: str, tmp_path: Path) -> None:
    check_logits(network, name, tmp_path)
