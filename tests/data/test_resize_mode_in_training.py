"""`--resize_mode`, `--max_image_pixels` and notes on crops and flips in a run."""

import json
from pathlib import Path

import numpy as np
import pytest
from cli.runs import SMALL, fails
from PIL import Image

import hf_tl
from hf_tl.cli import main

TINY = ["--model", "timm:test_resnet", "--no_pretrained", "--image_size", "32", "--num_train_epochs", "1", *SMALL]


def write_wide(folder: Path, names: tuple[str, str] = ("left", "right")) -> Path:
    random = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(6):
            pixels = random.integers(0, 256, (20, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_crops_and_flips_are_noted_in_output_record_and_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = write_wide(tmp_path / "images"), tmp_path / "out"
    main(["train", *TINY, "--dataset", str(images), "--augmentation", "light", "--output_dir", str(out)])
    printed = capsys.readouterr().out
    notes = json.loads((out / "run.json").read_text("utf-8"))["data"]["notes"]
    crop = next(note for note in notes if "resize_mode" in note)
    assert "of the median training image (80 x 20 pixels)" in crop
    assert "horizontal flips may change the class (left, right): --no_horizontal_flip turns them off" in notes
    for text in (printed, (out / "README.md").read_text("utf-8")):
        assert "the median training image" in text
        assert "horizontal flips may change the class" in text


def test_a_resize_mode_is_recorded_saved_and_exported(tmp_path: Path) -> None:
    images, out = write_wide(tmp_path / "images", ("cat", "dog")), tmp_path / "out"
    words = ["--resize_mode", "squash", "--augmentation", "light", "--output_dir", str(out)]
    main(["train", *TINY, "--dataset", str(images), *words])
    record = json.loads((out / "run.json").read_text("utf-8"))
    assert record["model"]["preprocessing"]["evaluation"]["resize_mode"] == "squash"
    assert not [note for note in record["data"]["notes"] if "median training image" in note or "flips" in note]
    assert ", images squashed to the input" in (out / "README.md").read_text("utf-8")
    assert json.loads((out / "config.json").read_text("utf-8"))["pretrained_cfg"]["crop_mode"] == "squash"
    main(["export", str(out), "--dataset", str(images), "--format", "torchscript"])


def test_a_large_image_is_decoded_with_the_flag_and_refused_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    images, out = write_wide(tmp_path / "images", ("cat", "dog")), tmp_path / "out"
    train = ["train", *TINY, "--dataset", str(images), "--output_dir", str(out)]
    with pytest.warns(Image.DecompressionBombWarning):
        text = fails(train, capsys)
    assert "80 x 20 pixels are more than the limit of 1000; shrink the image, or allow it with --max_image" in text
    main([*train, "--max_image_pixels", "2000"])
    assert Image.MAX_IMAGE_PIXELS == 1_000
    scan = tmp_path / "scan.png"
    Image.new("L", (100, 30)).save(scan)
    assert "--max_image_pixels" in fails(["predict", str(out), str(scan)], capsys)
    main(["predict", str(out), str(scan), "--max_image_pixels", "3000"])
    strategy = hf_tl.Strategy.transfer(epochs=1)
    options = {"pretrained": False, "image_size": 32}
    model, transforms = hf_tl.load_backbone("timm:test_resnet", ["cat", "dog"], strategy, **options)
    again = {"output_dir": str(tmp_path / "python"), "report_to": "none", "max_image_pixels": 100_000}
    hf_tl.train(model, str(images), strategy, transforms=transforms, **again)
