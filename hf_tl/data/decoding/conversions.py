"""Counts of the images that hf_tl converts differently from a plain `transformers.pipeline`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image

from hf_tl.data.decoding.colors import CONVERSIONS, DAMAGED, Conversion, conversion_of, plain_rgb
from hf_tl.data.decoding.opening import with_image

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
"""Property of the images, treatment by hf_tl, and treatment by a plain `pipeline()`, by conversion."""


@dataclass(frozen=True)
class Conversions:
    """Images of a split for which the plain rule (`hf_tl.data.decoding.colors.plain_rgb`) loses information."""

    rows: Mapping[Conversion, Sequence[int]] = field(default_factory=dict)
    """Row numbers in the split, by kind; no kind is empty."""
    unreadable: Sequence[int] = ()
    """Rows that a plain pipeline cannot read at all."""

    @property
    def images(self) -> dict[str, int]:
        """Number of images by kind, for the record (`conversions`)."""
        return {kind: len(rows) for kind, rows in self.rows.items()}

    def select(self, rows: Sequence[int]) -> "Conversions":
        """Return the conversions of selected rows of the split, renumbered in the given order."""
        places = {row: place for place, row in enumerate(rows)}
        kept = {kind: sorted(places[row] for row in listed if row in places) for kind, listed in self.rows.items()}
        unreadable = sorted(places[row] for row in self.unreadable if row in places)
        return Conversions({kind: listed for kind, listed in kept.items() if listed}, unreadable)

    @property
    def all_rows(self) -> list[int]:
        """Rows of all these images, in order; the plain rule gives the same pixels for all other images."""
        return sorted(row for rows in self.rows.values() for row in rows)

    def notes(self, split: str, images: int) -> list[str]:
        """Describe each kind in a sentence.

        >>> Conversions({"unreadable EXIF": [3, 5]}).notes("test", 16)
        ['2 of 16 test images have unreadable EXIF data: hf_tl ignores these; a plain pipeline() fails']
        """
        texts = [(len(rows), *WHAT[kind]) for kind, rows in self.rows.items()]
        return [f"{count:,} of {images:,} {split} images {what}: {ours}; {plain}" for count, what, ours, plain in texts]


class Examined(NamedTuple):
    """Outcome of a check of an image that can be decoded."""

    conversion: Conversion | None
    """Kind of conversion that the image needs, if any."""
    is_readable: bool
    """Whether the plain rule can read it."""
    width: int
    """Width in pixels as stored, before the EXIF orientation."""
    height: int
    mode: str
    """Pillow mode as stored."""


def examine(stored: Any, name: str) -> Examined:
    """Decode a stored image; JPEGs are decoded at an eighth of their size.

    Raises:
        DataError: The image cannot be decoded.
    """

    def look(image: Image.Image) -> Examined:
        properties = *image.size, image.mode
        image.draft(None, (1, 1))
        kind = conversion_of(image)
        is_readable = kind is None or (kind != "unreadable EXIF" and _is_readable(image))
        return Examined(kind, is_readable, *properties)

    return with_image(stored or {}, name, look)


def gather(images: Iterable[Examined]) -> Conversions:
    """Collect the results of `examine` for the images of a split, in row order."""
    rows: dict[Conversion, list[int]] = {kind: [] for kind in CONVERSIONS}
    unreadable = []
    for row, image in enumerate(images):
        if image.conversion is not None:
            rows[image.conversion].append(row)
            unreadable += [] if image.is_readable else [row]
    return Conversions({kind: listed for kind, listed in rows.items() if listed}, unreadable)


def _is_readable(image: Image.Image) -> bool:
    try:
        plain_rgb(image)
    except DAMAGED:
        return False
    return True
