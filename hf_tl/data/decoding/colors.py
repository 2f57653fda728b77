"""Conversion of an image of any Pillow mode to the upright 8-bit RGB image that a model takes.

Users run a published model with `transformers.pipeline`, timm or their own code. These apply the EXIF orientation and
`Image.convert("RGB")`: the plain rule, `plain_rgb`. For most images it is lossless, and `to_rgb`, the rule of training
and evaluation, gives the same pixels. Where the plain rule loses information, `to_rgb` keeps it, and `conversion_of`
returns the reason, so that such images can be counted and reported.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
from PIL import ExifTags, Image, ImageOps

Conversion = Literal["transparency", "deep gray", "unreadable EXIF"]
"""Reason why the plain rule differs from `to_rgb`."""
CONVERSIONS: tuple[Conversion, ...] = get_args(Conversion)

DAMAGED = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error, OverflowError,
    MemoryError, AttributeError, RuntimeError, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
"""Exceptions that Pillow raises for a damaged file; UnidentifiedImageError is an OSError."""

ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})
KEYED_MODES = frozenset({"1", "L", "P", "RGB"})
"""Modes in which one color can be transparent, or the palette can have an alpha channel."""
STRAIGHT_ALPHA = {"La": "LA", "RGBa": "RGBA"}
STRIP = 1 << 20
"""Number of pixels to convert at once."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transpositions that undo each EXIF orientation."""
METADATA = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")


def plain_rgb(image: Image.Image) -> Image.Image:
    """Convert an image as `transformers.pipeline` does: EXIF orientation, then `convert("RGB")`.

    Pillow's exceptions are not caught: it fails for unreadable EXIF data, and for modes that it cannot convert.
    """
    return ImageOps.exif_transpose(image).convert("RGB")


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any Pillow mode to upright 8-bit RGB, as a viewer would show it.

    The result equals that of `plain_rgb`, pixel by pixel, except for these images (see `conversion_of`):

    - Transparent pixels are composited on white. (`convert("RGB")` shows the color stored under them, mostly black.)
    - Gray deeper than 8 bits is scaled (`convert` truncates or saturates it): by 65535 in the 16-bit modes. The modes
      "I" and "F" do not state their range: full scale is the smallest of 1 (F only), 255 and 65535 that holds all
      values; otherwise the image's own minimum and maximum are stretched.
    - Unreadable EXIF data are ignored.

    >>> to_rgb(Image.new("I;16", (1, 1), 0x8080)).getpixel((0, 0))
    (128, 128, 128)
    """
    image = upright(image)
    if _is_deep_gray(image):
        return _deep_gray_to_8_bits(image).convert("RGB")
    if _has_alpha(image):
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")  # no copy: a photo of 12 megapixels takes 48 MB


def conversion_of(image: Image.Image) -> Conversion | None:
    """Return why `plain_rgb` would differ from `to_rgb`, or None if both give the same pixels.

    Args:
        image: Image as opened and unchanged; its pixels are loaded. (`decode` already applies the orientation.)
    """
    image.load()
    if _is_deep_gray(image):
        return "deep gray"
    if _has_alpha(image):
        return "transparency"
    return None if _has_readable_exif(image) else "unreadable EXIF"


def upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation, or return the image itself if it has no readable orientation."""
    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGED:
        turned = image.copy()
    else:
        if orientation not in UPRIGHT:
            return image
        turned = image.transpose(UPRIGHT[orientation])
    # so that nothing applies the orientation again or fails on unreadable EXIF data
    turned.info = {key: value for key, value in image.info.items() if key not in METADATA}
    return turned


def _has_readable_exif(image: Image.Image) -> bool:
    """Return whether Pillow can apply the orientation; it also rewrites the other tags, which may fail."""
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) in UPRIGHT:
            ImageOps.exif_transpose(image)
    except DAMAGED:
        return False
    return True


def _is_deep_gray(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _has_alpha(image: Image.Image) -> bool:
    """Return whether any pixel is not opaque."""
    if image.mode not in ALPHA_MODES and not (image.mode in KEYED_MODES and image.has_transparency_data):
        return False
    if image.mode in STRAIGHT_ALPHA:
        return True  # Pillow cannot convert "La" to RGB, even if it is opaque
    return any(_to_rgba(strip).getchannel("A").getextrema()[0] != 255 for _, strip in _strips(image))


def _on_white(image: Image.Image) -> Image.Image:
    whole = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        white = Image.new("RGBA", strip.size, "white")
        whole.paste(Image.alpha_composite(white, _to_rgba(strip)).convert("RGB"), (0, top))
    return whole


def _to_rgba(image: Image.Image) -> Image.Image:
    return image.convert(STRAIGHT_ALPHA.get(image.mode, image.mode)).convert("RGBA")


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield an image in strips with their top rows, because a conversion of a large image needs several copies."""
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _values(strip: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(strip).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _deep_gray_to_8_bits(image: Image.Image) -> Image.Image:
    ranges = [(float(values.min()), float(values.max())) for values in (_values(strip) for _, strip in _strips(image))]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    scales = {"I": (255, 65535), "F": (1, 255, 65535)}.get(image.mode, (65535,))
    full_scale: float = next((scale for scale in scales if low >= 0 and high <= scale), 0)
    if full_scale:
        low = 0.0
    else:
        full_scale = max(high - low, 1e-30)
    whole = Image.new("L", image.size)
    for top, strip in _strips(image):
        levels = np.rint((_values(strip) - low) * (255 / full_scale)).astype(np.uint8)
        whole.paste(Image.fromarray(levels), (0, top))
    return whole
