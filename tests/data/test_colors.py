"""Pixel rule: images that it calls unconverted are read by a plain pipeline bit for bit alike."""

import io
from typing import Any

import numpy as np
import pytest
from data.pictures import palette_with_alpha
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from transformers.image_utils import load_image

from hf_tl.data.decoding.colors import CONVERSIONS, conversion_of, plain_rgb, to_rgb
from hf_tl.data.decoding.opening import decode

FORMATS = {
    "PNG": ("1", "L", "P", "RGB", "RGBA", "LA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "GIF": ("P", "L", "1"),
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "I;16", "I;16B", "I", "F", "CMYK", "LAB", "RGBX"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TGA": ("L", "LA", "P", "RGB", "RGBA"),
    "DDS": ("L", "LA", "RGB", "RGBA"),
}
"""Modes that Pillow writes in each format."""
CASES = [(kind, mode) for kind, modes in FORMATS.items() for mode in modes]


def random_image(mode: str, width: int, height: int, seed: int, alpha: int | None = None) -> Image.Image:
    """Return an image of random pixels, optionally with a constant alpha."""
    random = np.random.default_rng(seed)
    if mode in ("I", "F"):
        scale = (255, 65535, 100_000)[seed % 3]
        return Image.fromarray(random.integers(0, scale, (height, width)).astype({"I": "int32", "F": "float32"}[mode]))
    size = {"I;16": 2, "I;16B": 2}.get(mode, len(Image.new(mode, (1, 1)).getbands()))
    if mode == "1":
        return Image.fromarray(random.integers(0, 256, (height, width), dtype=np.uint8)).convert("1")
    image = Image.frombytes(mode, (width, height), random.bytes(size * width * height))
    if mode in ("P", "PA"):
        image.putpalette(random.bytes(768))
    if alpha is not None and mode in ("RGBA", "LA", "PA"):
        image.putalpha(alpha)
    return image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@settings(max_examples=400, deadline=None)
@given(
    case=st.sampled_from(CASES),
    width=st.integers(1, 20),
    height=st.integers(1, 20),
    seed=st.integers(0, 99),
    orientation=st.integers(1, 8),
    alpha=st.sampled_from([None, 0, 254, 255]),
    key=st.none() | st.integers(0, 255),
)
def test_what_needs_no_conversion_is_read_alike_by_a_plain_pipeline(
    case: tuple[str, str], width: int, height: int, seed: int, orientation: int, alpha: int | None, key: int | None
) -> None:
    kind, mode = case
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    if kind in ("PNG", "JPEG", "TIFF", "WEBP"):
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    if key is not None and kind in ("PNG", "GIF") and mode in ("L", "P", "RGB", "I;16"):
        options["transparency"] = (key, key, key) if mode == "RGB" else key
    data = encoded(random_image(mode, width, height, seed, alpha), kind, **options)
    converted = to_rgb(decode(data))
    why = conversion_of(opened(data))
    assert why in (None, *CONVERSIONS)
    if why is None:
        assert converted.tobytes() == plain_rgb(opened(data)).tobytes() == load_image(opened(data)).tobytes()
    turns = orientation >= 5 and "exif" in options
    assert (converted.mode, converted.size) == ("RGB", (height, width) if turns else (width, height))
    if converted.tobytes() != load_image(opened(data)).tobytes():
        assert why is not None


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGBA", (3, 2), (1, 2, 3, 255)), None),
        (Image.new("RGBA", (3, 2), (1, 2, 3, 254)), "transparency"),
        (Image.new("LA", (3, 2), (1, 255)), None),
        (Image.new("LA", (3, 2), (1, 0)), "transparency"),
        (palette_with_alpha((3, 2), 0), "transparency"),
        (Image.new("RGBa", (3, 2), (1, 2, 3, 9)), "transparency"),
        (Image.new("La", (3, 2), (1, 255)), "transparency"),  # Pillow does not convert it, opaque or not
        (Image.new("I;16", (3, 2), 7), "deep gray"),
        (Image.new("I;16B", (3, 2), 7), "deep gray"),
        (Image.new("I", (3, 2), 7), "deep gray"),
        (Image.new("F", (3, 2), 0.5), "deep gray"),
        *((Image.new(mode, (3, 2)), None) for mode in ("1", "L", "P", "RGB", "RGBX", "LAB", "CMYK", "YCbCr", "HSV")),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else str(value),
)
def test_why_an_image_is_converted(image: Image.Image, expected: str | None) -> None:
    assert conversion_of(image) == expected


def test_a_transparent_color_that_no_pixel_has_is_no_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 0, 0])
    assert conversion_of(opened(encoded(image, "PNG", transparency=1))) is None
    assert conversion_of(opened(encoded(image, "PNG", transparency=0))) == "transparency"
    assert conversion_of(opened(encoded(image, "GIF", transparency=0))) == "transparency"


BROKEN = {"no TIFF header": b"Exif\0\0XX*\0\0\0\0\0", "cut off": b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01"}


@pytest.mark.parametrize("exif", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("reduced", [0, 1])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_intact_image_with_broken_exif_is_used(kind: str, exif: bytes, reduced: int) -> None:
    image = random_image("RGB", 9, 7, 0)
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(image, kind, exif=exif, **options)
    intact = opened(encoded(image, kind, **options)).convert("RGB").tobytes()
    assert decode(data, reduced=reduced).mode == "RGB"
    assert to_rgb(decode(data)).tobytes() == intact
    try:
        is_readable = plain_rgb(opened(data)).tobytes() == intact
    except Exception:  # noqa: BLE001  any exception of Pillow is also one of a pipeline
        is_readable = False
    assert (conversion_of(opened(data)) is None) == is_readable


def test_an_orientation_in_xmp_is_applied() -> None:
    image, info = random_image("RGB", 9, 7, 0), PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    data = encoded(image, "PNG", pnginfo=info)
    expected = image.transpose(Image.Transpose.ROTATE_270).tobytes()
    assert to_rgb(decode(data)).tobytes() == to_rgb(to_rgb(decode(data))).tobytes() == expected
    assert plain_rgb(opened(data)).tobytes() == expected
