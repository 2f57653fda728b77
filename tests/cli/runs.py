"""Arguments of small training runs, images for them, and commands that fail."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_tl.cli import ERROR_STATUS, main

COLORS = {"green": (40, 200, 40), "blue": (40, 40, 200), "red": (200, 40, 40)}
REPOSITORY = Path(__file__).parents[2]
# one thread: on a busy machine two threads wait for each other
SMALL = ["--report_to", "none", "--cpu_threads", "1"]
TINY = ["--model", "timm:test_resnet", "--no_pretrained", "--image_size", "32", *SMALL]


def write_images(folder: Path, count: int, colors: dict[str, tuple[int, int, int]] = COLORS) -> Path:
    """Write noisy images in the color of their class."""
    random = np.random.default_rng(count)
    for name, color in colors.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.clip(np.array(color) + random.integers(-40, 40, (24, 30, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail, and return its error message."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == ERROR_STATUS
    return capsys.readouterr().err
