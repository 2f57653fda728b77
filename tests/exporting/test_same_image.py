"""An image has one class, however the model is run: folder, exported files, and page, for networks of many families."""

from pathlib import Path

import pytest

pytest.importorskip("gradio")
pytest.importorskip("onnxscript")

import torch
from backbones.checkpoints import LABELS
from exporting.trained import INSTALLED
from publish.records import make_record
from publish.saving import save_model

import hf_tl
from hf_tl.abstention.head_input import last_layer
from hf_tl.demo.demo_model import DemoModel
from hf_tl.demo.uploads import read_image
from hf_tl.errors import SaveError
from hf_tl.exporting.formats import FORMATS

FAMILIES = (
    "alexnet", "zfnet", "vgg11", "googlenet", "resnet10t", "resnext26ts", "densenet121",
    "efficientnet_lite0", "mobilenetv3_small_050", "regnety_002", "mambaout_femto", "mobilenetv2_100", "convnext_atto",
    "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "levit_128s", "mobilevit_xxs", "mixer_s32_224",
    "edgenext_xx_small", "poolformer_s12",
)  # fmt: skip
REFUSED = {("executorch", "zfnet")}
"""Formats that cannot run a network; ExecuTorch does not load ZFNet's file."""
TOLERANCE, WITH_PREPROCESSING = 1e-4, 0.01
"""Largest differences of a probability: by rounding, and by pixels that ONNX Runtime resizes to another level."""


def save_decided(architecture: str, images: list[Path], folder: Path) -> Path:
    """Save a network with random weights, with so large a head that it is as sure of its classes as a trained one."""
    torch.manual_seed(0)
    model, transforms = hf_tl.load_backbone(f"timm:{architecture}", LABELS, "transfer", pretrained=False)
    pixels = torch.stack([transforms.eval.apply(str(image), image.name) for image in images])
    head = last_layer(model.eval(), pixels[:1])
    with torch.no_grad():
        head.weight.normal_(std=0.1)  # some start at zero
        logits = model(pixel_values=pixels).logits
        if logits.std(dim=0).max() < 1e-4:  # such as GoogLeNet, whose start lets no difference of images through
            for module in model.modules():
                if isinstance(module, torch.nn.Conv2d):
                    torch.nn.init.kaiming_normal_(module.weight)
            logits = model(pixel_values=pixels).logits
        head.bias -= logits.mean(dim=0)  # else all images have one class
        factor = 2 / (logits - logits.mean(dim=0)).std()
        head.weight *= factor
        head.bias *= factor
    return save_model(model, transforms, make_record(labels=LABELS), folder)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", FAMILIES)
def test_an_image_has_one_class_however_the_model_is_run(architecture: str, colors: Path, tmp_path: Path) -> None:
    images = sorted((colors / "test").glob("*/*.png"))
    folder = save_decided(architecture, images, tmp_path / "model")
    expected = hf_tl.predict(folder, images)
    ways = {}
    for name in (name for name in INSTALLED if not FORMATS[name].is_deprecated):
        if (name, architecture) in REFUSED:
            with pytest.raises(SaveError, match="cannot be loaded"):
                hf_tl.export(folder, name, dataset=str(colors))
            continue
        exported = hf_tl.export(folder, name, dataset=str(colors), with_preprocessing=name == "onnx")
        ways[name] = hf_tl.predict(exported, images)
        if name == "onnx":
            ways["with preprocessing"] = hf_tl.predict(exported / "model_with_preprocessing.onnx", images)
    page = DemoModel(str(folder))
    shown = [dict(page.rank(read_image(image))) for image in images]
    classes = set()
    for place, true in enumerate(expected):
        probabilities = dict(zip(true.labels, true.probabilities, strict=True))
        by_page = {page.labels[index]: value for index, value in shown[place].items()}
        assert by_page == pytest.approx(probabilities, abs=TOLERANCE)
        for way, result in ways.items():
            tolerance = WITH_PREPROCESSING if way == "with preprocessing" else TOLERANCE
            by_way = dict(zip(result[place].labels, result[place].probabilities, strict=True))
            assert by_way == pytest.approx(probabilities, abs=tolerance), way
            if true.probabilities[0] - true.probabilities[1] > 2 * tolerance:
                assert result[place].labels[0] == true.labels[0], way
                classes.add(true.labels[0])
    assert len(classes) > 1
