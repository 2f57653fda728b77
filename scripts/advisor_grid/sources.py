"""Datasets of the grid: their images, as train and test."""

import functools
import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, concatenate_datasets

from hf_tl.data.columns import IMAGE, LABEL
from hf_tl.data.datasets import load_data

FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Folder of Debian's package dataset-fashion-mnist."""
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Facts about a dataset of the grid."""

    input_size: int
    """Height and width of the input in pixels."""
    classes: int
    test: int
    """Number of test images; those of Fashion-MNIST are the first of 10,000."""
    photos: str | None = None
    """Origin of the folder or zip archive for `--folder`; None for datasets that need none."""
    is_mirrored: bool = True
    """Whether a mirror image belongs to the same class."""


DATA = {
    "digits": Source(64, 10, 360, is_mirrored=False),
    "fashion": Source(64, 10, 2_000),
    "clothes": Source(96, 10, 372, "github.com/alexeygrigorev/clothing-dataset-small"),
    "trash": Source(96, 6, 643, "github.com/garythung/trashnet, with the folders train and test"),
}
"""Datasets of images of 8, 28, 160 and 160 pixels."""


@functools.cache
def load_source(data: str, folder: Path | None) -> DatasetDict:
    """Load all images of a dataset, as train and test.

    Args:
        data: Name of the dataset.
        folder: Folder or zip archive of the photos, for datasets that need it.

    Raises:
        SystemExit: The images are missing.
    """
    source = DATA[data]
    if data == "fashion":
        if not FASHION.exists():
            raise SystemExit("the Fashion-MNIST images are in Debian's package dataset-fashion-mnist: install it")
        return DatasetDict(train=_fashion("train"), test=_fashion("t10k").select(range(source.test)))
    if source.photos is not None and folder is None:
        raise SystemExit(f"the {data} need --folder ({source.photos})")
    splits = load_data("digits" if source.photos is None else str(folder)).splits
    return DatasetDict(train=concatenate_datasets([splits["train"], splits["validation"]]), test=splits["test"])


def _fashion(name: str) -> Dataset:
    """Read the IDX files of a split (http://yann.lecun.com/exdb/mnist)."""
    content = [
        gzip.decompress((FASHION / f"{name}-{kind}-ubyte.gz").read_bytes()) for kind in ("images-idx3", "labels-idx1")
    ]
    pixels = np.frombuffer(content[0], np.uint8, offset=16).reshape(-1, 28, 28)
    labels = np.frombuffer(content[1], np.uint8, offset=8)
    features = Features({IMAGE: Image(), LABEL: ClassLabel(names=list(FASHION_CLASSES))})
    return Dataset.from_dict({IMAGE: list(pixels), LABEL: labels.tolist()}, features=features)
