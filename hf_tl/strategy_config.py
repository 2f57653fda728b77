"""Flags of a strategy, and the strategy built from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from hf_tl.augmentation import preset_contents
from hf_tl.errors import ConfigError
from hf_tl.phase import Phase, TrainableStages
from hf_tl.ranges import Settings, like, setting
from hf_tl.recipes.families import HIERARCHICAL, Family
from hf_tl.recipes.preset import SYNONYMS, StrategyName
from hf_tl.strategy import BatchNorm, ClassWeights, Norm, Solver, Strategy
from hf_tl.tuning import LoRA

Preference = Literal["accuracy", "balance", "speed"]
PREFER: Preference = "accuracy"
TRIAL_BUDGET = 5.0
"""Minutes."""
RECOMMENDED_STRATEGY = "strategy.json"
"""File that `hf-tl recommend --output_dir` writes, and that `--recommendation` and `--phases` read."""


@dataclass(frozen=True)
class StrategyConfig(Settings):
    """Strategy and its recipe. Defaults depend on the number of training images."""

    strategy: StrategyName = setting(
        "transfer",
        "transfer: train the head; finetune: the head first, then also the last stages; gradual: unfreeze one stage at "
        "a time; full: train all stages; lora: the head first, then low-rank adapters in all stages; scratch: random "
        "weights; auto: choose how deep to train by validation",
        synonyms=SYNONYMS,
    )
    phases: str | None = setting(
        None, "YAML file with a list of phases (or the list itself), instead of --strategy", metavar="FILE"
    )
    recommendation: str | None = setting(
        None, "output folder of hf-tl recommend: train its strategy and report its evidence in the card", metavar="DIR"
    )
    trial_budget: float | None = setting(
        None,
        "minutes for training strategies in cross-validation before --strategy auto chooses one; if they would take "
        f"longer, rules decide; 0: rules (default: {TRIAL_BUDGET:g})",
        metavar="MINUTES",
        at_least=0,
    )
    prefer: Preference | None = setting(
        None,
        "choice of --strategy auto between two strategies: accuracy: the slower one unless the faster one is better by "
        "more than a standard error; balance: the faster one unless the slower one is better by more than that; speed: "
        f"the faster one unless the slower one is significantly better (default: {PREFER})",
    )
    trainable_stages: TrainableStages | None = setting(
        None,
        "trailing stages to train, head included (default: finetune 2; gradual 4, then all; more for vision "
        "transformers); finetune also takes all, a stage's name, several with commas, or re:PATTERN (see hf-tl stages)",
        metavar="STAGES",
        **like(Phase, "trainable_stages"),
    )
    lora_rank: int | None = setting(
        None,
        "train low-rank adapters (LoRA) of this rank in the stages of the backbone, in place of their weights "
        "(default: 16 with --strategy lora)",
        **like(LoRA, "rank"),
    )
    lora_alpha: float | None = setting(
        None, "scale of the adapters, times the rank (default: the rank, a scale of 1)", **like(LoRA, "alpha")
    )
    lora_dropout: float | None = setting(None, "dropout in front of the adapters (default: 0)", **like(LoRA, "dropout"))
    lora_targets: str | None = setting(
        None,
        "layers to adapt: all linear and convolutional layers of the trained stages, or re:PATTERN that matches names "
        "of layers (default: all)",
        metavar="LAYERS",
    )
    lora_dora: bool = setting(False, "train magnitude and direction of the adapted weights separately (DoRA)")
    head_solver: Solver = setting(
        "adamw",
        "adamw: train the head by gradient descent; lbfgs: fit it to convergence on frozen features (logistic "
        "regression, L2 strength by cross-validation; transfer, finetune, gradual)",
    )
    num_train_epochs: float | None = setting(
        None,
        "epochs over all phases; with --strategy auto, per stage depth (default: from the dataset size)",
        **like(Phase, "epochs"),
    )
    learning_rate: float | None = setting(
        None, "peak learning rate of the head (default: from the strategy)", **like(Phase, "learning_rate")
    )
    find_learning_rate: bool = setting(False, "choose the head's learning rate by a short sweep on frozen features")
    backbone_learning_rate: float | None = setting(
        None,
        "peak learning rate of the last trained backbone stage (default: from the strategy)",
        **like(Phase, "backbone_learning_rate"),
    )
    layer_decay: float | None = setting(
        None,
        "factor from each trained stage's learning rate to that of the stage before (default: from the strategy)",
        **like(Phase, "layer_decay"),
    )
    norm: Norm | None = setting(
        None,
        "normalization layers of frozen stages: frozen, affine (train scale and shift), adapt (update statistics) "
        "(default: frozen)",
    )
    batch_norm: BatchNorm | None = setting(
        None, "BatchNorm statistics of trained stages: update or keep (default: update)"
    )
    weight_decay: float | None = setting(
        None, "decoupled weight decay (default: from the strategy)", **like(Phase, "weight_decay")
    )
    warmup_ratio: float | None = setting(
        None, "fraction of each phase for linear warmup (default: from the strategy)", **like(Phase, "warmup_ratio")
    )
    augmentation: str | None = setting(
        None,
        f"training augmentation: none, a preset ({preset_contents()}), or a YAML file with such a list of torchvision "
        "v2 transforms; preprocessing stands for the model's resizing and normalization, at the end if the list has "
        "none (default: from the dataset size)",
        metavar="PRESET|FILE",
        **like(Phase, "augmentation"),
    )
    mixup: float | None = setting(None, "mixup alpha; 0: no mixup (default: from the strategy)", **like(Phase, "mixup"))
    cutmix: float | None = setting(
        None, "CutMix alpha; 0: no CutMix (default: from the strategy)", **like(Phase, "cutmix")
    )
    label_smoothing: float | None = setting(
        None, "label smoothing (default: from the strategy)", **like(Phase, "label_smoothing")
    )
    ema_decay: float | None = setting(
        None,
        "decay of an exponential moving average of the weights, which is evaluated and saved; 0: no averaging "
        "(default: from the strategy)",
        at_least=0,
        below=1,
    )
    class_weights: ClassWeights | None = setting(
        None, "balanced: weight the loss by inverse class frequency (default: none)"
    )
    balanced_sampling: bool = setting(False, "sample all classes equally often")
    head_penalty: float | None = setting(
        None,
        "L2 penalty on the distance of the head from its starting weights, in place of its weight decay (default: 1 "
        "with --head_init text, else 0)",
        **like(Phase, "head_penalty"),
    )
    distillation_weight: float | None = setting(
        None,
        "share of the loss to the predictions of --teacher; the labels have the rest (default: 0.9 with --teacher)",
        **like(Phase, "distillation_weight"),
    )
    distillation_temperature: float | None = setting(
        None,
        "temperature that softens the predictions of --teacher and of the model (default: 5)",
        **like(Phase, "distillation_temperature"),
    )
    patience: int | None = setting(
        None,
        "early stopping: end a phase after this many evaluations without a new best (default: no early stopping)",
        **like(Phase, "patience"),
    )
    refit: bool | None = setting(
        None,
        "after model selection, retrain from scratch on train + validation (default: after auto with fewer than 20,000 "
        "images)",
    )

    def build(
        self,
        head_stages: int = 1,
        images: int = 10_000,
        *,
        pretrained: bool = True,
        family: Family = HIERARCHICAL,
        climb: Mapping[str, Any] | None = None,
    ) -> Strategy:
        """Build the strategy from its defaults for the size of the data (`hf_tl.recipes`) and the flags that are set.

        Args:
            head_stages: Number of trailing stages that count as the head. Defaults to 1.
            images: Number of training images. Defaults to 10,000.
            pretrained: Whether the network starts from pretrained weights. Defaults to True.
            family: Family of the backbone. Defaults to that of hierarchical networks.
            climb: Recommendation for `auto`: `stages` and `expected_rung` of `Strategy.auto`, and `ends_from_scratch`.

        Raises:
            ConfigError: A flag does not apply to the strategy.
        """
        strategy = self.preset(head_stages, climb)
        return strategy.resolve(images, pretrained=pretrained, head_stages=head_stages, family=family)

    def preset(self, head_stages: int = 1, climb: Mapping[str, Any] | None = None) -> Strategy:
        """Return the strategy of the flags that are set; the rest follows the size of the data. See `build`."""
        values = {name: getattr(self, name) for name in _RECIPE}
        flags = {name: value for name, value in values.items() if value is not None and value is not False}
        if self.phases is not None or self.recommendation is not None:
            written = self._written(flags)
            return written if self.refit is None else replace(written, refit=self.refit)
        self._check_together()
        arguments = {_RECIPE[name]: value for name, value in flags.items()}
        if (lora := self._lora()) is not None:
            arguments["tuning"] = lora
        if self.strategy in ("transfer", "finetune", "gradual"):
            arguments["head_solver"] = self.head_solver
        if climb and self.strategy == "auto":
            depths = (depth if isinstance(depth, str) else head_stages + depth for depth in climb["stages"])
            arguments |= {"trainable_stages": tuple(depths), "expected_rung": climb["expected_rung"]}
            arguments["scratch"] = climb.get("ends_from_scratch", False)
            arguments |= {"tuning": climb["tuning"]} if "tuning" in climb else {}
        elif self.trainable_stages is not None:
            arguments["trainable_stages"] = self.trainable_stages
        return Strategy.of(self.strategy, **arguments, refit=self.refit)

    def _lora(self) -> LoRA | None:
        """Return the adapters of the flags that are set; None without such flags."""
        values = {field.name: getattr(self, f"lora_{field.name}") for field in fields(LoRA)}
        chosen = {name: value for name, value in values.items() if value is not None and value is not False}
        return LoRA(**chosen) if chosen else None

    def _written(self, flags: Mapping[str, Any]) -> Strategy:
        """Read the whole strategy from a file."""
        if self.recommendation is None:
            self._check_alone("phases", flags)
            return Strategy.from_yaml(str(self.phases))
        self._check_alone("recommendation", {**flags, **({} if self.phases is None else {"phases": self.phases})})
        file = Path(self.recommendation) / RECOMMENDED_STRATEGY
        if not file.is_file():
            raise ConfigError(
                f"--recommendation {self.recommendation} holds no {RECOMMENDED_STRATEGY}: name the --output_dir of an "
                "hf-tl recommend that recommended a training"
            )
        return Strategy.from_yaml(file)

    def _check_alone(self, flag: str, flags: Mapping[str, Any]) -> None:
        others = [*flags, *(["trainable_stages"] if self.trainable_stages is not None else [])]
        others += [f"lora_{field.name}" for field in fields(LoRA) if getattr(self, f"lora_{field.name}")]
        others += ["find_learning_rate"] if self.find_learning_rate else []
        others += ["head_solver"] if self.head_solver != type(self).head_solver else []
        others += ["strategy"] if self.strategy != type(self).strategy else []
        if others:
            names = ", ".join(f"--{name}" for name in others)
            raise ConfigError(
                f"--{flag} sets the whole strategy: leave out {names}, or put the setting into its phases"
            )

    def _check_together(self) -> None:
        """Reject flags that exclude each other, or that the strategy does not have."""
        if self.find_learning_rate and self.learning_rate is not None:
            raise ConfigError("--find_learning_rate and --learning_rate both set the rate of the head: leave one out")
        if self.find_learning_rate and self.strategy == "scratch":
            raise ConfigError(
                "--find_learning_rate needs pretrained features, and --strategy scratch has none: set --learning_rate"
            )
        if self.trainable_stages is not None and self.strategy not in ("finetune", "gradual", "lora"):
            raise ConfigError(
                f"--trainable_stages needs --strategy finetune, gradual or lora, found --strategy {self.strategy}: "
                "choose one of them, or leave out --trainable_stages"
            )
        advised = [f"--{name}" for name in ("trial_budget", "prefer") if getattr(self, name) is not None]
        if advised and self.strategy != "auto":
            raise ConfigError(
                f"{' and '.join(advised)} needs --strategy auto, found --strategy {self.strategy}: leave it out"
            )
        if self._lora() is not None and self.strategy in ("transfer", "scratch"):
            raise ConfigError(
                f"--lora_rank and the other settings of LoRA adapt pretrained stages of the backbone, found --strategy "
                f"{self.strategy}: choose --strategy lora, or leave them out"
            )
        if self.head_solver == "lbfgs" and self.strategy in ("full", "scratch", "auto"):
            raise ConfigError(
                "--head_solver lbfgs needs a strategy whose first phase trains the head alone (transfer, finetune or "
                f"gradual), found --strategy {self.strategy}: choose another strategy, or leave out --head_solver"
            )
        if self.head_solver == "lbfgs" and self.find_learning_rate:
            raise ConfigError(
                "--head_solver lbfgs does not use --find_learning_rate, because it fits the head in one step: leave "
                "one of them out"
            )


_RECIPE = {"num_train_epochs": "epochs"} | {
    name: name
    for name in (
        "learning_rate", "backbone_learning_rate", "layer_decay", "norm", "batch_norm", "weight_decay", "warmup_ratio",
        "augmentation", "mixup", "cutmix", "label_smoothing", "ema_decay", "class_weights", "balanced_sampling",
        "patience", "head_penalty", "distillation_weight", "distillation_temperature",
    )
}  # fmt: skip
"""Flags of a strategy's recipe, and the corresponding arguments of `Strategy`."""


def as_strategy(value: Any) -> Strategy:
    """Return a strategy, also of a name or a list of phases.

    Raises:
        ConfigError: The value is none of these.

    >>> as_strategy([Phase(1, epochs=2), Phase("all", epochs=3)])
    Strategy custom: 2 epochs of the head, then 3 epochs of all stages
    """
    if isinstance(value, Strategy):
        return value
    if isinstance(value, str):
        return Strategy.of(value)
    if isinstance(value, Sequence) and value and all(isinstance(phase, Phase) for phase in value):
        return Strategy("custom", tuple(value))
    hint = (
        "put the phase into a list: [phase]"
        if isinstance(value, Phase)
        else 'write "finetune" or hf_tl.Strategy.finetune()'
    )
    raise ConfigError(
        f"expected a strategy as a name, a hf_tl.Strategy or a list of hf_tl.Phase, found {kind_of(value)}: {hint}"
    )


def kind_of(value: Any) -> str:
    """Describe a value of the wrong type for an error: the value if it is short, else its type.

    >>> kind_of(5), kind_of([5])
    ('5', 'a list')
    """
    return repr(value) if isinstance(value, int | float | str) or value is None else f"a {type(value).__name__}"
