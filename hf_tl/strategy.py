"""A strategy is a list of phases: which trailing stages train, for how long, and how.

Everything else reads the phases: freezing, the Accelerate loop, the Trainer callback, the record in the model's config
and the card. Nothing has a notion of its own of a "mode".
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
    """Whether nothing of the pretrained weights is left: the first phase, or a later one, draws random weights."""
    expected_rung: int | None = None
    """Where it is given, the phases are the rungs of a climb that ends when it does not pay any more (see
    `hf_tl.training.escalation`): the number, from 1, of the rung that the evidence expects to serve best."""
    refit: bool = False
    """Whether it is trained once more from the start, when validation images have chosen: a climb beyond the head, and
    others where those images were set apart from the training images (see `hf_tl.training.refit`)."""

    def __post_init__(self) -> None:
        if not self.phases:
            raise ConfigError(f"the strategy {self.name!r} has no phase; a strategy needs at least one")
        if self.expected_rung is not None and not 1 <= self.expected_rung <= len(self.phases):
            raise ConfigError(
                f"expected_rung of a strategy of {len(self.phases)} phases lies between 1 and {len(self.phases)}, "
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
        """Whether the phases are stage depths of a climb, which ends when going deeper does not pay."""
        return self.expected_rung is not None

    @classmethod
    def transfer(
        cls, *, epochs: float | None = 10, learning_rate: float = 3e-3, head_stages: int = 1, **recipe: Any
    ) -> Self:
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
        stages: TrainableStages = 1,
        *,
        epochs: float = 10,
        learning_rate: float = 3e-3,
        backbone_learning_rate: float = 3e-4,
        head_stages: int = 1,
        head_recipe: Mapping[str, Any] | None = None,
        **recipe: Any,
    ) -> Self:
        """Fine-tuning, head first: the head alone, then the head and stages of the backbone.

        A random head would send large, meaningless gradients through pretrained features (LP-FT, Kumar et al. 2022,
        https://arxiv.org/abs/2202.10054), so it is trained alone first.

        Args:
            stages: how many trailing stages of the backbone the second phase unfreezes; or `"all"` or names, as
                `Phase.trainable_stages`.
            epochs: passes over the training data, over both phases.
            learning_rate: peak rate of the head in the first phase; a third of it later.
            backbone_learning_rate: peak rate of the last stage of the backbone.
            head_stages: how many trailing stages count as the head.
            head_recipe: fields of `Phase` that differ in the head's own phase; a third of the epochs, if it has none.
            recipe: other fields of `Phase`.
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
        """Gradual unfreezing: the head, then one stage of the backbone more in each phase, from the top.

        Each phase goes on from the weights of the one before, each earlier stage learns at a fraction of the rate of
        the stage after it, and half of the epochs after the head's belong to the last phase (ULMFiT, Howard and Ruder
        2018, https://arxiv.org/abs/1801.06146, where the fraction is 1/2.6).

        Args:
            stages: how many stages of the backbone are unfrozen, one a phase; where it is None, three, and then all.
            epochs: passes over the training data, over all phases.
            learning_rate: peak rate of the head in the first phase; a third of it later.
            backbone_learning_rate: peak rate of the last stage of the backbone.
            layer_decay: the fraction.
            head_stages: how many trailing stages count as the head.
            head_recipe: fields of `Phase` that differ in the head's own phase; as many epochs as in the others but the
                last, if it has none.
            recipe: other fields of `Phase`.

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
        phases = [Phase(which, share, **rates, **recipe) for which in earlier]
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
        """Fine-tuning of the whole network from its pretrained weights, the head at a higher rate."""
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
        """Escalation: the head, then deeper and deeper, each from the best weights so far, as long as it pays.

        Args:
            stages: of the backbone, that the rungs after the head unfreeze.
            expected_rung: the number, from 1, of the rung that the evidence speaks for; without evidence, the head.
            epochs: passes over the training data, of each rung.
            learning_rate: peak rate of the head in the first rung; a third of it later.
            backbone_learning_rate: peak rate of the last stage of the backbone.
            head_stages: how many trailing stages count as the head.
            head_recipe: fields of `Phase` that differ in the head's own rung.
            scratch: a last rung, which is trained from random weights; there is none where it is None.
            refit: whether what it came to is trained once more, see `at_once`.
            recipe: other fields of `Phase`.

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
        """The same architecture from random weights, everything trained at one rate."""
        return cls("scratch", (Phase("all", epochs, learning_rate, **recipe),), from_scratch=True)

    def done(self, phases: int) -> Self:
        """Return the strategy as it was carried out: the first `phases` phases, which the kept weights come from.

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
        """Give a climb as one training from the start: its deepest rung, for the passes of all; others as they are.

        The head begins anew, so at the rate at which it began; the stages before it keep the rates of the deepest rung.
        Where one rung counts passes and another steps, the training is as long as the deepest.

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
        """Turn the strategy into what `config.json` and `run.json` hold."""
        record = asdict(self)
        if not self.is_climb:
            del record["expected_rung"]
        if not self.refit:
            del record["refit"]
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a strategy back from its record.

        Raises:
            ConfigError: the record is not one of a strategy; the message names the keys that are unknown.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(str(key) for key in record if key not in known):
            raise ConfigError(f"a strategy has no {name_some(unknown)}; it has {', '.join(sorted(known))}")
        phases = record.get("phases") or ()
        if not isinstance(phases, Sequence) or isinstance(phases, str):
            raise ConfigError(f"the phases of a strategy are a list, found {phases!r:.80}")
        read = []
        for number, phase in enumerate(phases, 1):
            try:
                read.append(Phase.from_record(phase))
            except ConfigError as error:
                raise ConfigError(f"phase {number} of {len(phases)}: {error}") from error
        switches = {name: record.get(name, False) for name in ("from_scratch", "refit")}
        for name, value in switches.items():
            if not isinstance(value, bool):
                raise ConfigError(f"{name} of a strategy is true or false, found {value!r:.80}")
        expected_rung = record.get("expected_rung")
        if expected_rung is not None and type(expected_rung) is not int:
            raise ConfigError(f"expected_rung of a strategy is a number, found {expected_rung!r:.80}")
        return cls(str(record.get("name", "custom")), tuple(read), expected_rung=expected_rung, **switches)

    @classmethod
    def from_yaml(cls, source: str | Path) -> Self:
        """Read a strategy that a user wrote.

        Args:
            source: a YAML file, or the text of a list itself (`[{trainable_stages: 1, epochs: 3}, …]`): a list of
                phases, each with fields of `Phase`; or a mapping with `phases` and, if wanted, `name`,
                `from_scratch`, `expected_rung` and `refit`.

        Raises:
            ConfigError: it cannot be read, or is no strategy; unknown keys are named.

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
            raise ConfigError(f"{name} must be a list of phases, found {type(content).__name__}")
        try:
            return cls.from_record(record)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
