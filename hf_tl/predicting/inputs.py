"""Images to predict: files, folders, patterns, lists of files, images in memory, and datasets."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from hf_tl.data.layout.names import is_image
from hf_tl.errors import DataError
from hf_tl.storage.text import read_text

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_tl.data.streaming.rows import StreamedRows

LIST = "@"
"""Prefix of a file that lists paths."""


@dataclass(frozen=True)
class NamedImage:
    """Stored image, as `hf_tl.data.decoding.opening.decode` takes it, with its name in the results."""

    name: str
    stored: Any


@dataclass(frozen=True)
class DatasetImages(Sequence[NamedImage]):
    """Images of a dataset in their order, each read when it is needed."""

    rows: "Dataset | StreamedRows"
    """Rows with the column of encoded images alone."""
    column: str
    split: str
    """Split for the names of images without a path."""
    first: int = 0
    """Row of the first image in the split."""

    @classmethod
    def of(cls, rows: "Dataset", column: str, split: str) -> "DatasetImages":
        """Return the images of a column."""
        from datasets import Image as ImageFeature

        stored = rows.with_format(None).select_columns([column])
        return cls(stored.cast_column(column, ImageFeature(decode=False)), column, split)

    @property
    def identity(self) -> str:
        """Fingerprint of the dataset, of the columns and of the order of its rows."""
        from datasets import Dataset

        rows = self.rows
        return f"{self.split} {rows._fingerprint if isinstance(rows, Dataset) else rows.fingerprint}"

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> NamedImage: ...
    @overload
    def __getitem__(self, index: slice) -> "DatasetImages": ...
    def __getitem__(self, index: int | slice) -> "NamedImage | DatasetImages":
        if isinstance(index, int):
            return self._named(self.rows[index], range(len(self))[index])
        rows = range(len(self))[index]
        if rows.step != 1:
            raise ValueError(f"expected consecutive rows, found a step of {rows.step}")
        # datasets selects no rows at the end of others
        return DatasetImages(self.rows.select(rows or range(0)), self.column, self.split, self.first + rows.start)

    def __iter__(self) -> Iterator[NamedImage]:
        for number, row in enumerate(self.rows):
            yield self._named(row, number)

    def _named(self, row: dict[str, Any], number: int) -> NamedImage:
        from hf_tl.data.fingerprint import row_name

        stored = row[self.column]
        return NamedImage(row_name(stored, self.first + number, self.split), stored)


def open_dataset(
    dataset: str,
    split: str | None = None,
    *,
    image_column: str | None = None,
    dataset_config: str | None = None,
    dataset_revision: str | None = None,
    streaming: bool = False,
) -> DatasetImages:
    """Open the images of a dataset by its name; no label is needed where the dataset is parquet files or on the Hub.

    Args:
        dataset: Name, as in `hf_tl.load_data`.
        split: Stored split (default: the only one).
        image_column: Image column (default: detected by type).
        dataset_config: Configuration of a Hub dataset.
        dataset_revision: Branch, tag or commit of a Hub dataset.
        streaming: Whether to read parquet files over the network when their rows are needed, and to store none.

    Raises:
        ConfigError: A configuration or revision is named for what is not on the Hub.
        DataError: There is no such dataset, split or column, or the split has no images.

    >>> open_dataset("digits", "test")[3].name
    'row 3 of test'
    """
    from hf_tl.data.columns import find_image_column
    from hf_tl.data.datasets import source_of
    from hf_tl.data.layout.reading import make_reading
    from hf_tl.data.streaming.rows import open_rows

    if streaming:
        streams = open_rows(dataset, config_name=dataset_config, revision=dataset_revision, image_column=image_column)
        split = _check_split(split, streams, dataset)
        return DatasetImages(streams[split], streams[split].column, split)
    reading = make_reading(image_column=image_column)
    source = source_of(dataset, reading, dataset_config=dataset_config, dataset_revision=dataset_revision)
    split = _check_split(split, source.splits, source.name)
    rows = source.splits[split]
    return DatasetImages.of(rows, find_image_column(rows.features, source.image_column or image_column), split)


def _check_split(split: str | None, splits: Mapping[str, Sized], name: str) -> str:
    """Return a split that has images; without a name the only one.

    Raises:
        DataError: There is no such split, or it has no images.
    """
    names = [str(each) for each in splits]
    if split is None and len(names) == 1:
        split = names[0]
    if split not in names:
        raise DataError(f"expected --split with one of {', '.join(names)} for {name}, found {split or 'none'}")
    if not len(splits[split]):
        raise DataError(f"there are no images to predict: the split {split} of {name} is empty")
    return split


def collect_images(images: Any) -> Sequence[NamedImage]:
    """Name the images to predict; none is decoded.

    Args:
        images: Path, PIL image, array, `Dataset` or a column of it, or a sequence of paths, PIL images and arrays.
            Paths are those of `list_files`. Arrays have the shape (height, width), or (height, width, channels) with 3
            channels (RGB) or 4 (RGBA), of type uint8.

    Raises:
        DataError: There are no images, or a value is no image.
    """
    named: Sequence[NamedImage]
    if (rows := _of_datasets(images)) is not None:
        named = rows
    elif isinstance(images, str | os.PathLike | Image.Image | np.ndarray):
        named = list(_named(images, 0))
    elif isinstance(images, Iterable) and not isinstance(images, dict):
        named = [image for number, value in enumerate(images) for image in _named(value, number)]
    else:
        raise DataError(
            f"expected paths, PIL images, arrays or a datasets.Dataset, found {type(images).__name__}; of a "
            'DatasetDict give one split: dataset["test"], of loaded data data.splits["test"]'
        )
    if not named:
        raise DataError("there are no images to predict: the list of images is empty")
    return named


def list_files(path: str) -> Iterator[str]:
    """Yield the files that a path stands for.

    Args:
        path: A file; a folder, whose images at any depth count, except hidden ones; a pattern (`*`, `?`, `[…]`, and
            `**` for any depth), unless a file has that very name; or `@FILE`, a text file with one such path on each
            line, relative to the current folder (`@-`: the standard input). Other names are yielded as they are, and
            are reported as unreadable when they are opened.

    Raises:
        DataError: A folder holds no image, or a list cannot be read.
    """
    if path.startswith(LIST) and not os.path.lexists(path):
        for line in _lines(path.removeprefix(LIST)):
            yield from list_files(line)
    elif os.path.isdir(path):
        files = sorted(_images_in(path))
        if not files:
            raise DataError(f"no images in the folder {path}: expected files such as 1.jpg, at any depth")
        yield from files
    elif not os.path.lexists(path) and glob.has_magic(path):
        matches = sorted(glob.glob(path, recursive=True))
        yield from (match for match in matches if os.path.isfile(match))
        if not matches:
            yield path
    else:
        yield path


def _images_in(folder: str) -> Iterator[str]:
    seen: set[str] = set()  # links may form a circle
    for parent, folders, files in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(parent))
        folders[:] = [
            name for name in folders if _is_visible(name) and os.path.realpath(os.path.join(parent, name)) not in seen
        ]
        yield from (os.path.join(parent, name) for name in files if _is_visible(name) and is_image(name))


def _is_visible(name: str) -> bool:
    return not name.startswith((".", "__"))


def _lines(file: str) -> list[str]:
    if file == "-":
        text = sys.stdin.read()
    else:
        title, expected, advice = f"{LIST}{file}", "a text file with a path on each line", "correct the path"
        text = read_text(file, title, expected, advice, kind=DataError, encoding="utf-8-sig", errors="surrogateescape")
    # a name may contain the other characters at which `splitlines` splits
    return [line for line in text.split("\n") if line.strip()]


def _named(value: Any, number: int) -> Iterator[NamedImage]:
    name = f"image {number}"
    if isinstance(value, str | os.PathLike):
        yield from (NamedImage(file, file) for file in list_files(os.fspath(value)))
    elif isinstance(value, Image.Image):
        yield NamedImage(str(getattr(value, "filename", "") or name), value)
    elif isinstance(value, np.ndarray):
        yield NamedImage(name, _from_array(value, name))
    else:
        raise DataError(f"{name}: expected a path, a PIL image or an array, found {type(value).__name__}")


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not is_image or not array.size:
        raise DataError(
            f"{name}: expected an array of uint8 of the shape (height, width) or (height, width, 3 or 4), found "
            f"{array.dtype} of the shape {array.shape}"
        )
    return Image.fromarray(array)


def _of_datasets(images: Any) -> DatasetImages | None:
    """Return the images of a dataset or of a column; None for other values.

    Only a program that has imported datasets can pass one, so others do not import it.
    """
    if "datasets" not in sys.modules:
        return None
    from datasets import Dataset
    from datasets import Image as ImageFeature
    from datasets.arrow_dataset import Column

    from hf_tl.data.columns import find_image_column

    if isinstance(images, Dataset):
        return DatasetImages.of(images, find_image_column(images.features), "the dataset")
    if isinstance(images, Column) and isinstance(images.features, ImageFeature):
        return DatasetImages.of(images.source, images.column_name, "the dataset")
    return None
