"""Tuning of the trained stages of a phase: all their weights, or low-rank adapters beside frozen weights."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from hf_tl.errors import ConfigError, name_some
from hf_tl.ranges import check_fields, setting

ALL_LAYERS = "all"


@dataclass(frozen=True)
class LoRA:
    """Low-rank adaptation of the trained backbone stages (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    Each adapted layer keeps its weights W frozen and trains two small matrices beside them, W + alpha / rank · B A. The
    layers are linear or convolutional; a convolution's A has its kernel size, and its B is 1 × 1. The head is always
    trained in full. At the end of the phase the product is added to W, so that the saved model is a plain one.

    Raises:
        ConfigError: A value is outside its range.

    >>> LoRA(rank=4).scale, LoRA(rank=4, alpha=8).scale
    (1.0, 2.0)
    """

    rank: int = setting(16, "rank of the adapters (LoRA) of the trained backbone stages (default: 16)", at_least=1)
    """Rank of the product B A: number of rows of A."""
    alpha: float | None = setting(
        None, "scale of the adapters, times the rank (default: the rank, a scale of 1)", above=0
    )
    """Numerator of the scale of the product. None means the rank, a scale of 1."""
    dropout: float = setting(0.0, "dropout in front of the adapters (default: 0)", at_least=0, below=1)
    """Probability of dropping an input of an adapter during training."""
    targets: str = setting(
        ALL_LAYERS, "layers to adapt: all, or re:PATTERN that matches their names (default: all)", metavar="LAYERS"
    )
    """`"all"` adapts the linear and convolutional layers of the trained stages, `"re:PATTERN"` those among them whose
    names match a regular expression (`re.search`)."""
    dora: bool = setting(False, "decompose the adapted weights into magnitude and direction (DoRA)")
    """Whether to train magnitude and direction of the adapted weights separately (DoRA, Liu et al. 2024,
    https://arxiv.org/abs/2402.09353)."""

    def __post_init__(self) -> None:
        check_fields(self, "{} of LoRA")
        if self.targets != ALL_LAYERS and not self.targets.startswith("re:"):
            raise ConfigError(f"targets of LoRA takes all, or re:PATTERN for names of layers, found {self.targets!r}")

    @property
    def scale(self) -> float:
        """Factor of the product of the adapter's matrices."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def phrase(self) -> str:
        """Tuning in words.

        >>> LoRA(rank=4).phrase, LoRA(rank=8, dora=True).phrase
        ('LoRA of rank 4', 'DoRA of rank 8')
        """
        return f"{'DoRA' if self.dora else 'LoRA'} of rank {self.rank}"

    @classmethod
    def from_record(cls, record: Any) -> Self:
        """Create the settings from plain values, as read from JSON or YAML; `"lora"` stands for the defaults.

        Raises:
            ConfigError: A key is unknown, or a value has the wrong type or is outside its range.

        >>> LoRA.from_record({"rank": 8})
        LoRA(rank=8, alpha=None, dropout=0.0, targets='all', dora=False)
        """
        if record == "lora":
            return cls()
        known = [field.name for field in fields(cls)]
        if not isinstance(record, Mapping):
            raise ConfigError(f"tuning of a phase is full, lora or fields of LoRA, found {record!r:.80}")
        if unknown := sorted(str(key) for key in record if key not in known):
            raise ConfigError(f"LoRA has no field {name_some(unknown)}; choose from {', '.join(known)}")
        return cls(**record)


Tuning = Literal["full"] | LoRA
"""Tuning of the trained stages: `"full"` trains all their weights."""
