"""Origin of an exported file: the model that it was made from, as the `export.json` beside it states.

The statement holds for the files whose digests it lists, so that a file that was put in their place has no origin.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_tl.errors import ModelError, unreadable
from hf_tl.runtime.runners import parts_of
from hf_tl.storage.documents import read_json

FILE = "export.json"


@dataclass(frozen=True)
class FileOrigin:
    """Model that an exported file was made from."""

    weights_digest: str
    """Digest of its weights."""
    architecture: str
    parameters: int
    """Number of parameters."""
    is_exact: bool
    """Whether the file holds these very weights; false for a quantized file."""


def digests_of(*files: Path) -> dict[str, str]:
    """Return the SHA-256 of those of some exported files that exist, and of their external weights, by name."""
    digests = {}
    for part in (part for file in files for part in parts_of(file)):
        with open(part, "rb") as stream:
            digests[part.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def origin_of(file: Path) -> FileOrigin | None:
    """Read the origin of an exported file.

    Returns:
        Origin; None if nothing beside the file states it, or states it for this content.

    Raises:
        ModelError: The statement cannot be read, or is damaged.
    """
    path = file.with_name(FILE)
    if not path.is_file():
        return None
    try:
        report = read_json(path)
        digests = digests_of(file)
        if not digests.items() <= dict(report.get("files", {})).items():
            return None
        model = report["model"]
        return FileOrigin(
            weights_digest=_checked(model["weights_digest"], str),
            architecture=_checked(model["architecture"], str),
            parameters=_checked(model["parameters"], int),
            is_exact=file.name != (report.get("int8") or {}).get("file"),
        )
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {unreadable(error)}") from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ModelError(
            f"expected the report of an export in {path}, found {unreadable(error)}; export again"
        ) from error


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{value!r:.80} in place of a value of the type {kind.__name__}")
    return value
