"""Access to the bytes of a stored image, wherever datasets keeps them."""

from collections.abc import Mapping
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
