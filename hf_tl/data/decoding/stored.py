"""Access to the bytes of a stored image, wherever datasets keeps them."""

from collections.abc import Mapping
from typing import Any

from datasets.utils.file_utils import is_local_path, xopen


def local_path(stored: Mapping[str, Any]) -> str | None:
    """Return the path of a stored image that is a file here."""
    path = stored.get("path")
    return str(path) if stored.get("bytes") is None and path is not None and is_local_path(str(path)) else None


def stored_bytes(stored: Mapping[str, Any]) -> bytes | None:
    """Return the encoded image: its own bytes, or the content of its file, also of one in an archive (zip://...).

    Raises:
        OSError: The file cannot be read.
    """
    data, path = stored.get("bytes"), stored.get("path")
    if data is not None or path is None:
        return data
    with xopen(str(path), "rb") as file:
        content: bytes = file.read()
    return content
