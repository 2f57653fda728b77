"""Notes on a run's views of its images: large crops, and flips that may change a class."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_tl.data.columns import IMAGE
from hf_tl.data.decoding.images import as_stored
from hf_tl.data.decoding.scaling import Pipeline
from hf_tl.data.streaming.streams import streams_of
from hf_tl.errors import name_some
from hf_tl.views.framing import median_size, visible_share

if TYPE_CHECKING:
    from hf_tl.data.image_data import ImageData

LEAST_SHOWN = 2 / 3
"""Share of the median image that a preprocessing should show."""
CHARACTERS = 5
"""Number of classes of one letter or digit from which the classes are characters."""
SIDES = {"left": "right", "right": "left"}


def crop_notes(data: "ImageData", evaluation: Pipeline, input_size: tuple[int, int, int]) -> list[str]:
    """Note that center crops lose more than a third of the median training image."""
    if streams_of(data.splits):
        return []
    size = median_size(as_stored(data.splits["train"])[IMAGE])
    share = 1.0 if size is None else visible_share(evaluation, input_size, size)
    if size is None or share >= LEAST_SHOWN:
        return []
    return [
        f"the model sees {share:.0%} of the median training image ({size[0]:,} x {size[1]:,} pixels), its center: "
        "--resize_mode squash or pad shows all of it"
    ]


def flip_notes(labels: Sequence[str]) -> list[str]:
    """Note that horizontal flips may turn images of one class into another.

    >>> flip_notes(["turn left", "turn right"])
    ['horizontal flips may change the class (turn left, turn right): --no_horizontal_flip turns them off']
    >>> flip_notes(["cat", "dog"]), len(flip_notes(list("0123456789")))
    ([], 1)
    """
    known = {label.lower() for label in labels}
    suspects = [label for label in labels if (other := _mirrored(label.lower())) != label.lower() and other in known]
    characters = [label for label in labels if len(label) == 1 and label.isalnum()]
    suspects += characters if len(characters) >= CHARACTERS else []
    if not suspects:
        return []
    return [f"horizontal flips may change the class ({name_some(suspects)}): --no_horizontal_flip turns them off"]


def _mirrored(label: str) -> str:
    return re.sub("left|right", lambda match: SIDES[match[0]], label)
