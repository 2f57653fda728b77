"""Digest and check of one image, in any process: neither torch nor datasets is imported, which takes seconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from hf_tl.data.decoding.conversions import Examined, examine
from hf_tl.data.decoding.stored import digest_of, stored_bytes
from hf_tl.errors import DataError


@dataclass(frozen=True)
class Unreadable:
    """Image that cannot be used."""

    name: str
    error: str


def digest_file(path: str) -> tuple[bytes, bool]:
    """Return the digest of a file, and whether it could be read; an unreadable one counts as empty."""
    try:
        with open(path, "rb", buffering=0) as file:
            return digest_of(file.read()), True
    except OSError:
        return digest_of(b""), False


def examine_stored(
    most_pixels: int | None, stored: Mapping[str, Any] | None, name: str
) -> tuple[bytes | None, Examined | Unreadable]:
    """Return the digest of a stored image and the outcome of its check, both of the same bytes.

    Args:
        most_pixels: Value of `PIL.Image.MAX_IMAGE_PIXELS` in the process that asks.
        stored: Image as datasets stores it.
        name: Name of the image in errors, if it has no path.
    """
    Image.MAX_IMAGE_PIXELS = most_pixels
    stored = stored or {}
    try:
        data = stored_bytes(stored)
    except OSError:
        data = None  # which the check below reports
    content = stored if data is None else {"bytes": data, "path": stored.get("path")}
    try:
        return None if data is None else digest_of(data), examine(content, name)
    except DataError as error:
        return None, Unreadable(name, str(error))
