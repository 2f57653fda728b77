"""Predictions of many images in parts, so that a command that was interrupted continues, in any number of processes."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from hf_tl.errors import ConfigError
from hf_tl.predicting.inputs import DatasetImages, NamedImage
from hf_tl.predicting.result import Prediction, TableFormat
from hf_tl.storage.writing import writing

IMAGES = 512
"""Number of images in a part."""
SUFFIX = ".parts"
"""Suffix of the folder of parts, beside the table."""
_STATE = "state.json"


@dataclass(frozen=True)
class Parts:
    """Folder with a file of JSON lines for each part that is complete."""

    folder: Path
    table: TableFormat
    images: int

    @classmethod
    def open(
        cls, output: Path, table: TableFormat, images: Sequence[NamedImage], model: str, *, process: int = 0
    ) -> Self:
        """Open the parts of a table; those of other images, of another model or with other columns are removed.

        Args:
            output: Table to write in the end.
            table: Its columns.
            images: All images.
            model: Identity of the model.
            process: Number of the process; only the first removes, before the others open.

        Raises:
            ConfigError: The folder cannot be written.
        """
        parts = cls(output.with_name(output.name + SUFFIX), table, len(images))
        if process > 0:
            return parts
        state = {"model": model, "columns": list(table.columns), "images": _fingerprint(images), "part": IMAGES}
        with parts._written():
            if parts._state() != state:
                shutil.rmtree(parts.folder, ignore_errors=True)
                parts.folder.mkdir(parents=True)
                (parts.folder / _STATE).write_text(json.dumps(state), encoding="utf-8")
        return parts

    def _state(self) -> Any:
        try:
            return json.loads((self.folder / _STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # there is none, or it was not finished
            return None

    @property
    def done(self) -> int:
        """Number of images whose predictions are there."""
        return self.images - sum(map(len, self.missing()))

    def missing(self) -> list[range]:
        """Return the rows of the parts that are not there, in order."""
        starts = range(0, self.images, IMAGES)
        rows = [range(start, min(start + IMAGES, self.images)) for start in starts]
        return [part for part in rows if not self._file(part).exists()]

    def write(self, rows: range, predictions: Iterable[Prediction]) -> None:
        """Write a part, whole or not at all.

        Raises:
            ConfigError: It cannot be written.
        """
        file = self._file(rows)
        lines = [json.dumps(self.table.row(each), ensure_ascii=False, allow_nan=False) + "\n" for each in predictions]
        with self._written():
            partial = file.with_suffix(f".{os.getpid()}")
            partial.write_text("".join(lines), encoding="utf-8")
            os.replace(partial, file)

    def read(self) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows of each part, in order."""
        for start in range(0, self.images, IMAGES):
            text = self._file(range(start, self.images)).read_text(encoding="utf-8")
            yield [json.loads(line) for line in text.removesuffix("\n").split("\n")]

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, rows: range) -> Path:
        return self.folder / f"{rows.start:09d}.jsonl"

    def _written(self) -> contextlib.AbstractContextManager[None]:
        return writing(f"--output {self.folder.with_suffix('')}", ConfigError)


def share_of(parts: Sequence[range], process: int, processes: int) -> Iterator[list[range]]:
    """Yield the parts of one of several processes, in runs of parts that follow each other."""
    run: list[range] = []
    for part in parts[len(parts) * process // processes : len(parts) * (process + 1) // processes]:
        if run and run[-1].stop != part.start:
            yield run
            run = []
        run.append(part)
    if run:
        yield run


def _fingerprint(images: Sequence[NamedImage]) -> str:
    """Return the fingerprint of a dataset, or a digest of the names, sizes and times of files."""
    if isinstance(images, DatasetImages):
        return images.identity
    digest = sha256()
    for image in images:
        try:
            status = os.stat(image.stored) if isinstance(image.stored, str | os.PathLike) else None
        except (OSError, ValueError):  # it is named as unreadable later
            status = None
        facts = [image.name, None if status is None else [status.st_size, status.st_mtime_ns]]
        digest.update(json.dumps(facts).encode())
    return digest.hexdigest()
