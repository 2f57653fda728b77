"""Transforms of stored images and of a dataset's rows."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import torch
from PIL import Image

from hf_tl.augmentation import identify
from hf_tl.data.columns import LABEL
from hf_tl.data.decoding.colors import plain_rgb, to_rgb
from hf_tl.data.decoding.opening import decode, with_image
from hf_tl.errors import ConfigError, DataError, name_some
from hf_tl.reporting.shown import Shown

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import BaseImageProcessor


def as_stored(images: "Dataset", image_column: str = "image") -> "Dataset":
    """Return the same rows with encoded images: `{"bytes": ..., "path": ...}`."""
    from datasets import Image as ImageFeature

    feature = images.features.get(image_column)
    if not isinstance(feature, ImageFeature) or not feature.decode:
        return images
    return images.cast_column(image_column, replace(feature, decode=False))


@dataclass(frozen=True)
class ImageTransform:
    """Preprocessing of one image or, with `dataset.with_transform`, of a batch of rows.

    >>> from torchvision.transforms.v2.functional import pil_to_tensor
    >>> transform = ImageTransform(pil_to_tensor)
    >>> transform(Image.new("L", (4, 2))).shape
    torch.Size([3, 2, 4])
    >>> sorted(transform({"image": [Image.new("L", (4, 2))], "label": [1]}))
    ['labels', 'pixel_values']
    """

    pipeline: Callable[[Image.Image], torch.Tensor]
    """Transform of an upright PIL image to a tensor of shape (channels, height, width)."""
    image_column: str = "image"
    label_column: str = "label"
    channels: int = 3
    """Number of channels: 3 passes RGB images to the pipeline, 1 passes gray ("L") images."""
    plain: bool = False
    """Whether to decode with `plain_rgb`, as `transformers.pipeline` does, instead of `to_rgb`."""

    def __call__(self, batch: Any) -> Any:
        """Transform one image to a tensor, or a batch of rows to `pixel_values` and `labels`.

        Raises:
            DataError: An image cannot be decoded, the batch has no image column, or a list of labels is not multi-hot.
        """
        if not isinstance(batch, Mapping):
            return self.apply(batch, "the image")
        if self.image_column not in batch:
            raise DataError(
                f"expected images in the column {self.image_column!r}, found the columns {name_some(batch)}; "
                "name the column with --image_column"
            )
        images = enumerate(batch[self.image_column])
        columns: dict[str, list[Any]] = {
            "pixel_values": [self.apply(image, f"image {row} of the batch") for row, image in images]
        }
        if self.label_column in batch:
            columns["labels"] = [self._label(label) for label in batch[self.label_column]]
        return columns

    def _label(self, label: Any) -> int | list[float]:
        """Return the class index, or 0 or 1 for each class."""
        if np.ndim(label) == 0:
            return int(label)
        if not np.isin(label, (0, 1)).all():
            raise DataError(
                f"expected 0 or 1 for each class in the column {self.label_column!r}, found {label!r:.80}; "
                "hf_tl.load_data writes other lists of labels in that way"
            )
        return [float(flag) for flag in label]

    def apply(self, value: Any, name: str) -> torch.Tensor:
        """Transform a stored image, which errors name, to a tensor of shape (channels, height, width).

        Raises:
            DataError: As in `decode`.
        """
        image = with_image(value, name, plain_rgb) if self.plain else to_rgb(decode(value, name))
        return self.pipeline(image.convert("L") if self.channels == 1 else image)

    def over(self, images: "Dataset") -> "Dataset":
        """Transform the images and labels of a dataset's rows when they are read.

        Like `images.with_transform`, except that images are decoded by the rule of `to_rgb` or `plain_rgb`, not by
        datasets, which fails on unreadable EXIF data.
        """
        return as_stored(images, self.image_column).with_transform(self)

    def describe(self) -> str:
        """Describe the steps in one line, for the record of a run."""
        steps = getattr(self.pipeline, "transforms", None) or [self.pipeline]
        texts = [identify(step) if inspect.isroutine(step) else " ".join(repr(step).split()) for step in steps]
        plain = ["plain"] if self.plain else []
        return ", ".join(["Grayscale" if self.channels == 1 else "RGB", *plain, *texts])

    __str__ = describe


class HasProcessor(Protocol):
    """Preprocessing that knows its image processor."""

    @property
    def processor(self) -> "BaseImageProcessor | None":
        """Image processor that does the same as the evaluation transform."""


@dataclass(frozen=True, repr=False)
class Transforms(Shown):
    """Transforms of a model for training (with augmentation) and for evaluation."""

    train: ImageTransform
    eval: ImageTransform
    preprocessing: "HasProcessor | None" = field(default=None, repr=False, compare=False)
    """`hf_tl.backbones.libraries.preprocessing.Preprocessing` that the transforms were built from, if any."""

    @property
    def processor(self) -> "BaseImageProcessor":
        """Image processor of transformers that does the same as `eval`, for `Trainer(processing_class=...)`.

        For a transformers backbone it is of the checkpoint's own class, and its `save_pretrained` writes the
        `preprocessor_config.json` that pipelines read. For a timm backbone it is the `TimmWrapperImageProcessor` that
        `AutoImageProcessor` builds from the `config.json` of the saved model.

        Raises:
            ConfigError: The transforms were not made by hf_tl, so no saved file can state them.
        """
        processor = None if self.preprocessing is None else self.preprocessing.processor
        if processor is None:
            raise ConfigError(
                "expected the transforms that load_backbone or load returned, found transforms of your own, which have "
                "no image processor; use dataclasses.replace(transforms, train=...) to change the training transform"
            )
        return processor

    def facts(self) -> Iterator[tuple[str, str]]:
        """Yield the steps of both transforms."""
        yield "train", self.train.describe()
        yield "eval", self.eval.describe()

    def with_columns(self, image_column: str, label_column: str) -> Self:
        """Return the same transforms for rows with other column names."""
        columns: dict[str, Any] = {"image_column": image_column, "label_column": label_column}
        return replace(self, train=replace(self.train, **columns), eval=replace(self.eval, **columns))


def collate(examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack transformed rows into a batch.

    As for transformers' default collator, labels are in the column `labels` or `label`.

    Returns:
        Batch with `pixel_values` (batch, channels, height, width) and, if the rows have them, `row` (batch,), int64,
        and `labels`: class indices (batch,), int64, or for multi-label rows zeros and ones (batch, classes), float32,
        the input format of binary cross-entropy.

    Raises:
        DataError: The labels of two rows differ in shape.

    >>> rows = [{"pixel_values": torch.zeros(3, 32, 32), "labels": label} for label in (0, 1)]
    >>> batch = collate(rows)
    >>> batch["pixel_values"].shape, batch["labels"]
    (torch.Size([2, 3, 32, 32]), tensor([0, 1]))
    """
    batch = {"pixel_values": torch.stack([example["pixel_values"] for example in examples])}
    if "row" in examples[0]:
        batch["row"] = torch.tensor([example["row"] for example in examples], dtype=torch.long)
    if (column := next((name for name in ("labels", LABEL) if name in examples[0]), None)) is not None:
        batch["labels"] = stack_labels([example[column] for example in examples])
    return batch


def stack_labels(labels: Sequence[Any]) -> torch.Tensor:
    """Stack class indices into (batch,), int64, or lists of zeros and ones into (batch, classes), float32.

    Raises:
        DataError: The labels differ in shape.
    """
    if len(shapes := {np.shape(label) for label in labels}) > 1:
        raise DataError(f"expected labels of one shape, found {name_some(sorted(shapes))}; see hf_tl.load_data")
    return torch.as_tensor(np.asarray(labels), dtype=torch.float32 if np.ndim(labels[0]) else torch.long)
