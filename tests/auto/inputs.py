"""Inputs of the tests of `--strategy auto`, and readers of its outputs."""

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cli.runs import COLORS, SMALL
from datasets import Dataset, Image, Value
from PIL import Image as Pillow

from hf_tl.cli import main

RECIPE = ["--num_train_epochs", "2", "--learning_rate", "0.03", "--per_device_train_batch_size", "8"]
AUTO = ["--strategy", "auto", "--trial_budget", "0", *RECIPE, *SMALL]


@dataclass(frozen=True)
class Inputs:
    """Inputs of a user: two backbones, and images."""

    root: Path

    @property
    def models(self) -> list[str]:
        return [str(self.root / "resnet"), str(self.root / "vit")]

    @property
    def images(self) -> str:
        return str(self.root / "colors")

    def flags(self) -> list[str]:
        return ["--model", ",".join(self.models), "--dataset", self.images]


def printed_by(arguments: list[str]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main(arguments)
    return printed.getvalue()


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def check_no_path(place: Inputs, folder: Path) -> None:
    """Check that published files contain no path of the machine."""
    for file in folder.iterdir():
        if file.suffix in (".json", ".md"):
            text = file.read_text()
            assert "somebody" not in text, file.name
            assert str(place.root) not in text


def shuffled(folder: Path) -> Path:
    """Write images whose color is independent of their class."""
    random = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 10)):
        for name in COLORS:
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
                Pillow.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


def colored(several: bool) -> Dataset:
    """Return images of one color or none, with a 0/1 column for each of two colors, or with their class."""
    kinds = [(1, 0), (0, 1), (0, 0)] * 20
    random = np.random.default_rng(0)
    pixels = [
        (np.array((40 + 160 * red, 40, 40 + 160 * blue)) + random.integers(-30, 30, (24, 24, 3))).clip(0, 255)
        for red, blue in kinds
    ]
    labels = {"red": [red for red, _ in kinds], "blue": [blue for _, blue in kinds]}
    if not several:
        labels = {"label": [str(kinds.index(kind)) for kind in kinds]}
    rows = Dataset.from_dict({"image": [Pillow.fromarray(image.astype(np.uint8)) for image in pixels], **labels})
    return rows.cast_column("image", Image()).cast_column("red", Value("int64")) if several else rows
