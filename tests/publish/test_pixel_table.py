"""Equal pixels in all uses of a model: image modes x uses. Only a plain `pipeline` may differ, as counted."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones.checkpoints import save_transformers, tiny_vit
from data.test_colors import BROKEN, encoded
from datasets import Dataset, Image
from PIL import Image as Pillow
from publish.records import LABELS, make_record, put

from hf_tl.backbones.load import load, load_backbone, preprocessing_of
from hf_tl.card.card import render_card
from hf_tl.data.decoding.conversions import examine, gather
from hf_tl.data.decoding.opening import decode
from hf_tl.data.decoding.pixels import pixel_batches
from hf_tl.data.fingerprint import map_images
from hf_tl.demo.demo_model import DemoModel
from hf_tl.demo.uploads import read_image
from hf_tl.evaluation.measure import inference
from hf_tl.exporting.export import export
from hf_tl.exporting.preprocessing import describe
from hf_tl.predicting.predict import predict
from hf_tl.publish.save import commit_model
from hf_tl.record import LearnedFrom
from hf_tl.runtime.preprocessing import apply

PHOTO = Pillow.effect_mandelbrot((90, 60), (-2.2, -1.2, 0.8, 1.2), 60).convert("RGB")
FIRST = PHOTO.getchannel(0)
PHOTO = Pillow.merge("RGB", [FIRST, FIRST.rotate(180), FIRST.point(lambda value: value // 2)])
ALPHA = PHOTO.getchannel(0).point(lambda value: 255 * (value > 99))


def with_alpha(alpha: Any) -> Pillow.Image:
    image = PHOTO.copy()
    image.putalpha(alpha)
    return image


def turned(orientation: int) -> Pillow.Exif:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    return exif


PALETTE = PHOTO.quantize(32)
MOST_COMMON = max(PALETTE.getcolors())[1]
GRAY = PHOTO.convert("L")
FILES: dict[str, tuple[bytes, str | None]] = {
    "RGB": (encoded(PHOTO, "PNG"), None),
    "JPEG": (encoded(PHOTO, "JPEG"), None),
    "RGBA, opaque": (encoded(with_alpha(255), "PNG"), None),
    "RGBA": (encoded(with_alpha(ALPHA), "PNG"), "transparency"),
    "RGBA, half": (encoded(with_alpha(128), "WEBP", lossless=True), "transparency"),
    "P": (encoded(PALETTE, "PNG"), None),
    "P, transparent": (encoded(PALETTE, "PNG", transparency=MOST_COMMON), "transparency"),
    "GIF, transparent": (encoded(PALETTE, "GIF", transparency=MOST_COMMON), "transparency"),
    "RGB, one transparent color": (encoded(PHOTO, "PNG", transparency=max(PHOTO.getcolors(9999))[1]), "transparency"),
    "LA": (encoded(with_alpha(ALPHA).convert("LA"), "PNG"), "transparency"),
    "L": (encoded(GRAY, "PNG"), None),
    "1": (encoded(PHOTO.convert("1"), "PNG"), None),
    "I;16": (encoded(Pillow.fromarray(np.asarray(GRAY).astype(np.uint16) * 257), "PNG"), "deep gray"),
    "I": (encoded(Pillow.fromarray(np.asarray(GRAY).astype(np.int32) * 400), "TIFF"), "deep gray"),
    "F": (encoded(Pillow.fromarray(np.asarray(GRAY).astype(np.float32) / 255), "TIFF"), "deep gray"),
    "CMYK": (encoded(PHOTO.convert("CMYK"), "JPEG"), None),
    "LAB": (encoded(Pillow.frombytes("LAB", PHOTO.size, PHOTO.tobytes()), "TIFF"), None),
    "broken EXIF": (encoded(PHOTO, "PNG", exif=BROKEN["no TIFF header"]), "unreadable EXIF"),
    **{f"EXIF {turn}": (encoded(PHOTO, "JPEG", exif=turned(turn)), None) for turn in range(1, 9)},
}
MODELS: dict[str, Callable[[Path], tuple[str, dict[str, Any]]]] = {
    "timm": lambda folder: ("timm:test_resnet", {"pretrained": False, "image_size": 64}),
    "timm, gray": lambda folder: ("timm:test_resnet", {"pretrained": False, "image_size": 64, "in_chans": 1}),
    "transformers": lambda folder: (str(save_transformers(tiny_vit(LABELS), folder, fast=False)), {}),
}


class Published:
    """Saved model, with a card that states which images were converted."""

    def __init__(self, name: str, folder: Path) -> None:
        torch.manual_seed(0)
        source, options = MODELS[name](folder / "source")
        model, transforms = load_backbone(source, LABELS, **options)
        with torch.no_grad():  # makes predictions depend on the pixels
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        self.folder, self.preprocessing = folder / "out", preprocessing_of(model, transforms)
        self.channels = self.preprocessing.input_size[0]
        self.is_torchvision = name == "transformers"
        commit_model(model, self.preprocessing, put(make_record(), measured={}), LearnedFrom(), self.folder)
        rows = {"image": [{"bytes": data, "path": None} for data, _ in FILES.values()], "label": [0] * len(FILES)}
        self.images = Dataset.from_dict(rows).cast_column("image", Image())
        self.conversions = gather(map_images(self.images, "test", examine))
        self.model, self.transforms = load(self.folder)
        self.card = render_card(
            put(
                make_record(),
                data__splits__test__conversions=self.conversions.images,
                model__library=name.split(",")[0],
                model__preprocessing__input_size=self.preprocessing.input_size,
            )
        )

    def snippets(self, word: str) -> list[str]:
        """Return the card's code blocks that contain a word, to be run on the saved model."""
        blocks = re.findall(r"```python\n(.*?)```", self.card, re.DOTALL)
        return [
            block.replace("USER/NAME", str(self.folder)).replace("hf-hub:", "local-dir:")
            for block in blocks
            if word in block
        ]

    def logits(self, pixel_values: torch.Tensor) -> torch.Tensor:
        with inference(self.model):
            return self.model(pixel_values=pixel_values[None]).logits[0]


@pytest.fixture(scope="module", params=MODELS)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Published:
    return Published(request.param, tmp_path_factory.mktemp("published"))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the image that the snippets read."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "image.jpg"


def by_label(ranked: list[tuple[str, float]]) -> list[float]:
    shares = dict(ranked)
    return [shares[label] for label in LABELS]


def test_the_conversions_of_the_table_are_counted(published: Published) -> None:
    expected: dict[str, list[int]] = {}
    for row, (_, kind) in enumerate(FILES.values()):
        if kind is not None:
            expected.setdefault(kind, []).append(row)
    assert published.conversions.rows == expected


@pytest.mark.long
@pytest.mark.parametrize("mode", FILES)
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_every_use_sees_the_same_pixels(published: Published, mode: str, file: Path) -> None:
    file.write_bytes(FILES[mode][0])
    row, made = list(FILES).index(mode), published.transforms
    expected = made.eval(decode(file))
    logits = published.logits(expected)
    shares = logits.softmax(-1).tolist()
    # training without augmentation, evaluation, features and exports
    training = published.preprocessing.transforms("none").train
    for transform in (training, made.eval):
        assert torch.equal(transform.over(published.images)[row]["pixel_values"], expected)
    (batch,) = pixel_batches(published.images, made.eval, range(row, row + 1), 1, torch.device("cpu"))
    assert torch.equal(batch[0], expected)
    # hf-tl predict and the demo
    (prediction,) = predict(published.folder, file)
    assert by_label(prediction.ranking) == pytest.approx(shares, abs=1e-6)
    demo = DemoModel(str(published.folder))
    assert torch.equal(demo._pixel_values(read_image(file))[0].cpu(), expected)
    # file of an export
    steps = describe(published.preprocessing)
    # torchvision, with which transformers resizes, rounds differently from Pillow: by one level of 255
    tolerance = 1.01 * steps["rescale_factor"] / min(steps["std"]) if published.is_torchvision else 1e-5
    np.testing.assert_allclose(apply(steps, Pillow.open(file)), expected.numpy(), atol=tolerance)
    # the card
    for snippet in published.snippets("AutoModelForImageClassification"):
        names: dict[str, Any] = {}
        exec(snippet, names)
        assert torch.equal(names["inputs"]["pixel_values"][0], expected)
        assert names["probabilities"].tolist() == pytest.approx(shares, abs=1e-6)
    for snippet in published.snippets("timm.create_model"):
        names = {}
        exec(snippet, names)
        torch.testing.assert_close(names["logits"][0], logits, rtol=0, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("mode", FILES)
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_a_pipeline_is_as_the_card_says(
    published: Published, mode: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The card's snippet gives equal results, and a file name equal ones except for the counted images."""
    if published.channels == 1:
        assert "A pipeline cannot be used" in published.card
        assert published.snippets("pipeline(") == []
        return
    data, kind = FILES[mode]
    file.write_bytes(data)
    row, made = list(FILES).index(mode), published.transforms
    expected = published.logits(made.eval(decode(file))).softmax(-1).tolist()
    (snippet,) = published.snippets("pipeline(")
    exec(snippet, names := {})
    assert by_label([(row["label"], row["score"]) for row in eval(capsys.readouterr().out)]) == pytest.approx(
        expected, abs=1e-6
    )
    if row in published.conversions.unreadable:
        with pytest.raises(SyntaxError):
            names["classifier"]("image.jpg")
        return
    plain = by_label([(entry["label"], entry["score"]) for entry in names["classifier"]("image.jpg")])
    assert (plain == pytest.approx(expected, abs=1e-6)) == (kind is None)
    as_pipeline = replace(made.eval, plain=True).over(published.images)[row]["pixel_values"]
    measured = published.logits(as_pipeline).softmax(-1).tolist()
    assert plain == pytest.approx(measured, abs=1e-6), "what hf_tl measures as plain"


def test_a_card_without_conversions_needs_no_function() -> None:
    card = render_card(make_record())
    assert "def to_rgb" not in card
    assert 'ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB")' in card
    assert 'print(classifier("image.jpg"))' in card


@pytest.mark.long
def test_an_onnx_file_sees_the_same_pixels(published: Published, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    data = tmp_path / "images"
    for label in LABELS:
        (data / label).mkdir(parents=True)
        for number, (content, _) in enumerate(FILES.values()):
            (data / label / f"{number}.png").write_bytes(content)
    folder = export(str(published.folder), "onnx", output_dir=tmp_path / "onnx", dataset=str(data))
    tolerance = 0.05 if published.is_torchvision else 1e-3
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    steps = json.loads((folder / "preprocessing.json").read_text())
    for content, _ in FILES.values():
        expected = published.logits(published.transforms.eval(content))
        pixels = apply(steps, decode(content))[None]
        (logits,) = session.run(None, {session.get_inputs()[0].name: pixels})
        np.testing.assert_allclose(logits[0], expected.numpy(), atol=tolerance)
