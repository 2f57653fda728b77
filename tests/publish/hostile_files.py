"""Files that somebody could upload to harm a page: bombs, polyglots, programs, damaged and misnamed files."""

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image

TOO_LARGE = r"more than the limit of 50 megapixels; shrink the image"
NO_IMAGE = r"no image that Pillow can read"
DAMAGED = r"truncated|damaged|cannot be read"


class Hostile(NamedTuple):
    """File to upload."""

    name: str
    content: Callable[[], bytes]
    answer: str | None
    """Pattern of the error; None where the file is an image and is classified."""


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return an image in a format."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(side: int = 64) -> Image.Image:
    """Return an image of noise."""
    return Image.frombytes("RGB", (side, side), random.Random(side).randbytes(3 * side * side))


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, more: bytes = b"", channels: int = 3, rows: int | None = None) -> bytes:
    """Return a PNG of equal pixels, compressed row by row, with more chunks before the pixels; or its first rows."""
    color = {1: 0, 3: 2, 4: 6}[channels]
    packed = zlib.compressobj(1)
    row = b"\0" + b"\x77" * (channels * width)
    pixels = b"".join(packed.compress(row) for _ in range(rows or height)) + packed.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def overlapping_tags(entries: int, size: int) -> bytes:
    """Return TIFF or EXIF data whose entries all have the same `size` bytes as their value."""
    tags = b"".join(struct.pack("<HHII", 1 + number, 7, size, 8) for number in range(entries))
    start = b"II*\0" + struct.pack("<IH", 8, entries) + tags + bytes(4)
    return start + bytes(size + 8 - len(start))


def jpeg_with_exif(exif: bytes) -> bytes:
    """Return a JPEG with EXIF data in as many segments as needed, which Pillow joins."""
    image = encoded(picture(), "JPEG")
    parts = [exif[start : start + 65_000] for start in range(0, len(exif), 65_000)]
    segments = [b"\xff\xe1" + struct.pack(">H", len(part) + 8) + b"Exif\0\0" + part for part in parts]
    return image[:2] + b"".join(segments) + image[2:]


def webp_canvas(side: int) -> bytes:
    """Return an animated WebP of two small frames on a canvas of this side."""
    content = bytearray(encoded(picture(), "WEBP", save_all=True, append_images=[picture(64).rotate(90)]))
    at = content.index(b"VP8X") + 12
    content[at : at + 6] = (side - 1).to_bytes(3, "little") * 2
    return bytes(content)


def gif_of_frames(frames: int) -> bytes:
    """Return a GIF of one pixel with this many frames."""
    frame = b"\x21\xf9\x04\0\1\0\0\0\x2c\0\0\0\0\1\0\1\0\0\2\2\x44\1\0"
    return b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff" + frame * frames + b";"


def icon_of_large_png(side: int) -> bytes:
    """Return an icon of 16 pixels, as its header says, whose picture has this side."""
    inner = png(side, side, channels=1)
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner), 22) + inner


def zipped(size: int) -> bytes:
    """Return an archive of zeros."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(size))
    return buffer.getvalue()


SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>document.title='hit'</script></svg>"
HTML = b"<!doctype html><script>document.title='hit'</script>"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(/tmp/hit) (w) file closefile\n%%EOF\n"

FILES = (
    Hostile("144-megapixels.png", lambda: png(12_000, 12_000, channels=1), TOO_LARGE),
    Hostile("51-megapixels.png", lambda: png(8_500, 6_000, channels=1), TOO_LARGE),
    Hostile("4-gigapixels.png", lambda: png(65_000, 65_000, rows=1), TOO_LARGE),
    Hostile("50-megapixels.png", lambda: png(8_000, 6_250, channels=4), None),
    Hostile("frames.gif", lambda: gif_of_frames(400_000), None),
    Hostile("tags.tiff", lambda: overlapping_tags(65_535, 5_000_000), DAMAGED + "|" + NO_IMAGE + "|too much memory"),
    Hostile("tags.png", lambda: png(8, 8, chunk(b"eXIf", overlapping_tags(65_535, 5_000_000))), None),
    Hostile("tags.jpg", lambda: jpeg_with_exif(overlapping_tags(65_535, 5_000_000)), DAMAGED),
    Hostile("tags.webp", lambda: encoded(picture(), "WEBP", exif=overlapping_tags(65_535, 5_000_000)), None),
    Hostile("canvas.webp", lambda: webp_canvas(16_383), DAMAGED),
    Hostile("icon.ico", lambda: icon_of_large_png(13_000), DAMAGED + "|" + TOO_LARGE),
    Hostile("archive.png", lambda: zipped(200 << 20), NO_IMAGE),
    Hostile("drawing.svg", lambda: SVG, NO_IMAGE),
    Hostile("drawing.png", lambda: SVG, NO_IMAGE),
    Hostile("page.html", lambda: HTML, NO_IMAGE),
    Hostile("page.png", lambda: HTML, NO_IMAGE),
    Hostile("program.eps", lambda: EPS, "EPS is a program"),
    Hostile("program.jpg", lambda: EPS, "EPS is a program"),
    Hostile("script.gif", lambda: gif_of_frames(1) + b"*/=1;document.title='hit'//", None),
    Hostile("archive.jpg", lambda: encoded(picture(), "JPEG") + zipped(1000), None),
    Hostile("truncated.jpg", lambda: encoded(picture(300), "JPEG")[:9_000], DAMAGED),
    Hostile("truncated.png", lambda: encoded(picture(300), "PNG")[:90_000], DAMAGED),
    Hostile("empty.png", lambda: b"", NO_IMAGE),
    Hostile("misnamed.txt", lambda: encoded(picture(), "PNG"), None),
    Hostile("misnamed.html", lambda: encoded(picture(), "JPEG"), None),
    Hostile("../../../../etc/passwd.png", lambda: encoded(picture(), "PNG"), None),
    Hostile("/etc/cron.d/image.png", lambda: encoded(picture(), "PNG"), None),
    Hostile("..\\..\\image.png", lambda: encoded(picture(), "PNG"), None),
    Hostile("w" * 300 + ".png", lambda: encoded(picture(), "PNG"), None),
    Hostile("<img src=x onerror=alert(1)>.png", lambda: encoded(picture(), "PNG"), None),
)
