"""A strategy is a list of phases: which trailing stages train, for how long, and how.

Everything else follows the phases: freezing, the Accelerate loop, the Trainer callback, the record in the model's
config and the card. No part of the package has a "mode" of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

from hf_tl.errors import ConfigError, name_some
from hf_tl.phase import Augmentation, BatchNorm, ClassWeights, Norm, Phase, Solver, TrainableStages

__all__ = ["Augmentation", "BatchNorm", "ClassWeights", "Norm", "Phase", "Solver", "Strategy", "TrainableStages"]


@dataclass(frozen=True)
class Strategy:
    """A named list of phases.

    >>> [phase.trainable_stages for phase in Strategy.finetune(stages=2).phases]
    [1, 3]
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

    def __post_init__(self) -> None:
        if not self.phases:
            raise ConfigError(f"expected at least one phase in the strategy {self.name!r}, found none; add a phase")
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

    @property
    def is_climb(self) -> bool:
        """Return whether the phases are stage depths of an escalation."""
        return self.expected_rung is not None

    @classmethod
    def transfer(
        cls, *, epochs: float | None = 10, learning_rate: float = 3e-3, head_stages: int = 1, **recipe: Any
    ) -> Self:
        """Train the head only ("feature extraction", "linear probing").

        There is no augmentation by default, so that a frozen backbone computes the same features in every epoch.

        Args:
            epochs: Passes over the training data. Defaults to 10.
            learning_rate: Peak learning rate of the head. Defaults to 3e-3.
            head_stages: Number of trailing stages that count as the head. Defaults to 1, the last layer.
            recipe: Other fields of `Phase`.
        """
        recipe = {"augmentation": "none", **recipe}
        return cls("transfer", (Phase(head_stages, epochs, learning_rate, **recipe),))

    @classmethod
    def finetune(
        cls,
        stages: TrainableStages = 1,
        *,
        epochs: float = 10,
        learning_rate: float = 3e-3,
        backbone_learning_rate: float = 3e-4,
        head_stages: int = 1,
        head_recipe: Mapping[str, Any] | None = None,
        **recipe: Any,
    ) -> Self:
        """Fine-tune in two phases: the head alone, then the head and stages of the backbone.

        A random head would send large, meaningless gradients through pretrained features, so it is trained alone first
        (LP-FT, Kumar et al. 2022, https://arxiv.org/abs/2202.10054).

        Args:
            stages: Number of trailing backbone stages that the second phase unfreezes, `"all"`, or names (see
                `Phase.trainable_stages`). Defaults to 1.
            epochs: Passes over the training data, both phases together. Defaults to 10.
            learning_rate: Peak learning rate of the head in the first phase; the second uses a third of it. Defaults to
                3e-3.
            backbone_learning_rate: Peak learning rate of the last backbone stage. Defaults to 3e-4.
            head_stages: Number of trailing stages that count as the head. Defaults to 1.
            head_recipe: Fields of `Phase` that differ in the head phase. Without `epochs`, it gets a third of the
                epochs.
            recipe: Other fields of `Phase`.
        """
        head = {"epochs": epochs / 3, "learning_rate": learning_rate, **recipe, **(head_recipe or {})}
        rates: dict[str, Any] = {"learning_rate": learning_rate / 3, "backbone_learning_rate": backbone_learning_rate}
        rest = epochs - (head["epochs"] or 0)
        trainable = head_stages + stages if isinstance(stages, int) else stages
        return cls("finetune", (Phase(head_stages, **head), Phase(trainable, rest, **rates, **recipe)))

    @classmethod
    def gradual(
        cls,
        stages: int | None = None,
        *,
        epochs: float = 10,
        learning_rate: float = 3e-3,
        backbone_learning_rate: float = 3e-4,
        layer_decay: float = 1 / 2.6,
        head_stages: int = 1,
        head_recipe: Mapping[str, Any] | None = None,
        **recipe: Any,
    ) -> Self:
        """Unfreeze gradually: the head, then one more backbone stage in each phase, from the top.

        Each phase starts from the weights of the previous one, and each earlier stage learns at a fraction of the
        learning rate of the stage after it. Half of the epochs after the head phase belong to the last phase (ULMFiT,
        Howard and Ruder 2018, https://arxiv.org/abs/1801.06146, where the fraction is 1/2.6).

        Args:
            stages: Number of backbone stages to unfreeze, one per phase. Defaults to three, and then all.
            epochs: Passes over the training data, all phases together. Defaults to 10.
            learning_rate: Peak learning rate of the head in the first phase; later phases use a third of it. Defaults
                to 3e-3.
            backbone_learning_rate: Peak learning rate of the last backbone stage. Defaults to 3e-4.
            layer_decay: Fraction of the learning rate from one stage to the stage before it. Defaults to 1/2.6.
            head_stages: Number of trailing stages that count as the head. Defaults to 1.
            head_recipe: Fields of `Phase` that differ in the head phase. Without `epochs`, it gets as many as each
                other phase but the last.
            recipe: Other fields of `Phase`.

        >>> [phase.trainable_stages for phase in Strategy.gradual().phases]
        [1, 2, 3, 4, 'all']
        """
        trainable: list[TrainableStages] = [head_stages + more for more in range(1, (stages or 3) + 1)]
        if stages is None:
            trainable.append("all")
        even = epochs / (2 * len(trainable))
        head = {"epochs": even, "learning_rate": learning_rate, **recipe, **(head_recipe or {})}
        rest = epochs - (head["epochs"] or 0)
        *earlier, last = trainable
        share = rest / (2 * len(earlier) or 1)
        rates: dict[str, Any] = {
            "learning_rate": learning_rate / 3,
            "backbone_learning_rate": backbone_learning_rate,
            "layer_decay": layer_decay,
        }
        phases = [Phase(stages, share, **rates, **recipe) for stages in earlier]
        phases.append(Phase(last, rest / 2 if earlier else rest, **rates, **recipe))
        return cls("gradual", (Phase(head_stages, **head), *phases))

    @classmethod
    def full(
        cls,
        *,
        epochs: float = 10,
        learning_rate: float = 3e-3,
        backbone_learning_rate: float = 3e-4,
        **recipe: Any,
    ) -> Self:
        """Fine-tune the whole network from its pretrained weights, with a higher learning rate for the head."""
        phase = Phase("all", epochs, learning_rate, backbone_learning_rate=backbone_learning_rate, **recipe)
        return cls("full", (phase,))

    @classmethod
    def auto(
        cls,
        stages: Sequence[int | Literal["all"]] = (1, 3, "all"),
        *,
        expected_rung: int = 1,
        epochs: float = 10,
        learning_rate: float = 3e-3,
        backbone_learning_rate: float = 3e-4,
        head_stages: int = 1,
        head_recipe: Mapping[str, Any] | None = None,
        scratch: Phase | None = None,
        refit: bool = True,
        **recipe: Any,
    ) -> Self:
        """Escalate: train the head, then deeper and deeper stages, while accuracy improves.

        Each stage depth starts from the best weights so far.

        Args:
            stages: Numbers of backbone stages to unfreeze after the head, one per stage depth. Defaults to 1, 3 and
                `"all"`.
            expected_rung: Number, from 1, of the stage depth that the evidence favors. Defaults to 1, the head.
            epochs: Passes over the training data at each stage depth. Defaults to 10.
            learning_rate: Peak learning rate of the head in the first phase; later phases use a third of it. Defaults
                to 3e-3.
            backbone_learning_rate: Peak learning rate of the last backbone stage. Defaults to 3e-4.
            head_stages: Number of trailing stages that count as the head. Defaults to 1.
            head_recipe: Fields of `Phase` that differ in the head phase.
            scratch: A last phase that starts from random weights. Defaults to none.
            refit: Whether to retrain the selected depth from scratch, see `at_once`. Defaults to True.
            recipe: Other fields of `Phase`.

        >>> [phase.trainable_stages for phase in Strategy.auto().phases]
        [1, 2, 4, 'all']
        """
        head = {"epochs": epochs, "learning_rate": learning_rate, **recipe, **(head_recipe or {})}
        rates: dict[str, Any] = {"learning_rate": learning_rate / 3, "backbone_learning_rate": backbone_learning_rate}
        rungs: list[TrainableStages] = [more if isinstance(more, str) else head_stages + more for more in stages]
        deeper = (Phase(rung, epochs, **rates, **recipe) for rung in rungs)
        last = () if scratch is None else (replace(scratch, from_random_weights=True),)
        phases = (Phase(head_stages, **head), *deeper, *last)
        return cls("auto", phases, expected_rung=expected_rung, refit=refit)

    @classmethod
    def scratch(cls, *, epochs: float = 50, learning_rate: float = 1e-3, **recipe: Any) -> Self:
        """Train the architecture from random weights, with one learning rate for all stages."""
        return cls("scratch", (Phase("all", epochs, learning_rate, **recipe),), from_scratch=True)

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

        >>> [(phase.trainable_stages, phase.epochs) for phase in Strategy.auto(stages=("all",)).at_once().phases]
        [('all', 20)]
        """
        if not self.is_climb:
            return self
        anew = [index for index, phase in enumerate(self.phases) if phase.from_random_weights]
        rungs = self.phases[anew[-1] if anew else 0 :]
        epochs, steps = ([getattr(rung, name) for rung in rungs] for name in ("epochs", "steps"))
        deepest = rungs[-1]
        if len(rungs) > 1:
            backbone_rate = deepest.backbone_learning_rate or deepest.learning_rate
            deepest = replace(deepest, learning_rate=rungs[0].learning_rate, backbone_learning_rate=backbone_rate)
        if None not in epochs:
            deepest = replace(deepest, epochs=sum(epochs))
        elif None not in steps:
            deepest = replace(deepest, steps=sum(steps))
        return replace(self, phases=(deepest,), expected_rung=None)

    def to_record(self) -> dict[str, Any]:
        """Convert the strategy into plain values for `config.json` and `run.json`."""
        record = asdict(self)
        if not self.is_climb:
            del record["expected_rung"]
        if not self.refit:
            del record["refit"]
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Create a strategy from its record.

        Raises:
            ConfigError: The record is not one of a strategy; the message names unknown keys.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(str(key) for key in record if key not in known):
            raise ConfigError(f"a strategy has no field {name_some(unknown)}; choose from {', '.join(sorted(known))}")
        phases = record.get("phases") or ()
        if not isinstance(phases, Sequence) or isinstance(phases, str):
            raise ConfigError(f"phases of a strategy must be a list, found {phases!r:.80}")
        read = []
        for number, phase in enumerate(phases, 1):
            try:
                read.append(Phase.from_record(phase))
            except ConfigError as error:
                raise ConfigError(f"phase {number} of {len(phases)}: {error}") from error
        switches = {name: record.get(name, False) for name in ("from_scratch", "refit")}
        for name, value in switches.items():
            if not isinstance(value, bool):
                raise ConfigError(f"{name} of a strategy must be true or false, found {value!r:.80}")
        expected_rung = record.get("expected_rung")
        if expected_rung is not None and type(expected_rung) is not int:
            raise ConfigError(f"expected_rung of a strategy must be an integer, found {expected_rung!r:.80}")
        return cls(str(record.get("name", "custom")), tuple(read), expected_rung=expected_rung, **switches)

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
        import yaml

        is_text = str(source).lstrip().startswith("[")
        name = "--phases" if is_text else f"--phases {source}"
        try:
            content = yaml.safe_load(str(source) if is_text else Path(source).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{name} cannot be read: {error}") from error
        record = {"phases": content} if isinstance(content, list) else content
        if not isinstance(record, Mapping):
            raise ConfigError(
                f"{name} must be a list of phases, or a mapping with phases, found {type(content).__name__}"
            )
        try:
            return cls.from_record(record)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
