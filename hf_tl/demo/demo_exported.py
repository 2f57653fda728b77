"""Exported model of a web page: predictions by its own runtime, without activation maps."""

from pathlib import Path

import numpy as np
from PIL import Image

from hf_tl.demo.demo_model import distinct
from hf_tl.errors import ModelError
from hf_tl.evaluation.metrics import MULTI_LABEL, SINGLE_LABEL
from hf_tl.record import RECORD_FILE, RunRecord, read_record_file
from hf_tl.reporting.plain import one_line
from hf_tl.runtime.origin import origin_of
from hf_tl.runtime.outputs import Outputs
from hf_tl.runtime.whole import open_exported

BLIND = "An exported model has no activation maps: its runtime returns the probabilities of the classes alone."


class ExportedDemoModel:
    """Exported model, with the interface of `DemoModel`.

    Args:
        file: Exported file.

    Raises:
        ConfigError: The runtime of its format is not installed.
        ModelError: The runtime cannot open it, or its preprocessing is missing or damaged.
    """

    def __init__(self, file: Path) -> None:
        self._exported = open_exported(file)
        self.problem = MULTI_LABEL if self._exported.is_multi_label else SINGLE_LABEL
        self.labels = distinct([one_line(name) for name in self._exported.labels])

    def rank(self, image: Image.Image) -> list[tuple[int, float]]:
        """Return the index and the probability of each class, the most probable first."""
        [probabilities] = self._outputs(image).probabilities
        return [(index, float(probabilities[index])) for index in (-probabilities).argsort(kind="stable").tolist()]

    def abstains(self, image: Image.Image) -> bool:
        """Return whether an image is unlike the training images; never of a file without scores."""
        if (limits := self._exported.limits) is None:
            return False
        return not limits.accepts(np.asarray(self._outputs(image).ood_scores))[0]

    def _outputs(self, image: Image.Image) -> Outputs:
        return self._exported.outputs([self._exported.pixels(image, "the image")])

    def look(self, image: Image.Image, index: int) -> Image.Image | None:
        """Refuse to draw an activation map.

        Raises:
            ModelError: Always.
        """
        raise ModelError(BLIND)

    def why_it_cannot_look(self) -> str:
        """Return the reason why an exported model has no activation maps."""
        return BLIND


def read_exported_record(file: Path) -> RunRecord | None:
    """Read the record of the training of an exported file.

    Returns:
        Record; None if there is none, or if its results are those of other weights than the file holds (int8).

    Raises:
        ModelError: The report of the export is damaged.
        PublishError: The record is damaged.
    """
    origin, path = origin_of(file), file.with_name(RECORD_FILE)
    if origin is None or not origin.is_exact or not path.is_file():
        return None
    record = read_record_file(path, f"{RECORD_FILE} of {file.parent}")
    return record if record.weights_digest == origin.weights_digest else None
