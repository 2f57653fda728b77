"""The parts of a run's record, each made where it happens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hf_tl.phase import Phase

Library = Literal["timm", "transformers"]
DataSource = Literal["built-in", "hub", "folder", "files", "memory", "unknown"]
SplitSource = Literal["dataset", "drawn", "unknown"]


@dataclass(frozen=True)
class LayerRecord:
    """A layer of the head."""

    name: str
    shape: tuple[int, ...]
    """Shape of its weight."""


@dataclass(frozen=True)
class HeadRecord:
    """The head of a model."""

    layers: tuple[LayerRecord, ...]
    stages: tuple[str, ...]
    """Names of the stages that count as the head: the last one, or all fully connected ones."""


@dataclass(frozen=True)
class Preprocessed:
    """How images become the input of the network."""

    input_size: tuple[int, int, int]
    """Channels, height and width."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    channel_order: str | None = "RGB"
    """`RGB`, `BGR`, `L`; None where the map from pixels to numbers is none that mean and standard deviation state."""
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    """How images are resized and cropped for evaluation."""


@dataclass(frozen=True)
class ModelRecord:
    """The network."""

    library: Library
    architecture: str
    class_name: str
    problem_type: str
    parameters: int
    parameters_trained: int
    """Parameters that some phase trained."""
    head: HeadRecord
    preprocessing: Preprocessed

    @property
    def parameters_frozen(self) -> int:
        """Parameters that no phase trained."""
        return self.parameters - self.parameters_trained


@dataclass(frozen=True)
class StageRecord:
    """A stage of the network, in forward order."""

    name: str
    modules: tuple[str, ...]
    parameters: int


@dataclass(frozen=True)
class FrozenProof:
    """Evidence that frozen tensors did not move: two digests, both computed."""

    tensors: int
    before: str
    """Digest of the frozen tensors when the phase began."""
    after: str
    """Digest of the same tensors when it ended."""

    @property
    def holds(self) -> bool:
        """Whether nothing moved."""
        return self.before == self.after


@dataclass(frozen=True)
class PhaseRecord:
    """A phase as it was carried out."""

    recipe: Phase
    trained_stages: tuple[str, ...]
    learning_rates: Mapping[str, float]
    """Peak rate of each stage in which something trained. Empty for a head that was solved."""
    parameters_trained: int
    steps: int
    """Optimizer steps that were taken; early stopping leaves out the rest of the recipe."""
    epochs: float
    """Passes over the training images that these steps are."""
    seconds: float
    proof: FrozenProof
    uses_features: bool = False
    """Whether it trained on cached features."""
    solution: Mapping[str, Any] | None = None
    """What the solver of the head found."""

    @property
    def is_solved(self) -> bool:
        """Whether the head was solved in one step."""
        return self.recipe.is_solved


@dataclass(frozen=True)
class SplitRecord:
    """A split of the data."""

    images: int
    classes: tuple[int, ...]
    """Images of each class, in the order of the labels."""
    digest: str | None = None
    """`split_digest` of its images. None where their content was not read."""
    source: SplitSource = "unknown"
    """`dataset`: a split of the dataset itself. `drawn`: taken from the training images by hf_tl."""
    seed: int | None = None
    """Seed of a drawn split."""
    share: float | None = None
    """Share that was asked for, of a drawn split."""
    conversions: Mapping[str, int] = field(default_factory=dict)
    """Images by the kind of conversion that a plain `pipeline()` does not make (transparency, 16-bit gray, …)."""


@dataclass(frozen=True)
class DataRecord:
    """The labeled images of a run."""

    name: str
    """Publishable: a Hub id, `digits`, the name of a folder or file, or the name that the user gave."""
    labels: tuple[str, ...]
    splits: Mapping[str, SplitRecord]
    fingerprint: str
    """Identifies all labeled images by content, in whatever order and split."""
    source: DataSource = "unknown"
    revision: str | None = None
    license: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def conversions(self) -> dict[str, int]:
        """Images of all splits by the kind of conversion that a plain `pipeline()` does not make."""
        total: dict[str, int] = {}
        for split in self.splits.values():
            for kind, images in split.conversions.items():
                total[kind] = total.get(kind, 0) + images
        return total

    @property
    def is_on_hub(self) -> bool:
        """Whether `name` is the id of a dataset of the Hub."""
        return self.source == "hub"


@dataclass(frozen=True)
class PlainMeasured:
    """Metrics by a plain `pipeline()`, where hf_tl converts some images otherwise."""

    conversions: Mapping[str, int]
    """Images by the kind of conversion."""
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class Measured:
    """What was measured, of which weights and on which images."""

    split: str
    split_digest: str | None
    images: int
    weights_digest: str
    """Digest of the weights that were measured."""
    metrics: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """95% confidence intervals of some of the metrics."""
    classes: Mapping[str, Any] = field(default_factory=dict)
    """`images`, `precision`, `recall`, `recall_interval` and `f1`, each a list in the order of the labels."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """True class, predicted class, images: of each pair that occurs."""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    """`before` and `after` temperature scaling: `ece`, `counts`, `probabilities`, `shares`; `after` may be None."""
    mistakes: tuple[Mapping[str, Any], ...] = ()
    """The most confident ones."""
    learned: int = 0
    """Images that the weights had learned from, and that were measured at the user's wish."""
    left_out: int = 0
    """Images of the split that were left out because the weights had learned from them."""
    plain: PlainMeasured | None = None


@dataclass(frozen=True)
class Temperature:
    """Temperature scaling, or why there is none."""

    value: float | None
    weights_digest: str | None = None
    """Digest of the weights whose logits it was fitted on."""
    split: str | None = None
    images: int = 0
    reason: str | None = None
    """Why it was not fitted."""


@dataclass(frozen=True)
class RefitRecord:
    """A second training from the start, after model selection."""

    images: int
    splits: tuple[str, ...]
    """Splits that it learned from."""
    seconds: float


@dataclass(frozen=True)
class Seconds:
    """Wall-clock time of a run in seconds."""

    total: float = 0.0
    train: float = 0.0


@dataclass(frozen=True)
class CardTexts:
    """What the user wrote for the card, and allowed it to show."""

    intended_use: str | None = None
    limits: str | None = None
    images: bool = False
    maps: bool = False
