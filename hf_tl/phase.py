"""A phase: a span of training with one set of trainable stages and one recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from hf_tl.errors import ConfigError, name_some
from hf_tl.ranges import check_fields, domains, setting

Norm = Literal["frozen", "affine", "adapt"]
BatchNorm = Literal["update", "keep"]
ClassWeights = Literal["none", "balanced"]
TrainableStages = int | str | tuple[str, ...]
Augmentation = Literal["none", "light", "medium", "strong"]
Solver = Literal["adamw", "lbfgs"]


SMALLEST_ALPHA = 0.01
"""Of mixup and CutMix: with less, practically no image would be mixed."""
OF_ADAMW = (
    "learning_rate", "backbone_learning_rate", "layer_decay", "norm", "weight_decay", "warmup_ratio", "patience",
    "batch_norm", "mixup", "cutmix", "ema_decay", "balanced_sampling",
)  # fmt: skip
"""Fields that a phase which is solved cannot have: they keep their defaults."""


@dataclass(frozen=True)
class Phase:
    """A span of training with one set of trainable stages and one recipe.

    Raises:
        ConfigError: a value is outside its range.
    """

    trainable_stages: TrainableStages = setting(at_least=1)
    """How many trailing stages train (1 is the head), `"all"`, or stages by name (see `stages.select_stages`)."""
    epochs: float | None = setting(None, above=0)
    """Passes over the training data; a fraction is allowed. None where `steps` tells the length."""
    learning_rate: float = setting(3e-3, above=0)
    """Peak rate of the head; AdamW with warm-up and cosine decay to zero."""
    backbone_learning_rate: float | None = setting(None, above=0)
    """Peak rate of the last trained backbone stage; the head's where it is None."""
    layer_decay: float = setting(1.0, above=0, at_most=1)
    """Each earlier trained backbone stage gets this fraction of the rate of the stage after it."""
    norm: Norm = "frozen"
    """What the norms of frozen stages do: nothing, train scale and shift, or also update their statistics."""
    weight_decay: float = setting(0.05, at_least=0)
    """Decoupled weight decay of AdamW; norms and biases have none."""
    warmup_ratio: float = setting(0.1, at_least=0, below=1)
    """The part of the phase's steps over which the rate rises from zero."""
    augmentation: Augmentation = "light"
    """The preset of random changes to training images; see `hf_tl.data.augmentation`."""
    patience: int | None = setting(None, at_least=1)
    """The phase ends after so many evaluations (one an epoch) in a row without a new best; never where it is None."""
    label_smoothing: float = setting(0.0, at_least=0, below=1)
    """The part of each label's probability that is spread over all classes."""
    steps: int | None = setting(None, at_least=1)
    """Optimizer steps, in place of `epochs`."""
    batch_norm: BatchNorm = "update"
    """Whether BatchNorm in *trained* stages normalises by the batch and updates its statistics, or by its stored ones
    and keeps them; its scale and shift train in both cases."""
    mixup: float = setting(0.0, at_least=SMALLEST_ALPHA, or_zero=True)
    """Alpha of mixup (https://arxiv.org/abs/1710.09412), at least 0.01; 0 is none. With `cutmix` too, each pair of
    images draws one of them."""
    cutmix: float = setting(0.0, at_least=SMALLEST_ALPHA, or_zero=True)
    """Alpha of CutMix (https://arxiv.org/abs/1905.04899), at least 0.01; 0 is none."""
    ema_decay: float | None = setting(None, above=0, below=1)
    """Decay of an exponential moving average of the weights, with which the phase is evaluated and ends."""
    class_weights: ClassWeights = "none"
    """`"balanced"` weighs each image's loss by the inverse of its class's share of the training images."""
    balanced_sampling: bool = False
    """Whether an epoch draws every class equally often, with replacement, in place of each image once."""
    from_random_weights: bool = False
    """Whether the phase begins with random weights in place of those before it."""
    solver: Solver = "adamw"
    """`"lbfgs"` solves the head to convergence as logistic regression on the features of the frozen network, in one
    step of the phase; it finds its L2 strength itself (`hf_tl.head.head_solver`)."""

    def __post_init__(self) -> None:
        check_fields(self, "{} of a phase")
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError(
                f"a phase needs epochs or steps, one of them; found epochs={self.epochs}, steps={self.steps}"
            )
        if self.is_solved:
            self._check_solved()

    def _check_solved(self) -> None:
        if self.trainable_stages != 1 or self.steps != 1:
            raise ConfigError(
                "solver lbfgs solves the head alone, in one step: the phase needs trainable_stages=1 and steps=1, "
                f"found trainable_stages={self.trainable_stages!r}, {self.length}"
            )
        defaults = {field.name: field.default for field in fields(self)}
        if others := [name for name in OF_ADAMW if getattr(self, name) != defaults[name]]:
            raise ConfigError(
                f"solver lbfgs has no {name_some(others)}: leave it out, or choose solver adamw. It follows "
                "augmentation, label_smoothing and class_weights"
            )

    @property
    def is_solved(self) -> bool:
        """Whether the phase is one solution, not a number of steps."""
        return self.solver == "lbfgs"

    @property
    def length(self) -> str:
        """The phase's length in words.

        >>> Phase(1, epochs=2.5).length, Phase(1, steps=100).length
        ('2.5 epochs', '100 steps')
        """
        if self.epochs is None:
            return "1 step" if self.steps == 1 else f"{self.steps:,} steps"
        return "1 epoch" if self.epochs == 1 else f"{self.epochs:.3g} epochs"

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a phase from plain values, as JSON and YAML hold them.

        Raises:
            ConfigError: a key is unknown, or a value is of another type or outside its range.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(record, Mapping):
            raise ConfigError(f"a phase maps names to values, found {record!r:.80}")
        if unknown := sorted(str(key) for key in record if key not in known):
            raise ConfigError(f"a phase has no {name_some(unknown)}; it has {', '.join(sorted(known))}")
        if "trainable_stages" not in record:
            raise ConfigError(f"a phase needs trainable_stages, found only {name_some(record) or 'nothing'}")
        return cls(**{name: _read(name, value) for name, value in record.items()})


def _read(name: str, value: Any) -> Any:
    """Read numbers that come as text, as YAML reads `3e-4`; the phase checks the rest."""
    if not (isinstance(value, str) and float in (domain := domains(Phase)[name]).kinds):
        return value
    try:
        return domain.parse(value)
    except ValueError as error:
        raise ConfigError(f"{name} of a phase {error}") from error
