"""ONNX file with its preprocessing inside, which needs no other file: an image to the probabilities of its classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_tl.abstention.limits import Limits
from hf_tl.data.decoding.colors import to_rgb
from hf_tl.data.decoding.opening import decode
from hf_tl.errors import ModelError, unreadable
from hf_tl.runtime.exported import ABSTENTION, ExportedModel, opening, sha256_of
from hf_tl.runtime.outputs import Outputs
from hf_tl.runtime.runners import RUNTIMES, SCORE, open_session, run_session, runtime_of, session_runner
from hf_tl.storage.documents import parse_json

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

IMAGE, PROBABILITIES = "image", "probabilities"
LABELS, SCORES = "labels", "scores"
"""Names of the metadata: class names as a list in JSON; `softmax`, or `sigmoid` for any number of classes per image."""


class WholeModel:
    """ONNX file that takes an image, uint8 (height, width, 3), and gives the probability of each class.

    Args:
        file: Path for messages.
        session: Opened file.

    Raises:
        ModelError: Its metadata do not state the classes.
    """

    def __init__(self, file: Path, session: "InferenceSession") -> None:
        self.file, self._session = file, session
        metadata = session.get_modelmeta().custom_metadata_map
        try:
            labels = parse_json(metadata[LABELS])
            if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
                raise ValueError("no list of class names")
            if metadata[SCORES] not in ("softmax", "sigmoid"):
                raise ValueError("no scores")
            text = metadata.get(ABSTENTION)
            self.limits = None if text is None else Limits.from_json(parse_json(text), len(labels))
        except (LookupError, ValueError, TypeError) as error:
            raise ModelError(
                f"expected class names in the metadata of {file}, found {unreadable(error)}; export again"
            ) from error
        self.labels = tuple(labels)
        self.is_multi_label = metadata[SCORES] == "sigmoid"

    @property
    def identity(self) -> str:
        """SHA-256 of the file."""
        return sha256_of(self.file)

    def pixels(self, stored: Any, name: str) -> np.ndarray:
        """Decode a stored image to uint8 pixels of shape (height, width, 3).

        Raises:
            DataError: The image cannot be read.
        """
        return np.asarray(to_rgb(decode(stored, name)).convert("RGB"))

    def outputs(self, pixels: Sequence[np.ndarray]) -> Outputs:
        """Return probabilities, and scores of a file that abstains, for the pixels of each image.

        Raises:
            ModelError: The file does not run, or gives another number of classes.
        """
        names = [PROBABILITIES] if self.limits is None else [PROBABILITIES, SCORE]
        return Outputs(*self._outputs(pixels, names))

    def _outputs(self, pixels: Sequence[np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        try:
            results = [run_session(self._session, IMAGE, array, names) for array in pixels]
        except RuntimeError as error:
            raise ModelError(f"{self.file} cannot be run: {unreadable(error)}; export it again") from error
        if other := {result[0].shape for result in results} - {(len(self.labels),)}:
            raise ModelError(f"expected {len(self.labels)} probabilities of {self.file}, found {other}; export again")
        return [np.stack(values).astype(np.float64) for values in zip(*results, strict=True)]


def open_exported(file: Path) -> ExportedModel | WholeModel:
    """Open an exported file, with its preprocessing inside or beside it.

    Raises:
        ConfigError: The runtime of its format is not installed.
        ModelError: The runtime cannot open it, or its preprocessing is missing or damaged.
    """
    runtime = runtime_of(file)
    if runtime is not RUNTIMES["onnx"]:
        return ExportedModel.open(file)
    runtime.check_installed(file)
    with opening(runtime, file):
        session = open_session(file)
    if [input_.name for input_ in session.get_inputs()] == [IMAGE]:
        return WholeModel(file, session)
    return ExportedModel.open(file, session_runner(session))
