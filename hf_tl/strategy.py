"""A strategy is a list of phases: which trailing stages train, for how long, and how.

Everything else reads the phases: freezing, the Accelerate loop, the Trainer callback, the record in the model's config
and the card. Nothing has a notion of its own of a "mode".
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

from hf_tl.errors import ConfigError

Norm = Literal["frozen", "affine", "adapt"]
TrainableStages = int | str | tuple[str, ...]
Augmentation = Literal["none", "light", "medium", "strong"]


@dataclass(frozen=True)
class Phase:
    """A span of training with one set of trainable stages and one recipe.

    Raises:
        ConfigError: a value is outside its range.
    """

    trainable_stages: TrainableStages
    """How many trailing stages train (1 is the head), `"all"`, or stages by name (see `stages.select_stages`)."""
    epochs: float
    """Passes over the training data; a fraction is allowed."""
    learning_rate: float
    """Peak rate of the head; AdamW with warm-up and cosine decay to zero."""
    backbone_learning_rate: float | None = None
    """Peak rate of the last trained backbone stage; the head's where it is None."""
    layer_decay: float = 1.0
    """Each earlier trained backbone stage gets this fraction of the rate of the stage after it."""
    norm: Norm = "frozen"
    """What the norms of frozen stages do: nothing, train scale and shift, or also update their statistics."""
    weight_decay: float = 0.05
    """Decoupled weight decay of AdamW; norms and biases have none."""
    warmup_ratio: float = 0.1
    """The part of the phase's steps over which the rate rises from zero."""
    augmentation: Augmentation = "light"
    """The preset of random changes to training images; see `hf_tl.data.augmentation`."""
    patience: int | None = None
    """The phase ends after so many evaluations (one an epoch) in a row without a new best; never where it is None."""
    label_smoothing: float = 0.0
    """The part of each label's probability that is spread over all classes."""

    def __post_init__(self) -> None:
        stages = self.trainable_stages
        checks = {
            "trainable_stages": stages >= 1 if isinstance(stages, int) else bool(stages),
            "epochs": self.epochs > 0,
            "learning_rate": self.learning_rate > 0,
            "backbone_learning_rate": self.backbone_learning_rate is None or self.backbone_learning_rate > 0,
            "layer_decay": 0 < self.layer_decay <= 1,
            "norm": self.norm in get_args(Norm),
            "weight_decay": self.weight_decay >= 0,
            "warmup_ratio": 0 <= self.warmup_ratio < 1,
            "augmentation": self.augmentation in get_args(Augmentation),
            "patience": self.patience is None or self.patience >= 1,
            "label_smoothing": 0 <= self.label_smoothing < 1,
        }
        for name, is_valid in checks.items():
            if not is_valid:
                raise ConfigError(f"a phase cannot have {name}={getattr(self, name)!r}; see hf_tl.Phase for its range")


@dataclass(frozen=True)
class Strategy:
    """A named list of phases.

    >>> [phase.trainable_stages for phase in Strategy.finetune(stages=2).phases]
    [1, 3]
    """

    name: str
    phases: tuple[Phase, ...]
    from_scratch: bool = False
    """Whether the pretrained weights are thrown away before the first phase."""

    def __post_init__(self) -> None:
        if not self.phases:
            raise ConfigError(f"the strategy {self.name!r} has no phase; a strategy needs at least one")

    @classmethod
    def transfer(cls, *, epochs: float = 10, learning_rate: float = 3e-3, head_stages: int = 1, **recipe: Any) -> Self:
        """Transfer learning: only the head is trained ("feature extraction", "linear probing").

        Images are not augmented by default, so that a frozen backbone sees each the same way in every epoch.

        Args:
            epochs: passes over the training data.
            learning_rate: peak rate of the head.
            head_stages: how many trailing stages count as the head: 1 is the last layer.
            recipe: other fields of `Phase`.
        """
        recipe = {"augmentation": "none", **recipe}
        return cls("transfer", (Phase(head_stages, epochs, learning_rate, **recipe),))

    @classmethod
    def finetune(
        cls,
        stages: int = 1,
        *,
        epochs: float = 10,
        learning_rate: float = 3e-3,
        backbone_learning_rate: float = 3e-4,
        head_stages: int = 1,
        **recipe: Any,
    ) -> Self:
        """Fine-tuning, head first: the head alone, then the head and the last `stages` stages of the backbone.

        A random head would send large, meaningless gradients through pretrained features (LP-FT, Kumar et al. 2022,
        https://arxiv.org/abs/2202.10054), so it is trained for the first third of the epochs alone.
        """
        head_epochs = epochs / 3
        return cls(
            "finetune",
            (
                Phase(head_stages, head_epochs, learning_rate, **recipe),
                Phase(
                    head_stages + stages,
                    epochs - head_epochs,
                    learning_rate / 3,
                    backbone_learning_rate=backbone_learning_rate,
                    **recipe,
                ),
            ),
        )

    @classmethod
    def full(
        cls,
        *,
        epochs: float = 10,
        learning_rate: float = 3e-3,
        backbone_learning_rate: float = 3e-4,
        **recipe: Any,
    ) -> Self:
        """Fine-tuning of the whole network from its pretrained weights, the head at a higher rate."""
        phase = Phase("all", epochs, learning_rate, backbone_learning_rate=backbone_learning_rate, **recipe)
        return cls("full", (phase,))

    @classmethod
    def scratch(cls, *, epochs: float = 50, learning_rate: float = 1e-3, **recipe: Any) -> Self:
        """The same architecture from random weights, everything trained at one rate."""
        return cls("scratch", (Phase("all", epochs, learning_rate, **recipe),), from_scratch=True)

    def to_record(self) -> dict[str, Any]:
        """Turn the strategy into what `config.json` and `run.json` hold."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a strategy back from its record.

        Raises:
            ConfigError: the record is not one of a strategy; the message names the keys that are unknown.
        """
        phases = []
        known = {field.name for field in fields(Phase)}
        for phase in record.get("phases", ()):
            if unknown := sorted(set(phase) - known):
                raise ConfigError(f"a phase has no {unknown}; it has {sorted(known)}")
            stages = phase["trainable_stages"]
            phases.append(Phase(**{**phase, "trainable_stages": tuple(stages) if isinstance(stages, list) else stages}))
        return cls(record.get("name", "custom"), tuple(phases), bool(record.get("from_scratch", False)))
