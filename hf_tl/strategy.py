"""A strategy is a list of phases: which trailing stages train, for how long, and how.

Everything else follows the phases: freezing, the Accelerate loop, the Trainer callback, the record in the model's
config and the card. No part of the package has a "mode" of its own.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from hf_tl.errors import ConfigError
from hf_tl.phase import BatchNorm, ClassWeights, Norm, Phase, Solver, TrainableStages
from hf_tl.recipes.constructors import Constructors
from hf_tl.recipes.families import HIERARCHICAL, Family
from hf_tl.recipes.phases import merge_depths
from hf_tl.recipes.preset import PREVIEW, PREVIEW_IMAGES, Preset, count_head
from hf_tl.strategy_record import plain_fields, read_yaml, strategy_fields

__all__ = ["BatchNorm", "ClassWeights", "Norm", "Phase", "Solver", "Strategy", "TrainableStages"]


@dataclass(frozen=True, repr=False)
class Strategy(Constructors):
    """A named list of phases.

    A strategy from a constructor such as `Strategy.finetune()` shows its phases for 1,000 to 20,000 training images.
    When training starts, what was not chosen follows the number of training images (`hf_tl.recipes`).

    >>> Strategy.finetune(trainable_stages=3, epochs=15)
    Strategy finetune: 5 epochs of the head, then 10 epochs of the last 3 stages (for 1,000 to 20,000 images)
    >>> Strategy("mine", (Phase(1, epochs=2), Phase("all", epochs=3)))
    Strategy mine: 2 epochs of the head, then 3 epochs of all stages
    """

    name: str
    phases: tuple[Phase, ...]
    from_scratch: bool = False
    """Whether training starts from random weights, in the first or a later phase, so that no pretrained weights remain.
    """
    expected_rung: int | None = None
    """Number, from 1, of the stage depth that the evidence favors. If set, the phases are the stage depths of an
    escalation, which ends when a greater depth no longer improves accuracy (see `hf_tl.training.escalation`)."""
    refit: bool = False
    """Whether to retrain from scratch after model selection: an escalation beyond the head, and other strategies if
    their validation images were split off from the training images (see `hf_tl.training.refit`)."""
    preset: Preset | None = field(default=None, compare=False)
    """Arguments that were chosen; the rest follows the number of training images. It is neither saved nor compared. A
    copy with other phases has none: it trains the phases that it shows."""

    def __post_init__(self) -> None:
        if not isinstance(self.phases, list | tuple) or not all(isinstance(phase, Phase) for phase in self.phases):
            raise ConfigError(f"expected phases as a list of hf_tl.Phase, found {self.phases!r:.80}; write [phase, …]")
        if not self.phases:
            raise ConfigError(f"expected at least one phase in the strategy {self.name!r}, found none; add a phase")
        object.__setattr__(self, "phases", tuple(self.phases))
        if self.expected_rung is not None and not 1 <= self.expected_rung <= len(self.phases):
            raise ConfigError(
                f"expected_rung of a strategy of {len(self.phases)} phases must lie between 1 and {len(self.phases)}, "
                f"found {self.expected_rung}"
            )
        anew = any(phase.from_random_weights for phase in self.phases)
        if self.from_scratch and not anew:
            first, *others = self.phases
            object.__setattr__(self, "phases", (replace(first, from_random_weights=True), *others))
        elif anew and self.expected_rung is None:
            object.__setattr__(self, "from_scratch", True)
        if self.preset is not None and self != Strategy(**self.preset.values(PREVIEW_IMAGES)):
            object.__setattr__(self, "preset", None)

    def __repr__(self) -> str:
        phrases = ", then ".join(phase.phrase for phase in self.phases)
        return f"Strategy {self.name}: {phrases}" + ("" if self.preset is None else f" (for {PREVIEW})")

    def resolve(
        self, images: int, *, pretrained: bool = True, head_stages: int = 1, family: Family = HIERARCHICAL
    ) -> Self:
        """Return the strategy with its phases for a number of training images; explicit phases are returned unchanged.

        The arguments are those of `Preset.values`.

        >>> [phase.epochs for phase in Strategy.finetune().resolve(500).phases]
        [20, 20]
        """
        if self.preset is None:
            return self
        known: dict[str, Any] = {"pretrained": pretrained, "head_stages": head_stages, "family": family}
        return type(self)(**self.preset.values(images, **known))

    @classmethod
    def of(cls, name: str, **arguments: Any) -> Self:
        """Return the strategy of a name, with the arguments of its constructor that are not None.

        Raises:
            ConfigError: There is no such strategy, or it has no such argument.

        >>> Strategy.of("full", epochs=5)
        Strategy full: 5 epochs of all stages (for 1,000 to 20,000 images)
        """
        chosen = count_head(name, {key: value for key, value in arguments.items() if value is not None})
        preset = Preset(name, chosen)  # type: ignore[arg-type]  # which checks the name
        return cls(**preset.values(PREVIEW_IMAGES), preset=preset)

    @property
    def is_climb(self) -> bool:
        """Return whether the phases are stage depths of an escalation."""
        return self.expected_rung is not None

    def done(self, phases: int) -> Self:
        """Return the strategy as carried out: the first `phases` phases, which produced the kept weights.

        >>> Strategy.auto().done(2).phases[-1].trainable_stages
        2
        """
        kept = self.phases[:phases]
        return replace(
            self,
            phases=kept,
            from_scratch=any(phase.from_random_weights for phase in kept),
            expected_rung=None if self.expected_rung is None else min(self.expected_rung, phases),
        )

    def at_once(self) -> Self:
        """Return an escalation as a single training: its deepest stages, for the passes of all depths.

        The head starts anew, so it uses its initial learning rate; the stages before it keep the learning rates of the
        deepest phase. If some phases count passes and others steps, the training is as long as the deepest one. Other
        strategies are returned unchanged.

        >>> Strategy.auto(trainable_stages=("all",)).at_once()
        Strategy auto: 20 epochs of all stages
        """
        if not self.is_climb:
            return self
        return replace(self, phases=(merge_depths(self.phases),), expected_rung=None)

    def to_record(self) -> dict[str, Any]:
        """Convert the strategy into plain values for `config.json` and `run.json`."""
        record = asdict(replace(self, preset=None), dict_factory=plain_fields)
        del record["preset"]
        if not self.is_climb:
            del record["expected_rung"]
        if not self.refit:
            del record["refit"]
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Create a strategy from its record, which may come from others and so may name no files to read.

        Raises:
            ConfigError: The record is not one of a strategy; the message names unknown keys.
        """
        return cls(**strategy_fields(record))

    @classmethod
    def from_yaml(cls, source: str | Path) -> Self:
        """Read a strategy from a user's YAML.

        Args:
            source: A YAML file, or the text of a list (`[{trainable_stages: 1, epochs: 3}, …]`). It holds a list of
                phases, each with fields of `Phase`; or a mapping with `phases` and optionally `name`, `from_scratch`,
                `expected_rung` and `refit`.

        Raises:
            ConfigError: The source cannot be read or is not a strategy; the message names unknown keys.

        >>> Strategy.from_yaml("[{trainable_stages: 1, steps: 500}, {trainable_stages: all, epochs: 5}]").name
        'custom'
        """
        title, record = read_yaml(source)
        try:
            return cls(**strategy_fields(record, may_name_files=True))
        except ConfigError as error:
            raise ConfigError(f"{title}: {error}") from error
