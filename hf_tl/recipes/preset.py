"""A preset: the name of a strategy and the arguments chosen for it; the rest follows the number of training images.

The constructors of `hf_tl.Strategy` and the flags of a strategy (`hf_tl.strategy_config`) both end here.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from hf_tl.errors import ConfigError, name_some, nearest
from hf_tl.phase import ADAMW_FIELDS, Phase, Solver
from hf_tl.ranges import Domain, domains
from hf_tl.recipes.families import HIERARCHICAL, Family
from hf_tl.recipes.phases import all_stages, depth_by_depth, head_only, head_then_stages, stage_by_stage
from hf_tl.recipes.sizes import default_rung, recipe_for, solved
from hf_tl.tuning import LoRA

StrategyName = Literal["transfer", "finetune", "gradual", "full", "lora", "scratch", "auto"]
SYNONYMS = {
    **dict.fromkeys(("linear", "linearprobe", "linearprobing", "head", "frozen", "featureextraction"), "transfer"),
    **dict.fromkeys(("ft", "lpft", "finetuning"), "finetune"),
    **dict.fromkeys(("unfreeze", "gradualunfreezing"), "gradual"),
    **dict.fromkeys(("all", "fullfinetuning"), "full"),
    **dict.fromkeys(("peft", "adapter", "adapters", "dora", "lowrank"), "lora"),
    **dict.fromkeys(("fromscratch", "random"), "scratch"),
}
"""Other names of strategies, without hyphens and underscores, which error messages suggest."""
PREVIEW_IMAGES = 10_000
"""Number of training images that a strategy shows its phases for before it knows the data."""
PREVIEW = "1,000 to 20,000 images"
"""Sizes of data with the same phases."""
_HEAD = {"head_stages", "head_recipe", "trainable_stages"}
_ARGUMENTS = {
    "transfer": {"head_stages", "head_solver"},
    "finetune": {*_HEAD, "head_solver"},
    "gradual": {*_HEAD, "head_solver"},
    "full": set[str](),
    "lora": {*_HEAD, "head_solver"},
    "scratch": set[str](),
    "auto": {*_HEAD, "expected_rung", "scratch"},
}
"""Arguments of each strategy beside `refit` and the recipe of its phases."""
_RECIPE = {field.name for field in fields(Phase)} - {"trainable_stages", "from_random_weights"}
_COUNT = Domain((int,), at_least=1)
_DOMAINS = {
    **{name: domain for name, domain in domains(Phase).items() if name in _RECIPE},
    "ema_decay": replace(domains(Phase)["ema_decay"], or_zero=True),
    "head_solver": Domain((str,), get_args(Solver)),
    "head_stages": _COUNT,
    "expected_rung": _COUNT,
    "refit": Domain((bool,)),
}


@dataclass(frozen=True)
class Preset:
    """Name of a strategy and the arguments chosen for it.

    >>> [phase.epochs for phase in Preset("finetune", {"learning_rate": 1e-3}).values(500)["phases"]]
    [20, 20]
    """

    name: StrategyName
    arguments: Mapping[str, Any]
    """Arguments of the strategy's constructor. All others have their defaults for the size of the data."""

    def __post_init__(self) -> None:
        check_name(self.name)
        known = {*_ARGUMENTS[self.name], *_RECIPE, "refit"}
        if unknown := [name for name in self.arguments if name not in known]:
            raise ConfigError(
                f"the strategy {self.name} has no argument {name_some(unknown)}; {near(unknown[0], sorted(known))}"
            )
        if self._is_adapted and self.arguments.get("batch_norm") == "update":
            raise ConfigError("LoRA keeps the statistics of BatchNorm as they are: leave out --batch_norm update")
        object.__setattr__(self, "arguments", _checked(self.arguments))
        _checked(self.arguments.get("head_recipe", {}))

    def values(
        self, images: int, *, pretrained: bool = True, head_stages: int = 1, family: Family = HIERARCHICAL
    ) -> dict[str, Any]:
        """Return the fields of the strategy for a number of training images.

        Args:
            images: Number of training images.
            pretrained: Whether the network starts from pretrained weights. Defaults to True.
            head_stages: Number of trailing stages that count as the head, unless an argument sets it. Defaults to 1.
            family: Family of the backbone. Defaults to that of hierarchical networks.

        Raises:
            ConfigError: An argument does not apply to the strategy.
        """
        arguments = {"head_stages": head_stages, "head_solver": "adamw", **self.arguments}
        known = {"pretrained": pretrained, "is_adapted": self._is_adapted}
        defaults = recipe_for(self.name, images, family=family, **known)
        values: dict[str, Any] = {"refit": defaults.pop("refit", False), "from_scratch": self.name == "scratch"}
        if (refit := arguments.get("refit")) is not None:
            values["refit"] = refit
        recipe = self._recipe(defaults)
        if arguments["head_solver"] == "lbfgs":
            self._check_solved()
            recipe = solved(recipe, is_alone=self.name == "transfer")
        self._check_stages(arguments.get("trainable_stages"), arguments["head_stages"])
        stages = (arguments["head_stages"], arguments.get("trainable_stages"), family.stages_at_once)
        phases = self._phases(recipe, *stages)
        if self.name == "auto":
            values["expected_rung"] = arguments.get("expected_rung", default_rung(images, len(phases)))
        return {"name": self.name, "phases": (*phases, *self._last(images)), **values}

    @property
    def _is_adapted(self) -> bool:
        """Whether adapters train in place of the weights of the backbone."""
        return self.name == "lora" or isinstance(self.arguments.get("tuning"), LoRA)

    def _recipe(self, defaults: dict[str, Any]) -> dict[str, Any]:
        """Replace defaults by the arguments, which hold in all phases, the head's included."""
        chosen = {name: value for name, value in self.arguments.items() if name in _RECIPE}
        recipe = {**defaults, **chosen}
        if "head_recipe" in recipe:
            usual = {name: value for name, value in recipe["head_recipe"].items() if name not in chosen}
            recipe["head_recipe"] = {**usual, **self.arguments.get("head_recipe", {})}
        if "steps" in chosen and "epochs" not in chosen:
            del recipe["epochs"]
        recipe["ema_decay"] = recipe.get("ema_decay") or None  # 0 means no average
        return recipe

    def _phases(
        self, recipe: dict[str, Any], head_stages: int, trainable_stages: Any, at_once: int
    ) -> tuple[Phase, ...]:
        if self.name == "transfer":
            return head_only(recipe, head_stages)
        if self.name in ("full", "scratch"):
            return all_stages(recipe)
        if recipe.get("epochs") is None:
            raise ConfigError(
                f"the strategy {self.name} shares epochs among its phases: set epochs, or write its phases with steps "
                "as hf_tl.Phase"
            )
        if self.name in ("finetune", "lora"):
            default = "all" if self.name == "lora" else head_stages + at_once
            return head_then_stages(recipe, head_stages, default if trainable_stages is None else trainable_stages)
        if self.name == "gradual":
            return stage_by_stage(recipe, head_stages, trainable_stages, at_once)
        return depth_by_depth(recipe, head_stages, trainable_stages, at_once)

    def _last(self, images: int) -> tuple[Phase, ...]:
        """Return the last phase of an escalation, from random weights, if it has one."""
        scratch = self.arguments.get("scratch")
        if not scratch:
            return ()
        if not isinstance(scratch, Phase):  # the learning rates that were chosen are those of pretrained weights
            other = {"learning_rate", "backbone_learning_rate", "head_penalty", "tuning"}
            chosen = {name: value for name, value in self.arguments.items() if name in _RECIPE - other}
            [scratch] = Preset("scratch", chosen).values(images)["phases"]
        return (replace(scratch, from_random_weights=True),)

    def _check_stages(self, stages: Any, head_stages: int) -> None:
        """Reject stages that are not deeper than the head, or of the wrong type."""
        if stages is None:
            return
        is_list = isinstance(stages, Sequence) and not isinstance(stages, str)
        if self.name == "auto" and not is_list:
            raise ConfigError(
                'trainable_stages of the strategy auto must be a list of depths, such as (2, 4, "all"), found '
                f"{stages!r}"
            )
        if self.name == "gradual" and (isinstance(stages, bool) or not isinstance(stages, int)):
            raise ConfigError(
                "--trainable_stages of --strategy gradual must be a number, because it unfreezes one stage after "
                f"another, found {stages!r}. Leave it out (4 stages, then all), choose --strategy finetune, or list "
                "the phases with --phases"
            )
        for depth in stages if self.name == "auto" else [stages]:
            if depth in ("head", ("head",)) or (isinstance(depth, int) and depth <= head_stages):
                raise ConfigError(
                    f"--strategy {self.name} trains the head and at least one more stage: --trainable_stages must be "
                    f"at least {head_stages + 1}, found {depth}. To train the head alone, choose --strategy transfer"
                )

    def _check_solved(self) -> None:
        """Reject arguments that a head solved in one step does not use."""
        unused = ("epochs", "steps", *ADAMW_FIELDS) if self.name == "transfer" else ()
        if meaningless := [_FLAGS.get(name, name) for name in self.arguments if name in unused]:
            raise ConfigError(
                f"--head_solver lbfgs does not use {name_some([f'--{name}' for name in meaningless])}, because it fits "
                "the head in one step: leave one of them out"
            )


def _checked(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Check arguments, and return them as their domains read them."""
    checked = dict(arguments)
    for name in [name for name in checked if name in _DOMAINS]:
        try:
            checked[name] = _DOMAINS[name].check(checked[name])
        except ValueError as error:
            raise ConfigError(f"--{_FLAGS.get(name, name)} {error}") from error
    return checked


_FLAGS = {"epochs": "num_train_epochs"}
"""Flags whose name differs from that of the argument."""


def check_name(name: object) -> None:
    """Check the name of a strategy.

    Raises:
        ConfigError: There is no such strategy; the message suggests the one that is meant.
    """
    names = get_args(StrategyName)
    if name not in names:
        hint = Domain((str,), names, synonyms=SYNONYMS).suggestion(name) or f"; choose from {', '.join(names)}"
        raise ConfigError(f"there is no strategy {name!r}{hint}")


def near(name: str, names: Sequence[str]) -> str:
    """Suggest the nearest of some names, or list all.

    >>> near("finetun", ["finetune", "full"])
    'did you mean finetune?'
    """
    return nearest(name, names).removeprefix("; ") or f"choose from {', '.join(names)}"


def count_head(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Replace the deprecated argument `stages`, which did not count the head, by `trainable_stages`."""
    stages = arguments.pop("stages", None)
    if stages is None:
        return arguments
    if "trainable_stages" in arguments:
        raise ConfigError("stages is the old name of trainable_stages: leave out stages")
    head_stages = arguments.get("head_stages", 1)
    is_several = name == "auto" and isinstance(stages, list | tuple)
    depths = [
        depth + head_stages if isinstance(depth, int) else depth for depth in (stages if is_several else [stages])
    ]
    trainable = tuple(depths) if is_several else depths[0]
    warnings.warn(
        f"Strategy.{name}(stages={stages!r}) is deprecated, because stages does not count the head: write "
        f"trainable_stages={trainable!r}",
        FutureWarning,
        stacklevel=4,
    )
    return {**arguments, "trainable_stages": trainable}
