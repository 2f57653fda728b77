"""Count the images of a split that are not used as a plain `transformers.pipeline` uses them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image

from hf_tl.data.colors import CONVERSIONS, DAMAGED, Conversion, conversion_of, plain_rgb
from hf_tl.data.fingerprint import map_images
from hf_tl.data.images import with_image
from hf_tl.data.streams import StreamedImages, map_stream

if TYPE_CHECKING:
    from datasets import Dataset

WHAT: Mapping[Conversion, tuple[str, str, str]] = {
    "transparency": (
        "have transparent pixels",
        "hf_tl lays them on white",
        "a plain pipeline() drops the alpha channel",
    ),
    "deep gray": (
        "are gray with more than 8 bits",
        "hf_tl scales them to 8 bits",
        "a plain pipeline() clips or truncates them",
    ),
    "unreadable EXIF": ("have unreadable EXIF data", "hf_tl ignores these", "a plain pipeline() fails"),
}
"""Each conversion: what is special, what hf_tl does, and what `pipeline` does."""


@dataclass(frozen=True)
class Conversions:
    """The images of a split for which the plain rule (`hf_tl.data.colors.plain_rgb`) loses something."""

    rows: Mapping[Conversion, Sequence[int]] = field(default_factory=dict)
    """Their rows in the split, by kind; no kind is empty."""
    unreadable: Sequence[int] = ()
    """Those of them that a plain pipeline cannot read at all."""

    @property
    def images(self) -> dict[str, int]:
        """The number of images by kind, for the record: `conversions`."""
        return {kind: len(rows) for kind, rows in self.rows.items()}

    @property
    def all_rows(self) -> list[int]:
        """The rows of all these images, in order; the plain rule gives the same pixels for all others."""
        return sorted(row for rows in self.rows.values() for row in rows)

    def notes(self, split: str, images: int) -> list[str]:
        """Describe each kind in a sentence.

        >>> Conversions({"unreadable EXIF": [3, 5]}).notes("test", 16)
        ['2 of 16 test images have unreadable EXIF data: hf_tl ignores these; a plain pipeline() fails']
        """
        texts = [(len(rows), *WHAT[kind]) for kind, rows in self.rows.items()]
        return [f"{count:,} of {images:,} {split} images {what}: {ours}; {plain}" for count, what, ours, plain in texts]


def count_conversions(images: "Dataset | StreamedImages", image_column: str, split: str) -> Conversions:
    """Find the images of a split that need a conversion.

    JPEGs are decoded at an eighth of their size, others in full.

    Args:
        images: rows with encoded images; those of a stream are read once more.
        image_column: the column of the images.
        split: its name, for errors.

    Raises:
        DataError: an image cannot be decoded.
    """
    rows: dict[Conversion, list[int]] = {kind: [] for kind in CONVERSIONS}
    unreadable = []
    for row, (kind, is_readable) in _each(images, image_column, split):
        if kind is not None:
            rows[kind].append(row)
            unreadable += [] if is_readable else [row]
    return Conversions({kind: sorted(found) for kind, found in rows.items() if found}, sorted(unreadable))


def _each(
    images: "Dataset | StreamedImages", image_column: str, split: str
) -> Iterator[tuple[int, tuple[Conversion | None, bool]]]:
    if not isinstance(images, StreamedImages):
        yield from enumerate(map_images(images, image_column, split, _examine))
        return
    rows = {place: row for row, place in enumerate(images.places.tolist())}
    yield from ((rows[place], found) for place, found in map_stream(images.stream, _examine) if place in rows)


def _examine(stored: Any, name: str) -> tuple[Conversion | None, bool]:
    """Return why a stored image needs a conversion, if it does, and whether the plain rule can read it."""

    def examine(image: Image.Image) -> tuple[Conversion | None, bool]:
        image.draft(None, (1, 1))
        kind = conversion_of(image)
        return kind, kind is None or (kind != "unreadable EXIF" and _is_readable(image))

    return with_image(stored or {}, name, examine)


def _is_readable(image: Image.Image) -> bool:
    try:
        plain_rgb(image)
    except DAMAGED:
        return False
    return True
