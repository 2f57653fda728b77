"""Peak memory of `hf-tl predict` on large photos, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from backbones.checkpoints import save_timm
from PIL import Image

import hf_tl
from hf_tl.config import DEMO_MODEL

LIMIT_MB = 1_500
MEGAPIXELS_12 = (4000, 3000)
STATUS = Path("/proc/self/status")
PROGRAM = """
import re, sys
from pathlib import Path
from hf_tl.cli import main
main(["predict", *sys.argv[1:]])
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024)
"""
"""It prints the peak of its own memory; `ru_maxrss` would count that of the process that started it."""


def write_photos(folder: Path, count: int) -> None:
    """Write JPEGs of 12 megapixels that look like photos: smooth colors, and noise; every second one is rotated."""
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize(MEGAPIXELS_12, Image.Resampling.BICUBIC)).astype(np.int16)
    pixels += random.integers(-8, 9, pixels.shape, dtype=np.int16)
    photo, exif = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), Image.Exif()
    exif[0x0112] = 6
    folder.mkdir()
    photo.save(folder / "0.jpg", quality=90)
    photo.save(folder / "1.jpg", quality=90, exif=exif)
    for number in range(2, count):
        (folder / f"{number}.jpg").hardlink_to(folder / f"{number % 2}.jpg")


@pytest.mark.skipif(not STATUS.exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("count", [12, pytest.param(500, marks=pytest.mark.slow)])
def test_photos_of_12_megapixels_need_at_most_1_500_mb(tmp_path: Path, count: int) -> None:
    write_photos(tmp_path / "photos", count)
    model, _ = hf_tl.load_backbone(DEMO_MODEL, ["cat", "dog"], pretrained=False)
    save_timm(model.timm_model, tmp_path / "model", ("cat", "dog"))
    words = [str(tmp_path / "model"), str(tmp_path / "photos"), "--output", str(tmp_path / "a.jsonl")]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "a.jsonl").read_text("utf-8").splitlines()) == count
    peak = int(done.stdout.splitlines()[-1])
    print(f"{count} photos: peak memory {peak:,} MB")
    assert peak <= LIMIT_MB
