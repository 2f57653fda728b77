"""Decoding of an upload in a process of its own, with limits of memory and time.

A small file can make a decoder take all memory: 65,535 entries of EXIF data that all point to the same megabyte, a tiny
icon that holds a huge picture, ... No check of the file beforehand covers all formats, so the operating system sets the
limit. The process ends with the image: it cannot affect the page or the next upload.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from hf_tl.data.decoding.colors import to_rgb
from hf_tl.data.decoding.opening import decode
from hf_tl.errors import DataError, PixelLimitError

LARGEST_IMAGE = 50_000_000
"""Number of pixels of the largest image that is decoded."""
MEMORY = 2 << 30
"""Address space of the process in bytes; such an image takes about half. Only Linux has this limit."""
SECONDS = 30
NAME = "the file"


def read_image(file: str | os.PathLike[str]) -> Image.Image:
    """Read an uploaded image with the same conversions as training.

    Raises:
        DataError: The file is not an image, is damaged, or takes too many pixels, too much memory or time; the message
            contains no path.
        RuntimeError: The process failed for another reason.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; from hf_tl.demo.uploads import answer; answer(sys.argv[1])"
    command = [sys.executable, "-c", code, os.fspath(file)]
    variables = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # each thread would reserve address space
    try:
        done = subprocess.run(command, env=variables, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{NAME}: not decoded in {SECONDS} seconds; save the image again, as JPEG or PNG") from error
    head, _, pixels = done.stdout.partition(b"\n")
    if done.returncode < 0:  # a signal: the decoder crashed, or the system needed the memory
        raise DataError(f"{NAME}: the image cannot be decoded (signal {-done.returncode}); replace or remove it")
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace"))
    result = json.loads(head)
    if "error" in result:
        raise DataError(result["error"])
    return Image.frombytes("RGB", tuple(result["size"]), pixels)


def answer(file: str) -> None:
    """Decode a file, and write one line of JSON with the error or the size, then the RGB values, to standard output."""
    _limit_memory()
    Image.MAX_IMAGE_PIXELS = LARGEST_IMAGE
    result: dict[str, Any] = {}
    pixels = b""
    try:
        image = to_rgb(decode(Path(file).read_bytes(), NAME))
        result["size"], pixels = image.size, image.tobytes()
    except PixelLimitError:
        result["error"] = f"{NAME}: more than the limit of {LARGEST_IMAGE // 10**6} megapixels; shrink the image"
    except MemoryError:
        result["error"] = f"{NAME}: decoding it takes too much memory; save the image again, as JPEG or PNG"
    except DataError as error:
        result["error"] = str(error)
    sys.stdout.buffer.write(json.dumps(result).encode() + b"\n" + pixels)


def _limit_memory() -> None:
    if sys.platform != "linux":
        return
    import resource

    _, ceiling = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY if ceiling == resource.RLIM_INFINITY else min(MEMORY, ceiling)
    resource.setrlimit(resource.RLIMIT_AS, (limit, ceiling))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
