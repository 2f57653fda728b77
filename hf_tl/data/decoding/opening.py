"""Opening of a stored image with Pillow, with errors that name it."""

import io
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, UnidentifiedImageError

from hf_tl.data.decoding.colors import DAMAGED
from hf_tl.data.decoding.stored import local_path, stored_bytes
from hf_tl.errors import DataError

T = TypeVar("T")
HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"mif1", b"msf1"})
HEAD = 12


def with_image(value: Any, name: str, use: Callable[[Image.Image], T]) -> T:
    """Open a stored image and apply a function to it.

    Args:
        value: Stored image; see `hf_tl.data.decoding.images.decode`.
        name: Name of the image in errors, if it has no path.
        use: Function of the image, whose pixels are not loaded yet.

    Raises:
        DataError: As in `hf_tl.data.decoding.images.decode`.
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
        raise DataError(
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
        raise DataError(f"{name}: the image cannot be read ({error}); replace or remove it") from error


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
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise DataError(
            f"{name}: {image.width} x {image.height} pixels are more than the limit of {limit}; "
            "shrink the image, or allow it with --max_image_pixels (in Python: PIL.Image.MAX_IMAGE_PIXELS) if you "
            "trust it"
        )
    try:
        return use(image)
    except DAMAGED as error:
        raise DataError(f"{name}: the image is truncated or damaged ({error}); replace or remove it") from error
