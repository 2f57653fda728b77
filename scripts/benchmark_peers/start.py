"""Start of a run on many images: all that happens to the images before the first step.

`python start.py make FOLDER --images N` writes small JPEGs in class folders.
`python start.py hf_tl|torchvision|datasets FOLDER --cache CACHE --output_dir OUTPUT` writes the seconds, without those
of the imports, to `result.json`. hf_tl hashes all images, draws the splits and decodes every image; torchvision's
`ImageFolder` and datasets list the files.
"""

import argparse
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

CLASSES, PIXELS, PICTURES = 100, 32, 256
SETTLED = 3600
"""Age of the images in seconds: hf_tl reads files again that have just changed."""


def main() -> None:
    """Write the images, or time a start."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", *STARTS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--cache", type=Path, help="folder of what is kept between runs")
    parser.add_argument("--output_dir", type=Path)
    options = parser.parse_args()
    if options.what == "make":
        make(options.folder, options.images)
        return
    os.environ |= {"HF_TL_CACHE": str(options.cache), "HF_DATASETS_CACHE": str(options.cache / "datasets")}
    start = STARTS[options.what](options.folder)
    began, cpu = time.perf_counter(), cpu_seconds()
    images = start()
    seconds, cpu = time.perf_counter() - began, cpu_seconds() - cpu
    result = {"seconds": seconds, "start_cpu_seconds": cpu, "images": images}
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "result.json").write_text(json.dumps(result), encoding="utf-8")


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of all that it has started."""
    import psutil

    process = psutil.Process()
    return sum(sum(each.cpu_times()[:4]) for each in (process, *process.children(recursive=True)))


def make(folder: Path, images: int) -> None:
    """Write distinct files of a few pictures: the number of the file is a comment in it."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(PICTURES):
        file = io.BytesIO()
        colors = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        colors.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
        pictures.append(file.getvalue())
    then = time.time() - SETTLED
    for number in range(images):
        path = folder / f"class{number % CLASSES:03d}" / f"{number:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = pictures[number % PICTURES]
        comment = b"\xff\xfe" + (10).to_bytes(2, "big") + number.to_bytes(8, "big")
        path.write_bytes(picture[:2] + comment + picture[2:])
        os.utime(path, (then, then))


def hf_tl_start(folder: Path) -> Callable[[], int]:
    """Return a function that loads and checks the images, as `hf-tl train` does."""
    from hf_tl.data.datasets import check_images, load_data

    def start() -> int:
        data = check_images(load_data(str(folder)), just_loaded=True)
        assert data.to_record().fingerprint
        return sum(len(rows) for rows in data.splits.values())

    return start


def torchvision_start(folder: Path) -> Callable[[], int]:
    """Return a function that lists the images."""
    from torchvision.datasets import ImageFolder

    return lambda: len(ImageFolder(str(folder)))


def datasets_start(folder: Path) -> Callable[[], int]:
    """Return a function that lists the images, and writes a table of them where there is none yet."""
    from datasets import load_dataset

    return lambda: len(load_dataset("imagefolder", data_dir=str(folder), split="train"))


STARTS = {"hf_tl": hf_tl_start, "torchvision": torchvision_start, "datasets": datasets_start}

if __name__ == "__main__":
    main()
