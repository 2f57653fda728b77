"""Stored splits with their metadata, before any check or draw."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from hf_tl.data.layout.plan import Reading
from hf_tl.record.parts import DataSource


@dataclass(frozen=True)
class Source:
    """Stored splits, and their metadata."""

    splits: DatasetDict
    name: str
    """Publishable name: a Hub id, "digits", or the folder's or file's own name, never a path."""
    revision: str | None = None
    license: str | None = None
    notes: tuple[str, ...] = ()
    kind: DataSource = "folder"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Recommended settings of a built-in dataset."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Origin of each split, for example a folder."""
    layout: str = ""
    """Format in words: class folders, table, parquet files."""
    image_column: str | None = None
    """Image column, where the layout decides it."""
    label_column: str | None = None
    """Label column, where the layout decides it and the user does not."""
    root: Path | None = None
    """Folder that holds the files, if they are one by one in a folder."""

    def complete(self, reading: Reading) -> Reading:
        """Return the choices of the user with the columns that the layout decides."""
        return replace(
            reading,
            image_column=self.image_column or reading.image_column,
            label_column=reading.label_column or self.label_column,
        )
