"""Bytes of a stored image, wherever datasets keeps them, and their digest."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any


def local_path(stored: Mapping[str, Any]) -> str | None:
    """Return the path of a stored image that is a file here, not one in an archive or on the Hub (zip://..., hf://...).

    >>> local_path({"bytes": None, "path": "a/1.jpg"}), local_path({"bytes": None, "path": "zip://1.jpg::a.zip"})
    ('a/1.jpg', None)
    """
    path = stored.get("path")
    return str(path) if stored.get("bytes") is None and path is not None and "://" not in str(path) else None


def stored_bytes(stored: Mapping[str, Any]) -> bytes | None:
    """Return the encoded image: its own bytes, or the content of its file, also of one in an archive.

    Raises:
        OSError: The file cannot be read.
    """
    data, path = stored.get("bytes"), stored.get("path")
    if data is not None or path is None:
        return data
    if (local := local_path(stored)) is not None:
        with open(local, "rb", buffering=0) as local_file:
            return local_file.read()
    from datasets.utils.file_utils import xopen

    with xopen(str(path), "rb") as file:
        content: bytes = file.read()
    return content


def digest_image(stored: Mapping[str, Any] | None, name: str) -> bytes:
    """Return the digest of an encoded image, which detects every change.

    An unreadable file counts as empty; `check_images` reports it.
    """
    try:
        data = stored_bytes(stored or {})
    except OSError:
        data = None
    return digest_of(data or b"")


def digest_of(data: bytes) -> bytes:
    """Hash the content of a file: its length and all of its bytes."""
    digest = sha256(b"%d:" % len(data))
    digest.update(data)
    return digest.digest()
