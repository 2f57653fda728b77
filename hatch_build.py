"""Description of the package outside of the repository: the README without pictures and links to files."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PICTURE = re.compile(r"^!\[[^]]*\]\((?!https://)[^)]+\)\n\n?", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^]]+)\]\((?!https://)[^)]+\)")


class ReadmeHook(MetadataHookInterface):
    """Set the field `readme` of the metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Replace links to files of the repository by their texts, and drop its pictures."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = LINK.sub(r"\1", PICTURE.sub("", text))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
