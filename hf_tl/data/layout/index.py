"""Lookup of the image that a value of a table means."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath

from hf_tl.data.columns import LABEL_COLUMNS
from hf_tl.data.layout.names import split_of, stem_of
from hf_tl.data.layout.table_files import Table
from hf_tl.errors import DataError, name_some


def split_above(path: str, folders: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the split that the outermost such folder of a path stands for, and that folder."""
    above = [str(folder) for folder in reversed(PurePosixPath(path).parents)][1:]
    return next(((folders[folder], folder) for folder in above if folder in folders), None)


class ImageIndex:
    """Images of a folder by path, name and stem, and the folders that stand for a split."""

    def __init__(self, images: Sequence[str], folders: Mapping[str, str]) -> None:
        self.paths = set(images)
        self.folders = folders
        self.names: defaultdict[str, list[str]] = defaultdict(list)
        self.stems: defaultdict[str, list[str]] = defaultdict(list)
        for path in images:
            self.names[path.rpartition("/")[2]].append(path)
            self.stems[stem_of(path)].append(path)

    def has(self, text: str) -> bool:
        """Return whether a text is the path or the name of an image."""
        return text in self.paths or text in self.names

    def find(self, table: Table, name: str) -> list[str | None]:
        """Return the image of each value of a column, by the first way that finds any: path, name, or stem.

        A path may begin with folders of another machine. A stem ("0012" for 0012.jpg) counts only where most values
        are one, because numbers of classes may look the same.
        """
        texts = ["" if value is None else str(value).strip().replace("\\", "/") for value in table.columns[name]]
        images = [self._by_path(text, table) for text in texts]
        if not any(images):
            images = [self._nearest(self.names, text, table) for text in texts]
        if not any(images) and name.lower() not in LABEL_COLUMNS:
            images = [self._nearest(self.stems, text, table) for text in texts]
            if 2 * sum(image is not None for image in images) < len(images):
                return [None] * len(images)
        return images

    def _by_path(self, text: str, table: Table) -> str | None:
        parts = [part for part in text.split("/") if part not in ("", ".")]
        for start in range(max(1, len(parts) - 1) if parts else 0):
            end = "/".join(parts[start:])
            for candidate in (f"{table.folder}/{end}", end) if table.folder else (end,):
                if candidate in self.paths:
                    return candidate
        return None

    def _nearest(self, index: Mapping[str, Sequence[str]], text: str, table: Table) -> str | None:
        """Return the only image of a name: of all, of those below the table's folder, or of the table's split.

        Raises:
            DataError: Several images remain.
        """
        candidates: Sequence[str] = index.get(text.rpartition("/")[2], ()) if text else ()
        split = split_of(PurePosixPath(table.name).stem)
        narrower: tuple[Callable[[str], bool], ...] = (
            lambda path: any(f"/{name}".endswith(f"/{text}") for name in (path, path.rpartition(".")[0])),
            lambda path: bool(table.folder) and path.startswith(f"{table.folder}/"),
            lambda path: split is not None and (split_above(path, self.folders) or (None,))[0] == split,
        )
        for is_near in narrower:
            if len(candidates) > 1:
                candidates = [path for path in candidates if is_near(path)] or candidates
        if len(candidates) > 1:
            raise DataError(
                f"{text!r} of {table.path} fits {len(candidates)} images: {name_some(candidates)}; write their paths"
            )
        return candidates[0] if candidates else None
