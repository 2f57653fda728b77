"""Training images of weights, identified by content: independent of file names, splits and chains of models.

The digests stay beside the model on this machine. The published record holds one digest per split and a count.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Self

import numpy as np

from hf_tl.errors import ModelError
from hf_tl.storage.folders import replaced_file

LEARNED_FILE = "learned_from.npz"
"""File of the digests, beside `run.json`; it is not published."""
DIGEST_BYTES = 16
"""Stored bytes of an image's SHA-256: the probability that any two of 10 million images collide is 1e-25."""


@dataclass(frozen=True)
class LearnedSplit:
    """Split that weights were trained on, in the short form that is published."""

    data: str
    """Name of the dataset."""
    split: str
    images: int
    digest: str | None = None
    """`split_digest` of its images. None where their content was not read (streams, records of schema version 1)."""
    seed: int | None = None
    """Seed of the splits that hf_tl drew, from which they can be drawn again."""
    validation_fraction: float | None = None
    """Fraction by which the validation split was drawn. None for a split of the dataset itself."""
    test_fraction: float | None = None
    """Fraction by which the test split was drawn. None for a split of the dataset itself."""


@dataclass(frozen=True)
class LearnedFrom:
    """All images that weights were trained on, including those of the starting model."""

    splits: tuple[LearnedSplit, ...] = ()
    """Splits, oldest first."""
    digests: frozenset[bytes] = field(default=frozenset(), repr=False)
    """First `DIGEST_BYTES` bytes of the SHA-256 of each image with a known digest."""
    unknown: tuple[LearnedSplit, ...] = ()
    """Splits whose images are missing from `digests`."""

    @property
    def is_complete(self) -> bool:
        """Return whether `digests` holds every image that the weights were trained on."""
        return not self.unknown

    def plus(
        self,
        data: str,
        split: str,
        images: int,
        digests: Iterable[bytes] | None,
        *,
        seed: int | None = None,
        validation_fraction: float | None = None,
        test_fraction: float | None = None,
    ) -> Self:
        """Return a copy with one more split.

        Args:
            data: Name of the dataset.
            split: Name of the split.
            images: Number of images.
            digests: Digests of the images. None where their content was not read.
            seed: Seed of the splits that hf_tl drew.
            validation_fraction: Fraction by which the validation split was drawn.
            test_fraction: Fraction by which the test split was drawn.
        """
        short = None if digests is None else [digest[:DIGEST_BYTES] for digest in digests]
        digest = None if short is None else split_digest(short)
        learned = LearnedSplit(data, split, images, digest, seed, validation_fraction, test_fraction)
        if short is None:
            return replace(self, splits=(*self.splits, learned), unknown=(*self.unknown, learned))
        unknown = tuple(split for split in self.unknown if split.digest != digest)
        return replace(self, splits=(*self.splits, learned), digests=self.digests.union(short), unknown=unknown)

    def union(self, other: "LearnedFrom") -> "LearnedFrom":
        """Return the union of both sets of training images."""
        known = {split.digest for each in (self, other) for split in each.splits if split not in each.unknown}
        unknown = [
            split for split in (*self.unknown, *other.unknown) if split.digest is None or split.digest not in known
        ]
        splits = dict.fromkeys((*self.splits, *other.splits))
        return LearnedFrom(tuple(splits), self.digests | other.digests, tuple(dict.fromkeys(unknown)))

    def mask(self, digests: Sequence[bytes]) -> np.ndarray:
        """Return whether each image is known to be a training image, bool, (images,)."""
        return np.fromiter((digest[:DIGEST_BYTES] in self.digests for digest in digests), bool, len(digests))

    def save(self, folder: Path) -> None:
        """Write the digests, and the splits that they cover, beside `run.json`.

        Raises:
            OSError: The file cannot be written.
        """
        rows = np.frombuffer(b"".join(sorted(self.digests)), np.uint8).reshape(-1, DIGEST_BYTES)
        with replaced_file(folder / LEARNED_FILE) as partial, partial.open("wb") as file:
            known = [index for index, split in enumerate(self.splits) if split not in self.unknown]
            np.savez(file, digests=rows, known=np.array(known, dtype=np.int64))

    @classmethod
    def read(cls, splits: tuple[LearnedSplit, ...], folder: Path | None) -> Self:
        """Read the training images of a saved model.

        Args:
            splits: Field `learned_from` of its record.
            folder: Folder of the model. None for a model of the Hub, which comes without digests.

        Raises:
            ModelError: The file of digests is damaged.
        """
        file = None if folder is None else folder / LEARNED_FILE
        if file is None or not file.is_file():
            return cls(splits, unknown=splits)
        try:
            with np.load(file, allow_pickle=False) as stored:
                if sum(part.file_size for part in stored.zip.infolist()) > file.stat().st_size:
                    raise ValueError("expected arrays that are not compressed")
                rows, known = stored["digests"], set(stored["known"].tolist())
            if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != DIGEST_BYTES:
                raise ValueError(f"expected rows of {DIGEST_BYTES} bytes, found {rows.dtype} of shape {rows.shape}")
        except Exception as error:  # zipfile and numpy raise anything from EOFError to NotImplementedError when damaged
            raise ModelError(
                f"{file}, which identifies the training images of the model, is damaged ({error}): delete it, and "
                "hf_tl will state that the training images of the model are unknown"
            ) from error
        return cls(
            splits,
            frozenset(map(bytes, rows)),
            tuple(split for index, split in enumerate(splits) if index not in known),
        )


def split_digest(digests: Iterable[bytes]) -> str:
    """Return the digest of a set of images, identified by content and independent of their order.

    >>> split_digest([b"a" * 16, b"b" * 16]) == split_digest([b"b" * 32, b"a" * 32])
    True
    """
    return sha256(b"".join(sorted(digest[:DIGEST_BYTES] for digest in digests))).hexdigest()
