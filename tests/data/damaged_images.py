"""Program that reads damaged images, one after another, and prints what happened as JSON.

Run as `python damaged_images.py damaged COUNT SEED` or `python damaged_images.py large MODE`. The test limits its time;
a crash ends it.
"""

import io
import itertools
import json
import re
import struct
import sys
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from hf_tl.data.decoding.colors import to_rgb
from hf_tl.data.decoding.conversions import examine
from hf_tl.data.decoding.opening import decode
from hf_tl.errors import DataError

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def picture(random: np.random.Generator, mode: str) -> Image.Image:
    width, height = random.integers(20, 160, 2)
    small = Image.fromarray(random.integers(0, 256, (8, 8, 4), dtype=np.uint8), "RGBA")
    return small.resize((width, height), Image.Resampling.BICUBIC).convert("RGB").convert(mode)


def intact_files(random: np.random.Generator) -> list[bytes]:
    """Write images in the variants of six formats."""
    exif = Image.Exif()
    exif[0x0112] = 6
    variants = [
        *(("JPEG", mode, {"progressive": is_progressive, "exif": exif}) for mode in ("RGB", "L", "CMYK")
          for is_progressive in (False, True)),
        *(("PNG", mode, {}) for mode in ("RGB", "RGBA", "L", "P", "LA", "1", "I;16")),
        *(("WEBP", mode, options) for mode in ("RGB", "RGBA") for options in ({}, {"lossless": True})),
        *(("GIF", mode, {}) for mode in ("L", "P", "RGB")),
        *(("BMP", mode, {}) for mode in ("RGB", "L", "P", "1", "RGBA")),
        *(("TIFF", mode, {"compression": name}) for mode in ("RGB", "L", "I;16", "F", "RGBA")
          for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")),
        ("TIFF", "RGB", {"compression": "jpeg"}),
    ]  # fmt: skip
    files = []
    for kind, mode, options in variants:
        buffer = io.BytesIO()
        image = picture(random, "L" if mode == "I;16" else mode)
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image
        image.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    frames = [picture(random, "P").resize((40, 40)) for _ in range(3)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        files.append(buffer.getvalue())
    return files


def damage(random: np.random.Generator, files: list[bytes]) -> bytes:
    """Flip bits, cut, or splice the head of one file to the rest of another; half of the flips are in the header."""
    data = bytearray(files[random.integers(len(files))])
    kind = random.integers(4)
    if kind == 0:
        return bytes(data[: random.integers(len(data))])
    if kind == 1:
        other = files[random.integers(len(files))]
        head = int(random.integers(1, 120))
        return other[:head] + bytes(data[head:])
    reach = len(data) if kind == 2 else min(64, len(data))
    for place in random.integers(0, reach, random.integers(1, 12)):
        data[place] ^= 1 << random.integers(8)
    return bytes(data)


def read(data: bytes) -> str:
    """Read an image as training and the check before it do, and return what came out."""
    outcomes = []
    for use in (lambda: to_rgb(decode(data, "the file")).size, lambda: examine({"bytes": data}, "the file")):
        try:
            use()
            outcomes.append("read")
        except DataError as error:
            outcomes.append("named" if str(error).startswith("the file: ") else f"nameless: {error}")
    return outcomes[0]


def peak_mb() -> int:
    match = re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text())
    assert match is not None
    return int(match[1]) // 1024


def large_file(mode: str) -> bytes:
    """Write a PNG of 80 megapixels in a few kilobytes, or one whose header claims 10 gigapixels."""
    size = (10_000, 8_000)
    image = Image.new("1" if mode == "bomb" else mode, size)
    options = {"transparency": 0} if mode == "P" else {}
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    data = buffer.getvalue()
    if mode != "bomb":
        return data
    header = b"IHDR" + struct.pack(">II", 100_000, 100_000) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def main(files: Iterator[bytes]) -> None:
    """Read files, and print the outcomes, the longest time in seconds and the memory in MB."""
    warnings.simplefilter("ignore")
    outcomes: Counter[str] = Counter()
    first = next(files)  # written before the peak is reset
    REFERENCES.write_text("5")  # the peak from here on
    before, slowest = peak_mb(), 0.0
    for data in itertools.chain([first], files):
        start = time.perf_counter()
        outcomes[read(data)] += 1
        slowest = max(slowest, time.perf_counter() - start)
    print(json.dumps({"outcomes": outcomes, "slowest": slowest, "memory_mb": peak_mb() - before}))


def damaged_files(count: int, seed: int) -> Iterator[bytes]:
    """Yield damaged files; the intact ones are read first."""
    random = np.random.default_rng(seed)
    files = intact_files(random)
    assert {read(data) for data in files} == {"read"}
    yield from (damage(random, files) for _ in range(count))


if __name__ == "__main__":
    kind, *values = sys.argv[1:]
    main(damaged_files(int(values[0]), int(values[1])) if kind == "damaged" else iter([large_file(values[0])]))
