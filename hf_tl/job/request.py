"""Request for a run: settings by name, and objects from Python in place of names.

`hf-tl train` makes a request of flags alone; `hf_tl.train` makes one of its arguments, whose keywords are the flags.
"""

import dataclasses
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_tl.config import DataConfig, HubConfig, ModelConfig, RunConfig, StrategyConfig, TrainingConfig
from hf_tl.errors import ConfigError, name_some
from hf_tl.job.opening import SPLIT_SETTINGS
from hf_tl.recipes.preset import check_name, near
from hf_tl.strategy import Strategy
from hf_tl.strategy_config import as_strategy, kind_of

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedModel

    from hf_tl.data.datasets import ImageData
    from hf_tl.data.decoding.images import Transforms

GROUPS = (ModelConfig, DataConfig, StrategyConfig, TrainingConfig, HubConfig)
"""Groups of settings."""
ALIASES = {"epochs": "num_train_epochs", "lr": "learning_rate", "batch_size": "per_device_train_batch_size"}
"""Short names of settings."""
POSITIONAL = ("model", "dataset", "strategy")
"""Settings that `hf_tl.train` takes as its first arguments."""


@dataclass(frozen=True)
class Request:
    """A run as it was asked for."""

    config: RunConfig
    """All settings. An object below replaces its name in them."""
    model: "PreTrainedModel | None" = None
    dataset: "Dataset | DatasetDict | ImageData | None" = None
    strategy: Strategy | None = None
    transforms: "Transforms | None" = None
    """Transforms of `model`."""
    dataset_name: str | None = None
    """Name of `dataset` in log, record and card."""
    teacher: "PreTrainedModel | None" = None

    @property
    def has_teacher(self) -> bool:
        """Return whether a teacher is named, or loaded."""
        return self.teacher is not None or self.config.training.teacher is not None


def make_request(
    model: Any,
    dataset: Any,
    strategy: Any,
    *,
    transforms: Any,
    dataset_name: str | None,
    teacher: Any = None,
    settings: Mapping[str, Any],
) -> Request:
    """Make a request of the arguments of `hf_tl.train`.

    Raises:
        ConfigError: An argument has the wrong type, a setting does not exist or is outside its range, or two arguments
            exclude each other.
    """
    values = _named(settings)
    _check_types(model, dataset, transforms, dataset_name)
    groups = {owner: {name: values[name] for name in _names(owner) & set(values)} for owner in GROUPS}
    is_named = isinstance(model, str | os.PathLike)
    if is_named:
        groups[ModelConfig]["model"] = os.fspath(model)
    elif loading := sorted(set(groups[ModelConfig]) - {"head"}):
        raise ConfigError(
            f"{name_some(loading)} of hf_tl.train is for a model by its name: pass it to hf_tl.load_backbone, or name "
            "the model"
        )
    if isinstance(dataset, str | os.PathLike):
        groups[DataConfig]["dataset"] = os.fspath(dataset)
        dataset = None
    if isinstance(teacher, str | os.PathLike):
        groups[TrainingConfig]["teacher"] = os.fspath(teacher)
        teacher = None
    strategy = _strategy(strategy, groups[StrategyConfig])
    if not is_named and "recommendation" in groups[StrategyConfig]:
        raise ConfigError("--recommendation is for a model by its name: name the model of the recommendation")
    config = RunConfig(
        ModelConfig(**groups[ModelConfig]),
        DataConfig(**groups[DataConfig]),
        StrategyConfig(**groups[StrategyConfig]),
        TrainingConfig(**groups[TrainingConfig]),
        HubConfig(**groups[HubConfig]),
    )
    _check_split_once(dataset, config.data)
    if not is_named and strategy is None and config.strategy.strategy == "auto":
        strategy = config.strategy.preset()  # the advisor compares backbones by name
    return Request(config, None if is_named else model, dataset, strategy, transforms, dataset_name, teacher)


def _named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by the names of their fields."""
    known = [name for owner in GROUPS for name in sorted(_names(owner)) if name not in POSITIONAL]
    if unknown := [name for name in settings if name not in (*known, *ALIASES)]:
        hint = near(unknown[0], [*known, *ALIASES])
        advice = hint if hint.startswith("did") else "hf_tl.config lists all settings"
        positional = (
            f": pass the {unknown[0]} without a keyword, and once" if unknown[0] in POSITIONAL else f"; {advice}"
        )
        raise ConfigError(f"hf_tl.train has no setting {name_some(unknown)}{positional}")
    if twice := [f"{alias} and {name}" for alias, name in ALIASES.items() if alias in settings and name in settings]:
        raise ConfigError(f"{twice[0]} are two names of one setting: leave one out")
    return {ALIASES.get(name, name): value for name, value in settings.items()}


def _names(owner: type) -> set[str]:
    return {field.name for field in dataclasses.fields(owner)}


def _strategy(strategy: Any, settings: dict[str, Any]) -> Strategy | None:
    """Return a strategy of phases; the name of a strategy is added to the settings, and None returned."""
    if isinstance(strategy, str):
        check_name(strategy)
        settings["strategy"] = strategy
        return None
    strategy = as_strategy(strategy)
    if settings:
        names = name_some(sorted(settings))
        raise ConfigError(
            f"{names} of hf_tl.train is for a strategy by its name: put it into the strategy, for example "
            "hf_tl.Strategy.finetune(epochs=5), or pass the name"
        )
    return strategy


def _check_types(model: Any, dataset: Any, transforms: Any, dataset_name: Any) -> None:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from hf_tl.data.datasets import ImageData
    from hf_tl.data.decoding.images import Transforms

    if not isinstance(model, PreTrainedModel | str | os.PathLike):
        hint = "pass the first of the two that load_backbone returns" if isinstance(model, tuple) else ""
        raise ConfigError(
            "expected a model from hf_tl.load_backbone or the name of one as the first argument, found "
            f"{kind_of(model)}: {hint or 'write hf_tl.train(model, dataset, strategy)'}"
        )
    if isinstance(model, PreTrainedModel) and "labels" not in inspect.signature(model.forward).parameters:
        raise ConfigError(
            f"expected an image classifier, found a {type(model).__name__}, which takes no labels: load it with a "
            "head, hf_tl.load_backbone(name, labels), or pass the name to hf_tl.train"
        )
    if not isinstance(dataset, Dataset | ImageData | Mapping | str | os.PathLike):
        raise ConfigError(
            "expected the dataset as the second argument: a name, a folder, a datasets.Dataset, a DatasetDict or the "
            f"result of hf_tl.load_data, found {kind_of(dataset)}: write hf_tl.train(model, dataset, strategy)"
        )
    if not isinstance(transforms, Transforms | None):
        raise ConfigError(
            f"expected transforms as load_backbone returned them, found {kind_of(transforms)}: leave transforms out, "
            "or write model, transforms = hf_tl.load_backbone(…)"
        )
    if transforms is not None and not isinstance(model, PreTrainedModel):
        raise ConfigError("transforms belong to a model from load_backbone: leave them out for a model by its name")
    if dataset_name is not None and isinstance(dataset, str | os.PathLike | ImageData):
        raise ConfigError("dataset_name names a loaded dataset, and this one has a name: leave out dataset_name=")


def _check_split_once(dataset: Any, config: DataConfig) -> None:
    """Reject settings of splits and columns for data that are already split."""
    from hf_tl.data.datasets import ImageData

    default = DataConfig()
    changed = [name for name in SPLIT_SETTINGS if getattr(config, name) != getattr(default, name)]
    if changed and isinstance(dataset, ImageData):
        raise ConfigError(f"the dataset is already split by hf_tl.load_data: pass {name_some(changed)} to load_data")
