"""Images to predict: files, folders, patterns, lists of files, images in memory, and datasets."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hf_tl.data.layout.names import is_image
from hf_tl.errors import DataError
from hf_tl.storage.text import read_text

if TYPE_CHECKING:
    from datasets import Dataset

LIST = "@"
"""Prefix of a file that lists paths."""


@dataclass(frozen=True)
class NamedImage:
    """Stored image, as `hf_tl.data.decoding.opening.decode` takes it, with its name in the results."""

    name: str
    stored: Any


def collect_images(images: Any) -> list[NamedImage]:
    """Name the images to predict; none is decoded.

    Args:
        images: Path, PIL image, array, `Dataset` or a column of it, or a sequence of paths, PIL images and arrays.
            Paths are those of `list_files`. Arrays have the shape (height, width), or (height, width, channels) with 3
            channels (RGB) or 4 (RGBA), of type uint8.

    Raises:
        DataError: There are no images, or a value is no image.
    """
    if (rows := _of_datasets(images)) is not None:
        named = list(rows)
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


def _of_datasets(images: Any) -> Iterator[NamedImage] | None:
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
        return _rows(images, find_image_column(images.features))
    if isinstance(images, Column) and isinstance(images.features, ImageFeature):
        return _rows(images.source, images.column_name)
    return None


def _rows(images: "Dataset", column: str) -> Iterator[NamedImage]:
    from hf_tl.data.decoding.images import as_stored
    from hf_tl.data.fingerprint import row_name

    stored = as_stored(images.with_format(None), column).select_columns([column])
    for number, row in enumerate(stored):
        yield NamedImage(row_name(row[column], number, "the dataset"), row[column])
