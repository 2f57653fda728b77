"""Decoding of a stored image, in any format that Pillow reads. Needs neither torch nor datasets."""

import io
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, UnidentifiedImageError

from hf_tl.data.decoding.colors import DAMAGED, upright
from hf_tl.data.decoding.stored import local_path, stored_bytes
from hf_tl.errors import DataError, PixelLimitError

T = TypeVar("T")
HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"mif1", b"msf1"})
HEAD = 12
EXTERNAL = frozenset({"EPS"})
"""Formats whose pixels Pillow leaves to another program, Ghostscript."""


def decode(value: Any, name: str = "the image", *, reduced: int = 0) -> Image.Image:
    """Decode a stored image completely; errors name the image.

    Args:
        value: PIL image, encoded bytes, path, or the `{"bytes": ..., "path": ...}` of datasets' `Image` feature.
        name: Name of the image in errors, if it has no path.
        reduced: Decode JPEGs at a half, a quarter or an eighth of their size, whichever is the smallest with sides of
            at least this many pixels. 1 suffices to find damage; 0 is the full size.

    Returns:
        Loaded image, upright, in its own mode; see `hf_tl.data.decoding.colors.to_rgb`.

    Raises:
        PixelLimitError: The image has more pixels than `PIL.Image.MAX_IMAGE_PIXELS` (a "decompression bomb").
        DataError: The image is missing, truncated, or in no format that Pillow reads by itself.
    """

    def load(image: Image.Image) -> Image.Image:
        if reduced:
            image.draft(None, (reduced, reduced))
        return upright(image)

    return with_image(value, name, load)


def with_image(value: Any, name: str, use: Callable[[Image.Image], T]) -> T:
    """Open a stored image and apply a function to it.

    Args:
        value: Stored image; see `decode`.
        name: Name of the image in errors, if it has no path.
        use: Function of the image, whose pixels are not loaded yet.

    Raises:
        DataError: As in `decode`.
    """
    if isinstance(value, Image.Image):
        return _checked(value, name, use)
    stored = value if isinstance(value, Mapping) else {"path" if isinstance(value, str | Path) else "bytes": value}
    data, path = stored.get("bytes"), stored.get("path")
    if data is None and path is None:
        raise DataError(f"{name}: expected an image, found none; remove the row")
    name = str(path or name)
    if data is None and local_path(stored) is None:
        data = stored_bytes(stored)
    try:
        with Image.open(io.BytesIO(data) if data is not None else str(path)) as image:
            return _checked(image, name, use)
    except Image.DecompressionBombError as error:
        raise PixelLimitError(
            f"{name}: {error}; shrink the image, or allow it with --max_image_pixels (in Python: "
            "PIL.Image.MAX_IMAGE_PIXELS) if you trust it"
        ) from error
    except UnidentifiedImageError as error:
        if _is_heic(data, path):
            if _register_heic():
                return with_image(value, name, use)
            raise DataError(
                f"{name}: HEIC images need a package: pip install pillow-heif; or convert the image to JPEG"
            ) from error
        raise DataError(f"{name}: no image that Pillow can read; replace or remove it") from error
    except DAMAGED as error:
        raise DataError(f"{name}: the image cannot be read ({_reason(error)}); replace or remove it") from error


def _register_heic() -> bool:
    """Let Pillow read HEIC with pillow-heif, if it is installed; return whether this call did it."""
    if ".heic" in Image.registered_extensions() or find_spec("pillow_heif") is None:
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    return True


def _is_heic(data: bytes | None, path: str | None) -> bool:
    """Return whether a file starts as HEIC images do: the file type box of the ISO base media format."""
    if data is None:
        with open(str(path), "rb") as file:
            data = file.read(HEAD)
    return data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS


def _checked(image: Image.Image, name: str, use: Callable[[Image.Image], T]) -> T:
    if image.format in EXTERNAL:
        raise DataError(f"{name}: {image.format} is a program to be run, not an image; convert it to PNG")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise PixelLimitError(
            f"{name}: {image.width} x {image.height} pixels are more than the limit of {limit}; "
            "shrink the image, or allow it with --max_image_pixels (in Python: PIL.Image.MAX_IMAGE_PIXELS) if you "
            "trust it"
        )
    try:
        return use(image)
    except DAMAGED as error:
        raise DataError(
            f"{name}: the image is truncated or damaged ({_reason(error)}); replace or remove it"
        ) from error


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
