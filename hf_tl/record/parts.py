"""Parts of a run's record; the module that produces a fact creates its part."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hf_tl.phase import Phase
from hf_tl.record.inspection import InspectionRecord
from hf_tl.record.robustness import Robustness

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
    """Preprocessing of images into the input of the network."""

    input_size: tuple[int, int, int]
    """Channels, height and width."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    channel_order: str | None = "RGB"
    """`RGB`, `BGR` or `L`; None where mean and standard deviation do not describe the map from pixels to numbers."""
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    """Resizing and cropping for evaluation."""


@dataclass(frozen=True)
class ModelRecord:
    """The network."""

    library: Library
    architecture: str
    class_name: str
    problem_type: str
    parameters: int
    parameters_trained: int
    """Parameters trained in at least one phase."""
    head: HeadRecord
    preprocessing: Preprocessed

    @property
    def parameters_frozen(self) -> int:
        """Return the number of parameters that no phase trained."""
        return self.parameters - self.parameters_trained


@dataclass(frozen=True)
class StageRecord:
    """A stage of the network, in forward order."""

    name: str
    modules: tuple[str, ...]
    parameters: int


@dataclass(frozen=True)
class FrozenProof:
    """Evidence that frozen tensors did not change: two computed digests."""

    tensors: int
    before: str
    """Digest of the frozen tensors at the start of the phase."""
    after: str
    """Digest of the same tensors at its end."""

    @property
    def holds(self) -> bool:
        """Return whether the tensors are unchanged."""
        return self.before == self.after


@dataclass(frozen=True)
class PrecisionRecord:
    """Precision of a computation, and the measurement that chose it."""

    precision: str
    """`float32`, `bfloat16`, or `run` for the precision of the run (`mixed_precision`)."""
    images_per_second: Mapping[str, float] = field(default_factory=dict)
    """Measured images per second in each precision. Empty if the precision was asked for, or if no measurement paid."""
    difference: float | None = None
    """Difference between the results in bfloat16 and in float32: for the frozen part the mean squared distance of an
    image's features, divided by that between two images; for a training step the difference of the losses, divided by
    the loss."""


@dataclass(frozen=True)
class PhaseRecord:
    """Phase as executed."""

    recipe: Phase
    trained_stages: tuple[str, ...]
    learning_rates: Mapping[str, float]
    """Peak learning rate of each stage with trained parameters. Empty for a solved head."""
    parameters_trained: int
    steps: int
    """Optimizer steps taken; fewer than the recipe's after early stopping."""
    epochs: float
    """Passes over the training images in these steps."""
    seconds: float
    proof: FrozenProof
    uses_features: bool = False
    """Whether the phase trained on cached features."""
    reuses_features: bool = False
    """Whether all of them were in the cache before the phase, from an earlier run or phase."""
    frozen_precision: PrecisionRecord | None = None
    """Precision of the frozen part. None if it was not run apart from the rest, in the precision of the training."""
    step_precision: PrecisionRecord | None = None
    """Precision of the training steps. None if the launcher or Trainer chose it (`mixed_precision` of the run)."""
    solution: Mapping[str, Any] | None = None
    """Result of the head solver."""

    @property
    def is_solved(self) -> bool:
        """Return whether the phase solved the head in one step."""
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
    """Requested fraction of a drawn split."""
    conversions: Mapping[str, int] = field(default_factory=dict)
    """Number of images per kind of conversion that a plain `pipeline()` does not do (transparency, 16-bit gray, …)."""
    origin: str | None = None
    """Folder, table or column value that the split came from."""


@dataclass(frozen=True)
class GroupRecord:
    """Groups of images, each of which lies on one side of every drawn split."""

    origin: str
    """Criterion in words, after "by": the column patient, series of file names."""
    number: int
    """Number of groups; an image in no other group is one."""
    largest: int
    """Images of the largest group."""
    column: str | None = None
    """Setting `group_column`."""
    pattern: str = "none"
    """Setting `group_pattern`."""
    near_duplicates: bool = False
    """Setting `group_near_duplicates`."""


@dataclass(frozen=True)
class DataRecord:
    """Labeled images of a run."""

    name: str
    """Publishable name: a Hub id, `digits`, the name of a folder or file, or a name that the user gave."""
    labels: tuple[str, ...]
    splits: Mapping[str, SplitRecord]
    fingerprint: str
    """Digest of all labeled images by content, independent of order and splits."""
    source: DataSource = "unknown"
    revision: str | None = None
    license: str | None = None
    notes: tuple[str, ...] = ()
    layout: str | None = None
    """Format in words: class folders, table, parquet files."""
    inspection: InspectionRecord | None = None
    """Counts of an inspection of these images and labels; None if there was none."""
    groups: GroupRecord | None = None
    """Groups of images; None where splits were drawn image by image."""

    @property
    def conversions(self) -> dict[str, int]:
        """Return the number of images of all splits per kind of conversion that a plain `pipeline()` does not do."""
        total: dict[str, int] = {}
        for split in self.splits.values():
            for kind, images in split.conversions.items():
                total[kind] = total.get(kind, 0) + images
        return total

    @property
    def is_on_hub(self) -> bool:
        """Return whether `name` is the id of a dataset of the Hub."""
        return self.source == "hub"


@dataclass(frozen=True)
class PlainMeasured:
    """Metrics of a plain `pipeline()`, for a split with images that hf_tl converts differently."""

    conversions: Mapping[str, int]
    """Number of images per kind of conversion."""
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class Measured:
    """Metrics of a split, with the weights and images that they were measured on."""

    split: str
    split_digest: str | None
    images: int
    weights_digest: str
    """Digest of the evaluated weights."""
    metrics: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """95% confidence intervals of some metrics."""
    classes: Mapping[str, Any] = field(default_factory=dict)
    """`images`, `precision`, `recall`, their intervals and `f1`, each a list in the order of the labels."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """True class, predicted class and number of images, for each pair that occurs."""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    """`before` and `after` temperature scaling: `ece`, `counts`, `probabilities`, `shares`; `after` may be None."""
    mistakes: tuple[Mapping[str, Any], ...] = ()
    """Most confident mistakes."""
    learned: int = 0
    """Evaluated images that the weights were trained on, included at the user's request."""
    left_out: int = 0
    """Images of the split left out because the weights were trained on them."""
    groups: int | None = None
    """Number of groups that the images belong to, each of which counts as one image in the intervals; None without
    groups."""
    plain: PlainMeasured | None = None
    robustness: Robustness | None = None
    """Metrics of the same images under common corruptions, if they were measured."""


@dataclass(frozen=True)
class ZeroShot:
    """Results of a head from class names on a split, before training."""

    images: int
    metrics: Mapping[str, float]
    interval: tuple[float, float] | None = None
    """95% confidence interval of the primary metric, if that is a share of images."""


@dataclass(frozen=True)
class TextHeadRecord:
    """Head from class names (`--head_init text`) that the training started from."""

    source: str
    """Checkpoint of the text tower: a Hub id, or the name of a folder."""
    revision: str | None
    """Its commit on the Hub."""
    prompts: tuple[str, ...]
    """Templates with `{}` in place of the class name."""
    logit_scale: float
    norm: float
    """Mean norm of the embeddings of training images; the logits are the scale times the cosine for this norm."""
    zero_shot: Mapping[str, ZeroShot] = field(default_factory=dict)
    """Results before training, by split."""


@dataclass(frozen=True)
class Temperature:
    """Temperature scaling, or the reason for its absence."""

    value: float | None
    weights_digest: str | None = None
    """Digest of the weights whose logits were used for the fit."""
    split: str | None = None
    images: int = 0
    reason: str | None = None
    """Reason why no temperature was fitted."""


@dataclass(frozen=True)
class RefitRecord:
    """Refit: a second training from the start, after model selection."""

    images: int
    splits: tuple[str, ...]
    """Splits of its training images."""
    seconds: float


@dataclass(frozen=True)
class Seconds:
    """Wall-clock time of a run in seconds."""

    total: float = 0.0
    train: float = 0.0


@dataclass(frozen=True)
class CardTexts:
    """Texts that the user wrote for the card, and permissions to show images."""

    intended_use: str | None = None
    limits: str | None = None
    images: bool = False
    maps: bool = False
