"""Small trained model, calibrated, with an export of each format in its folder."""

import json
from collections.abc import Sequence
from pathlib import Path

from cli.runs import TINY, write_images

import hf_tl
from hf_tl.cli import main
from hf_tl.exporting.formats import FORMATS

INSTALLED = [name for name, each in FORMATS.items() if not each.missing]
"""Formats whose packages are installed."""
RECIPE = ["--strategy", "full", "--num_train_epochs", "4", "--learning_rate", "0.01", "--augmentation", "none"]


def train_and_export(folder: Path, formats: Sequence[str] = INSTALLED) -> Path:
    """Train on the new folder `images`, and export some formats; return the folder of the model beside it."""
    images = write_images(folder / "images", 20)
    main(["train", *TINY, "--dataset", str(images), *RECIPE, "--output_dir", str(folder / "out")])
    calibrate(folder / "out" / "run.json")
    for name in formats:
        hf_tl.export(folder / "out", name, dataset=images, int8=name == "onnx")
    return folder / "out"


def calibrate(file: Path) -> None:
    """Give the record of a run a temperature; so small a validation split has none."""
    saved = json.loads(file.read_text("utf-8"))
    saved["temperature"] |= {"value": 2.0, "weights_digest": saved["weights_digest"], "split": "validation"}
    for measured in saved["measured"].values():
        measured["weights_digest"] = saved["weights_digest"]
        measured["calibration"]["after"] = measured["calibration"]["before"]
    file.write_text(json.dumps(saved), "utf-8")
