"""Names of all files below a folder, from which a plan is made without opening an image."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Self

from hf_tl.data.layout.index import ImageIndex
from hf_tl.data.layout.names import folder_splits, is_hidden, is_image, parents_of, suffix_of
from hf_tl.errors import DataError

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".parquet"})


@dataclass(frozen=True)
class Listing:
    """Visible files and folders below a root, as relative paths with `/`."""

    files: tuple[str, ...]
    folders: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    """Links that lead nowhere."""

    @classmethod
    def read(cls, root: Path) -> Self:
        """List a folder at any depth. Links are followed; a link to a folder above it is not.

        Raises:
            DataError: A folder cannot be read.
        """
        files: list[str] = []
        folders: list[str] = []
        broken: list[str] = []

        def walk(path: str, prefix: str, above: frozenset[tuple[int, int]]) -> None:
            try:
                entries = sorted(os.scandir(path), key=lambda entry: entry.name)
                identity = os.stat(path)
            except OSError as error:
                raise DataError(
                    f"the folder {prefix or path} cannot be read ({error.strerror}); change its permissions"
                ) from error
            key = (identity.st_dev, identity.st_ino)
            if key in above:
                return
            for entry in entries:
                name = f"{prefix}{entry.name}"
                if is_hidden(entry.name):
                    continue
                if entry.is_dir():
                    folders.append(name)
                    walk(entry.path, f"{name}/", above | {key})
                elif entry.is_file():
                    files.append(name)
                elif entry.is_symlink():
                    broken.append(name)

        walk(str(root), "", frozenset())
        return cls(tuple(files), tuple(folders), tuple(broken))

    @classmethod
    def of(cls, files: Iterable[str], *, folders: Iterable[str] = (), broken: Iterable[str] = ()) -> Self:
        """Make a listing of paths, for which no file needs to exist."""
        visible = tuple(file for file in files if not any(is_hidden(part) for part in PurePosixPath(file).parts))
        parents = parents_of(visible)
        return cls(tuple(sorted(visible)), tuple(sorted({*parents, *folders})), tuple(broken))

    def images(self) -> list[str]:
        """Return the files that are images by their suffix."""
        return self._kinds[0]

    def others(self) -> list[str]:
        """Return the files that are neither images nor tables."""
        return self._kinds[2]

    def tables(self) -> list[str]:
        """Return the files that are tables by their suffix."""
        return self._kinds[1]

    def only(self, suffix: str) -> list[str]:
        """Return the files of a suffix, sorted, if no other file is an image or a table."""
        if any(suffix_of(file) != suffix for kind in (self.images(), self.tables()) for file in kind):
            return []
        return sorted(file for file in self.files if file.lower().endswith(suffix))

    @cached_property
    def _kinds(self) -> tuple[list[str], list[str], list[str]]:
        """Images, tables and other files."""
        kinds: tuple[list[str], list[str], list[str]] = ([], [], [])
        for file in self.files:
            kinds[0 if is_image(file) else 1 if is_table(file) else 2].append(file)
        return kinds

    @cached_property
    def index(self) -> ImageIndex:
        """The images by path, name and stem."""
        return ImageIndex(self.images(), folder_splits(self.files))

    @cached_property
    def tree(self) -> "Tree":
        """The images as a tree of folders."""
        root = Tree("")
        for folder in self.folders:
            root.at(folder)
        files: defaultdict[str, list[str]] = defaultdict(list)
        for file in self.images():
            folder, _, name = file.rpartition("/")
            files[folder].append(name)
        for folder, names in files.items():
            root.at(folder).files += names
        return root


@dataclass
class Tree:
    """A folder with its images and subfolders."""

    path: str
    files: list[str] = field(default_factory=list)
    folders: dict[str, "Tree"] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the folder itself."""
        return self.path.rpartition("/")[2]

    def at(self, path: str) -> "Tree":
        """Return the folder at a relative path, and create it where it is missing."""
        node = self
        for part in path.split("/") if path else ():
            if part not in node.folders:
                node.folders[part] = Tree(f"{node.path}/{part}" if node.path else part)
            node = node.folders[part]
        return node

    def has(self, path: str) -> bool:
        """Return whether a folder exists at a relative path."""
        node = self
        for part in path.split("/"):
            if part not in node.folders:
                return False
            node = node.folders[part]
        return True

    def images(self) -> Iterator[str]:
        """Yield the relative paths of all images below the folder."""
        for file in self.files:
            yield f"{self.path}/{file}" if self.path else file
        for folder in self.folders.values():
            yield from folder.images()

    @cached_property
    def count(self) -> int:
        """Number of images below the folder."""
        return len(self.files) + sum(folder.count for folder in self.folders.values())

    def filled(self) -> dict[str, "Tree"]:
        """Return the subfolders that hold images at any depth."""
        return {name: folder for name, folder in self.folders.items() if folder.count}


def is_table(file: str) -> bool:
    """Return whether a file is a table by its suffix."""
    return suffix_of(file) in TABLE_SUFFIXES


def count_suffixes(files: Iterable[str]) -> list[str]:
    """Describe files by suffix: `3 .txt`.

    >>> count_suffixes(["a.txt", "b.txt", "README"])
    ['2 .txt', '1 README']
    """
    suffixes = Counter(PurePosixPath(file).suffix.lower() or PurePosixPath(file).name for file in files)
    return [f"{count} {suffix}" for suffix, count in suffixes.most_common()]
