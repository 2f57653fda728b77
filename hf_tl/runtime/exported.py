"""Exported model: its file in its own runtime, its preprocessing and its classes."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from hf_tl.abstention.limits import Limits
from hf_tl.data.decoding.opening import decode
from hf_tl.errors import ModelError, unreadable
from hf_tl.runtime.outputs import Outputs
from hf_tl.runtime.preprocessing import FILE, apply, probabilities
from hf_tl.runtime.runners import RUNTIMES, Runner, Runtime, parts_of, runtime_of
from hf_tl.storage.documents import read_json

ABSTENTION = "abstention"
"""Entry of `preprocessing.json` with the limits of a calibrated model."""
LARGEST_SIDE = 4096
"""Largest size in pixels that a preprocessing may ask for."""
_SAMPLE = (17, 13)
"""Width and height of the image on which a preprocessing is tried."""


@dataclass(frozen=True)
class ExportedModel:
    """Exported model, as `hf-tl export` writes it."""

    file: Path
    steps: Mapping[str, Any]
    """Content of `preprocessing.json`."""
    run: Runner

    @classmethod
    def open(cls, file: Path, run: Runner | None = None) -> Self:
        """Open an exported file with the `preprocessing.json` beside it.

        Files of torch contain programs, which run with the rights of this process; those of ONNX contain none.

        Args:
            file: Exported file.
            run: The file in its runtime, where it is open already.

        Raises:
            ConfigError: The runtime of its format is not installed.
            ModelError: The runtime cannot open it, or its preprocessing is missing or damaged.
        """
        runtime = runtime_of(file)
        runtime.check_installed(file)
        steps = _read_steps(file.with_name(FILE))
        if run is None:
            with opening(runtime, file):
                run = runtime.open(file)
        return cls(file, steps, run)

    @cached_property
    def limits(self) -> Limits | None:
        """Limits of abstention; None for a file without out-of-distribution scores."""
        if ABSTENTION not in self.steps or len(self._outputs(self.black(1))) == 1:
            return None
        return Limits.from_json(self.steps[ABSTENTION], len(self.labels))

    def black(self, images: int) -> np.ndarray:
        """Return the pixels of black images, (images, channels, height, width)."""
        size = self.steps["size"]
        return np.zeros((images, len(self.steps["mean"]), size["height"], size["width"]), np.float32)

    @property
    def runtime(self) -> Runtime:
        """Runtime of the file."""
        return runtime_of(self.file)

    @property
    def identity(self) -> str:
        """SHA-256 of the file and of that of its weights."""
        return sha256_of(self.file)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return tuple(self.steps["labels"])

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have any number of classes."""
        return bool(self.steps["scores"] == "sigmoid")

    def pixels(self, stored: Any, name: str) -> np.ndarray:
        """Decode and preprocess a stored image to float32 pixels of shape (channels, height, width).

        Raises:
            DataError: The image cannot be read.
        """
        return apply(self.steps, decode(stored, name))

    def outputs(self, pixels: Sequence[np.ndarray]) -> Outputs:
        """Return probabilities, and scores of a file that abstains, for the pixels of each image.

        Raises:
            ModelError: The file does not run, or gives outputs of another shape.
        """
        logits, *scores = self._outputs(np.stack(pixels))
        shares = probabilities(self.steps["scores"], logits)
        if self.limits is None:
            return Outputs(shares)
        if [each.shape for each in scores] != [(len(pixels),)]:
            raise ModelError(f"expected a score of each image of {self.file}, found other outputs; export again")
        return Outputs(shares, scores[0])

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Return the logits, (images, classes), for pixels of shape (images, channels, height, width).

        Raises:
            ModelError: The file does not run, or gives another number of classes.
        """
        return self._outputs(pixels)[0]

    def _outputs(self, pixels: np.ndarray) -> Sequence[np.ndarray]:
        try:
            outputs = self.run.outputs(pixels)
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"{self.file} cannot be run: {unreadable(error)}; export it again") from error
        if (shape := outputs[0].shape) != (expected := (len(pixels), len(self.labels))):
            raise ModelError(f"expected logits of shape {expected} of {self.file}, found {shape}; export again")
        return outputs


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of an exported file, or those of its parts, joined by a space."""
    digests = []
    for part in parts_of(file):
        with part.open("rb") as opened:
            digests.append(hashlib.file_digest(opened, "sha256").hexdigest())
    return " ".join(digests)


def exported_file(path: str | os.PathLike[str]) -> Path | None:
    """Return the exported file that a path names: the file itself, or that in the folder of an export; else None."""
    place = Path(path)
    if place.is_dir() and (place / FILE).is_file():
        return next((place / runtime.file for runtime in RUNTIMES.values() if (place / runtime.file).is_file()), None)
    is_exported = place.suffix in {Path(runtime.file).suffix for runtime in RUNTIMES.values()}
    return place if is_exported and place.is_file() else None


@contextmanager
def opening(runtime: Runtime, file: Path) -> Iterator[None]:
    """Name a file that its runtime cannot open.

    Raises:
        ModelError: The body failed as runtimes do.
    """
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(
            f"expected a model that {runtime.package} can open in {file}, found {unreadable(error)}; export again"
        ) from error


def _read_steps(file: Path) -> dict[str, Any]:
    """Read the preprocessing, and try it on a black image.

    Raises:
        ModelError: There is none, or it is damaged.
    """
    try:
        steps = read_json(file)
        if any(not 0 <= side <= LARGEST_SIDE for side in _sides(steps)):
            raise ValueError(f"sizes beyond {LARGEST_SIDE:,} pixels")
        channels, size = len(steps["mean"]), steps["size"]
        shape = apply(steps, Image.new("RGB", _SAMPLE)).shape
        if shape != (channels, size["height"], size["width"]):
            raise ValueError(f"steps that make images of shape {shape} instead of {size}")
        if steps["scores"] not in ("softmax", "sigmoid") or not all(isinstance(name, str) for name in steps["labels"]):
            raise ValueError("no class names or scores")
        if ABSTENTION in steps:
            Limits.from_json(steps[ABSTENTION], len(steps["labels"]))
    except OSError as error:
        raise ModelError(
            f"expected {file.name} beside the model, found {unreadable(error)}; export the model"
        ) from error
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise ModelError(
            f"expected the preprocessing of an exported model in {file}, found {unreadable(error)}; export again"
        ) from error
    return dict(steps)


def _sides(steps: Mapping[str, Any]) -> Iterator[float]:
    for name in ("resize", "center_crop", "pad", "size"):
        yield from (value for value in (steps.get(name) or {}).values() if isinstance(value, int | float))
