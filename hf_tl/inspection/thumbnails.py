"""Small pictures of images for the page, as data URIs."""

import base64
import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from hf_tl.data.columns import IMAGE
from hf_tl.data.decoding.colors import to_rgb
from hf_tl.data.decoding.opening import decode
from hf_tl.inspection.opening import LabeledImages
from hf_tl.inspection.reading import Facts

SIDE = 128
"""Largest side in pixels."""
QUALITY = 80
PER_CLASS, CLASSES = 8, 40
"""Largest numbers of images per class, and of classes, on the contact sheet."""


def thumbnails(images: LabeledImages, rows: Iterable[int]) -> dict[int, str]:
    """Return the pictures of readable images, by row."""
    wanted = sorted(set(rows))

    def draw(row: int) -> str:
        stored = images.rows[row][IMAGE]
        picture = to_rgb(decode(stored, images.file(row, stored), reduced=2 * SIDE))
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        encoded = io.BytesIO()
        picture.save(encoded, "JPEG", quality=QUALITY)
        return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(wanted, pool.map(draw, wanted), strict=True))


def contact_sheet(images: LabeledImages, facts: Facts, seed: int = 0) -> dict[str, list[int]]:
    """Draw random readable images of each class, by class name."""
    random = np.random.default_rng(seed)
    sheet = {}
    for number, name in enumerate(images.classes[:CLASSES]):
        shows_class = images.labels[:, number] > 0 if images.is_multi_label else images.labels == number
        rows = np.flatnonzero(shows_class & facts.is_readable)
        sheet[name] = sorted(random.permutation(rows)[:PER_CLASS].tolist())
    return sheet
