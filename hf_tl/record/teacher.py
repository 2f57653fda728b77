"""Record of the teacher of a training."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TeacherRecord:
    """Trained classifier whose predictions were taught; weight and temperature are in the recipe of each phase."""

    name: str
    """Hub id, or the name of a folder; of a model in memory, its class."""
    revision: str | None
    """Its commit on the Hub."""
    weights_digest: str
    """Digest of its tensors."""
    architecture: str
    input_size: tuple[int, int, int]
    """Channels, height and width of its input."""
    license: str | None = None
    """License of its weights as stated by their source. None where it is unknown."""
