"""A phase: a part of a training with one set of trainable stages and one recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from hf_tl.augmentation import OTHERS, PRESETS, names_file, read_augmentation
from hf_tl.errors import ConfigError, name_some
from hf_tl.ranges import check_fields, domains, setting
from hf_tl.tuning import LoRA, Tuning

Norm = Literal["frozen", "affine", "adapt"]
BatchNorm = Literal["update", "keep"]
ClassWeights = Literal["none", "balanced"]
TrainableStages = int | str | tuple[str, ...]
ResizeMode = Literal["crop", "squash", "pad"]
Solver = Literal["adamw", "lbfgs"]


SMALLEST_ALPHA = 0.01
"""Smallest alpha of mixup and CutMix; below it, practically no image would be mixed."""
ADAMW_FIELDS = (
    "learning_rate", "backbone_learning_rate", "layer_decay", "norm", "weight_decay", "warmup_ratio", "patience",
    "batch_norm", "mixup", "cutmix", "ema_decay", "balanced_sampling", "head_penalty", "distillation_weight",
    "distillation_temperature",
)  # fmt: skip
"""Fields that apply to AdamW only; a phase with a solved head must leave them at their defaults."""


@dataclass(frozen=True)
class Phase:
    """Part of a training with one set of trainable stages and one recipe.

    Raises:
        ConfigError: A value is outside its range.

    >>> import hf_tl
    >>> head, last_stages = Phase(1, epochs=2), Phase(3, epochs=8, learning_rate=1e-3, layer_decay=0.8)
    >>> len(hf_tl.Strategy("two phases", (head, last_stages)).phases)
    2
    """

    trainable_stages: TrainableStages = setting(at_least=1)
    """Number of trailing stages to train (1 is the head), `"all"`, or names of stages (see `trainable_parameters`)."""
    epochs: float | None = setting(None, above=0)
    """Passes over the training data; fractions are allowed. None if `steps` sets the length."""
    learning_rate: float = setting(3e-3, above=0)
    """Peak learning rate of the head. AdamW uses linear warm-up and cosine decay to zero."""
    backbone_learning_rate: float | None = setting(None, above=0)
    """Peak learning rate of the last trained backbone stage. None means that of the head."""
    layer_decay: float = setting(1.0, above=0, at_most=1)
    """Factor from the learning rate of a trained backbone stage to that of the stage before it."""
    norm: Norm = "frozen"
    """Treatment of normalization layers in frozen stages: keep them frozen, train scale and shift (`"affine"`), or also
    update their statistics (`"adapt"`)."""
    weight_decay: float = setting(0.05, at_least=0)
    """Decoupled weight decay of AdamW. It does not apply to normalization layers and biases."""
    warmup_ratio: float = setting(0.1, at_least=0, below=1)
    """Fraction of the phase's steps used for linear warm-up."""
    augmentation: str = setting("light", choices=tuple(PRESETS), reader=read_augmentation, others=OTHERS)
    """Training augmentation: a preset, a YAML file with a list of torchvision transforms or the list itself, or a
    function of a PIL image; read as text (`hf_tl.augmentation`)."""
    patience: int | None = setting(None, at_least=1)
    """Early stopping: number of consecutive evaluations (one per epoch) without a new best that end the phase. None
    disables it."""
    label_smoothing: float = setting(0.0, at_least=0, below=1)
    """Probability of each label that is spread over all classes."""
    steps: int | None = setting(None, at_least=1)
    """Optimizer steps, instead of `epochs`."""
    batch_norm: BatchNorm = "update"
    """Statistics of BatchNorm in *trained* stages: normalize by the batch and update the stored ones (`"update"`), or
    normalize by the stored ones and keep them (`"keep"`). Scale and shift train in both cases. A phase with LoRA keeps
    them, scale and shift included."""
    mixup: float = setting(0.0, at_least=SMALLEST_ALPHA, or_zero=True)
    """Alpha of mixup (https://arxiv.org/abs/1710.09412), at least 0.01; 0 disables it. If `cutmix` is set too, each
    pair of images draws one of the two."""
    cutmix: float = setting(0.0, at_least=SMALLEST_ALPHA, or_zero=True)
    """Alpha of CutMix (https://arxiv.org/abs/1905.04899), at least 0.01; 0 disables it."""
    ema_decay: float | None = setting(None, above=0, below=1)
    """Decay of an exponential moving average of the weights, which the phase is evaluated with and ends with."""
    class_weights: ClassWeights = "none"
    """`"balanced"` weights the loss of each image by the inverse frequency of its class in the training images."""
    balanced_sampling: bool = False
    """Whether to draw the classes equally often with replacement, instead of each image once per epoch."""
    from_random_weights: bool = False
    """Whether the phase starts from random weights instead of the current ones."""
    head_penalty: float = setting(0.0, at_least=0)
    """Strength of an L2 penalty on the distance of the head from the weights that it starts the training with; it
    replaces the head's weight decay (`hf_tl.optimization.head_penalty`)."""
    distillation_weight: float = setting(0.0, at_least=0, at_most=1)
    """Share of the loss to the teacher's softened predictions; the labels have the rest (`hf_tl.distillation`)."""
    distillation_temperature: float = setting(5.0, above=0)
    """Temperature that softens the predictions of teacher and student."""
    solver: Solver = "adamw"
    """`"lbfgs"` solves the head to convergence as logistic regression on frozen features, in one step. Cross-validation
    chooses its L2 strength (`hf_tl.head.head_solver`)."""
    tuning: Tuning = "full"
    """Tuning of the trained backbone stages: `"full"` trains all their weights; a `LoRA` trains low-rank adapters
    beside them, which are added to the weights at the end of the phase. The head is trained in full."""

    def __post_init__(self) -> None:
        check_fields(self, "{} of a phase")
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError(
                f"a phase needs either epochs or steps, found epochs={self.epochs} and steps={self.steps}"
            )
        if self.head_penalty and self.from_random_weights:
            raise ConfigError(
                "head_penalty of a phase keeps the head near its starting weights, and from_random_weights replaces "
                "them: leave out one of the two"
            )
        if self.is_solved:
            self._check_solved()
        if self.is_adapted and self.trainable_stages == 1:
            raise ConfigError(
                "LoRA adapts stages of the backbone, found a phase of the head alone: leave out its tuning"
            )
        if self.is_adapted and self.from_random_weights:
            raise ConfigError("LoRA adapts pretrained weights, found from_random_weights in its phase: leave out one")
        if self.is_adapted:
            object.__setattr__(self, "batch_norm", "keep")  # nothing of an adapted stage moves but the adapters

    def _check_solved(self) -> None:
        if self.trainable_stages != 1 or self.steps != 1:
            raise ConfigError(
                "solver lbfgs fits the head alone, in one step: expected trainable_stages=1 and steps=1, found "
                f"trainable_stages={self.trainable_stages!r} and {self.length}"
            )
        defaults = {field.name: field.default for field in fields(self)}
        if others := [name for name in ADAMW_FIELDS if getattr(self, name) != defaults[name]]:
            raise ConfigError(
                f"solver lbfgs does not use {name_some(others)}: leave it out, or choose solver adamw. It uses "
                "augmentation, label_smoothing and class_weights"
            )

    @property
    def is_solved(self) -> bool:
        """Return whether the head is solved instead of trained step by step."""
        return self.solver == "lbfgs"

    @property
    def is_adapted(self) -> bool:
        """Return whether the phase trains low-rank adapters instead of the weights of the backbone."""
        return isinstance(self.tuning, LoRA)

    @property
    def length(self) -> str:
        """Length of the phase in words.

        >>> Phase(1, epochs=2.5).length, Phase(1, steps=100).length
        ('2.5 epochs', '100 steps')
        """
        if self.epochs is None:
            return "1 step" if self.steps == 1 else f"{self.steps:,} steps"
        return "1 epoch" if self.epochs == 1 else f"{self.epochs:.3g} epochs"

    @property
    def phrase(self) -> str:
        """Length and trained stages in words.

        >>> Phase(1, epochs=2).phrase, Phase(3, steps=100).phrase, Phase("layer4", epochs=1).phrase
        ('2 epochs of the head', '100 steps of the last 3 stages', '1 epoch of the stages layer4')
        """
        stages = self.trainable_stages
        names = ", ".join(stages) if isinstance(stages, tuple) else stages
        scope = f"the last {stages} stages" if isinstance(stages, int) else f"the stages {names}"
        scope = {1: "the head", "all": "all stages"}.get(stages, scope) if not isinstance(stages, tuple) else scope
        by = f", by {self.tuning.phrase}" if isinstance(self.tuning, LoRA) else ""
        return f"{'solution' if self.is_solved else self.length} of {scope}{by}"

    @classmethod
    def from_record(cls, record: Mapping[str, Any], *, may_name_files: bool = False) -> Self:
        """Create a phase from plain values, as read from JSON or YAML.

        Args:
            record: Fields of a phase.
            may_name_files: Whether the augmentation may be a path, as in a file of the user's own.

        Raises:
            ConfigError: A key is unknown, or a value has the wrong type or is outside its range.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(record, Mapping):
            raise ConfigError(f"a phase must map field names to values, found {record!r:.80}")
        if unknown := sorted(str(key) for key in record if key not in known):
            raise ConfigError(f"a phase has no field {name_some(unknown)}; choose from {', '.join(sorted(known))}")
        if "trainable_stages" not in record:
            raise ConfigError(
                f"a phase needs trainable_stages, such as 1 for the head, found only {name_some(record) or 'no field'}"
            )
        if not may_name_files and names_file(file := record.get("augmentation")):
            raise ConfigError(f"expected a list of transforms as the augmentation of a record, found the file {file}")
        return cls(**{name: _read(name, value) for name, value in record.items()})


def _read(name: str, value: Any) -> Any:
    """Parse numbers that arrive as text, such as YAML's `3e-4`, and LoRA; `Phase` checks everything else."""
    if name == "tuning" and (isinstance(value, Mapping) or value == "lora"):
        return LoRA.from_record(value)
    if not (isinstance(value, str) and float in (domain := domains(Phase)[name]).kinds):
        return value
    try:
        return domain.parse(value)
    except ValueError as error:
        raise ConfigError(f"{name} of a phase {error}") from error
