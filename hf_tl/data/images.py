"""From stored images to what a model takes in: decoding, conversion to RGB, and the transforms of a dataset's rows."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from hf_tl.errors import DataError, name_some

# What Pillow's decoders raise on a damaged file; UnidentifiedImageError is an OSError.
DAMAGED = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error, OverflowError,
    MemoryError, AttributeError, RuntimeError, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any Pillow mode to upright 8-bit RGB, as a viewer would show it.

    - The EXIF orientation is applied.
    - Transparent pixels are laid on white. (`Image.convert("RGB")`, which transformers' pipelines use, would show the
      colour that is stored under them, mostly black.)
    - Gray deeper than 8 bits is scaled, where `Image.convert` would saturate it: by 65535 in the 16-bit modes. The
      modes "I" and "F" do not say their range: the smallest of 1 (F only), 255 and 65535 that holds all values is taken
      for full scale, else the image's own minimum and maximum are stretched.
    - LAB goes through its colour profile; CMYK and the others are Pillow's conversions.

    >>> to_rgb(Image.new("I;16", (1, 1), 0x8080)).getpixel((0, 0))
    (128, 128, 128)
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_gray_to_8_bits(image).convert("RGB")
    if image.mode == "LAB":
        return _apply_lab_profile(image)
    if image.has_transparency_data:
        premultiplied = {"La": "LA", "RGBa": "RGBA"}
        image = image.convert(premultiplied.get(image.mode, image.mode)).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _deep_gray_to_8_bits(image: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    scales = {"I": (255, 65535), "F": (1, 255, 65535)}.get(image.mode, (65535,))
    full_scale: float = next((scale for scale in scales if low >= 0 and high <= scale), 0)
    if not full_scale:
        values, full_scale = values - low, max(high - low, 1e-30)
    return Image.fromarray(np.rint(values * (255 / full_scale)).astype(np.uint8))


def _apply_lab_profile(image: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(image, _lab_to_srgb())
    if converted is None:
        raise DataError("the LAB image could not be converted to sRGB; save it as RGB")
    return converted


@cache
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")


def decode(value: Any, name: str = "the image", *, reduced: int = 0) -> Image.Image:
    """Decode a stored image completely, or say which one cannot be used.

    Args:
        value: a PIL image, encoded bytes, a path, or the `{"bytes": ..., "path": ...}` of datasets' `Image` feature.
        name: what to call the image where it has no path.
        reduced: decode JPEGs at a half, a quarter or an eighth of their size, whichever is the smallest with sides of
            so many pixels; 1 is enough to find damage, 0 is the whole size.

    Returns:
        The loaded image, upright, in its own mode: see `to_rgb`.

    Raises:
        DataError: the image is missing, truncated, in no format that Pillow reads, or has more pixels than
            `PIL.Image.MAX_IMAGE_PIXELS` (a "decompression bomb").
    """
    if isinstance(value, Image.Image):
        return _load(value, name, reduced)
    stored = value if isinstance(value, Mapping) else {"path" if isinstance(value, str | Path) else "bytes": value}
    data, path = stored.get("bytes"), stored.get("path")
    if data is None and path is None:
        raise DataError(f"{name}: expected an image, found none; remove the row")
    name = str(path or name)
    try:
        with Image.open(io.BytesIO(data) if data is not None else str(path)) as image:
            return _load(image, name, reduced)
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: no image that Pillow can read; replace or remove it") from error
    except DAMAGED as error:
        raise DataError(f"{name}: the image cannot be read ({error}); replace or remove it") from error


def _load(image: Image.Image, name: str, reduced: int) -> Image.Image:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise DataError(
            f"{name}: {image.width} x {image.height} pixels are more than the limit of {limit}; "
            "shrink the image, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        )
    try:
        if reduced:
            image.draft(None, (reduced, reduced))
        image.load()
        # Damaged EXIF data shows only here; datasets rotates in the same way when it decodes.
        if ExifTags.Base.Orientation in image.getexif():
            return ImageOps.exif_transpose(image)
    except DAMAGED as error:
        raise DataError(f"{name}: the image is truncated or damaged ({error}); replace or remove it") from error
    return image


@dataclass(frozen=True)
class ImageTransform:
    """A preprocessing for one image or, through `dataset.with_transform`, for a batch of rows.

    >>> from torchvision.transforms.v2.functional import pil_to_tensor
    >>> transform = ImageTransform(pil_to_tensor)
    >>> transform(Image.new("L", (4, 2))).shape
    torch.Size([3, 2, 4])
    >>> sorted(transform({"image": [Image.new("L", (4, 2))], "label": [1]}))
    ['labels', 'pixel_values']
    """

    pipeline: Callable[[Image.Image], torch.Tensor]
    """From an upright PIL image to a tensor of (channels, height, width)."""
    image_column: str = "image"
    label_column: str = "label"
    channels: int = 3
    """3: the pipeline is given RGB images; 1: gray ("L") images."""

    def __call__(self, batch: Any) -> Any:
        """Transform one image into its tensor, or a batch of rows into `pixel_values` and `labels`.

        Raises:
            DataError: an image cannot be decoded, the batch has no image column, or a list of labels is not multi-hot.
        """
        if not isinstance(batch, Mapping):
            return self._transform(batch, "the image")
        if self.image_column not in batch:
            raise DataError(
                f"expected images in the column {self.image_column!r}, found the columns {name_some(batch)}; "
                "name the column with --image_column"
            )
        images = enumerate(batch[self.image_column])
        columns: dict[str, list[Any]] = {
            "pixel_values": [self._transform(image, f"image {row} of the batch") for row, image in images]
        }
        if self.label_column in batch:
            columns["labels"] = [self._label(label) for label in batch[self.label_column]]
        return columns

    def _label(self, label: Any) -> int | list[float]:
        """Give the index of the one class, or 0 or 1 for each class."""
        if np.ndim(label) == 0:
            return int(label)
        if not np.isin(label, (0, 1)).all():
            raise DataError(
                f"expected 0 or 1 for each class in the column {self.label_column!r}, found {label!r:.80}; "
                "hf_tl.load_data writes other lists of labels in that way"
            )
        return [float(flag) for flag in label]

    def _transform(self, value: Any, name: str) -> torch.Tensor:
        image = to_rgb(decode(value, name))
        return self.pipeline(image.convert("L") if self.channels == 1 else image)

    def describe(self) -> str:
        """Tell the steps in one line, for the record of a run."""
        steps = getattr(self.pipeline, "transforms", None) or [self.pipeline]
        texts = [getattr(step, "__qualname__", None) or " ".join(repr(step).split()) for step in steps]
        return ", ".join(["Grayscale" if self.channels == 1 else "RGB", *texts])

    __str__ = describe


@dataclass(frozen=True)
class Transforms:
    """The preprocessing of a model: with augmentation for training, and the plain one."""

    train: ImageTransform
    eval: ImageTransform

    def with_columns(self, image_column: str, label_column: str) -> Self:
        """Return the same transforms for rows with other column names."""
        columns: dict[str, Any] = {"image_column": image_column, "label_column": label_column}
        return replace(self, train=replace(self.train, **columns), eval=replace(self.eval, **columns))


def collate(examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack transformed rows into a batch.

    Returns:
        `pixel_values` of (batch, channels, height, width) and, if the rows have them, `row` (batch,), int64, and
        `labels`: class indices (batch,), int64, or for multi-label rows zeros and ones (batch, classes), float32, as
        the models' own binary cross-entropy takes them.

    Raises:
        DataError: the labels of two rows differ in shape.
    """
    batch = {"pixel_values": torch.stack([example["pixel_values"] for example in examples])}
    if "row" in examples[0]:
        batch["row"] = torch.tensor([example["row"] for example in examples], dtype=torch.long)
    if "labels" in examples[0]:
        batch["labels"] = stack_labels([example["labels"] for example in examples])
    return batch


def stack_labels(labels: Sequence[Any]) -> torch.Tensor:
    """Stack class indices into (batch,), int64, or lists of zeros and ones into (batch, classes), float32.

    Raises:
        DataError: they differ in shape.
    """
    if len(shapes := {np.shape(label) for label in labels}) > 1:
        raise DataError(f"expected labels of one shape, found {name_some(sorted(shapes))}; see hf_tl.load_data")
    return torch.as_tensor(np.asarray(labels), dtype=torch.float32 if np.ndim(labels[0]) else torch.long)
