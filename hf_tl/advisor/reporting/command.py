"""Command of the recommended training."""

import itertools
import shlex
from collections.abc import Mapping
from typing import Any

from hf_tl.backbones.candidates import Backbone
from hf_tl.config import READING, SOURCE, DataConfig, StrategyConfig, TrainingConfig
from hf_tl.ranges import flag_words

DEFAULTS = {**vars(DataConfig()), "seed": TrainingConfig().seed}
"""Defaults of the `hf-tl train` flags that the measured images depend on."""


INSPECTED = (*SOURCE, *READING)
"""Flags about the data that `hf-tl inspect` takes."""


def inspection_command(dataset: Any, backbone: Backbone | None, data_flags: Mapping[str, Any]) -> str | None:
    """Return the command of an inspection of the same data; None for loaded data, which no command can name.

    Args:
        dataset: The dataset, as the user wrote it.
        backbone: Backbone whose features find label errors; None for the demo's.
        data_flags: Flags about the data, by name; those equal to their defaults are left out.
    """
    if not isinstance(dataset, str):
        return None
    flags = {
        "model": "demo" if backbone is None else backbone.name,
        "weights": None if backbone is None else backbone.weights,
        **{name: data_flags.get(name) for name in INSPECTED if data_flags.get(name) != DEFAULTS[name]},
    }
    words = [flag_words(name, value) for name, value in flags.items() if value is not None]
    return shlex.join(["hf-tl", "inspect", dataset, *itertools.chain.from_iterable(words)])


def training_command(
    dataset: str, backbone: Backbone | None, settings: StrategyConfig, data_flags: Mapping[str, Any]
) -> str:
    """Return the command of the recommended training, with names and paths as the user wrote them.

    Args:
        dataset: Value of `--dataset`.
        backbone: Recommended backbone; None for the default of `hf-tl train`, whose weights need no flag.
        settings: Recommended strategy.
        data_flags: Further flags that the measured images depend on, by name; those equal to their defaults are left
            out.
    """
    flags = {
        "model": None if backbone is None else backbone.name,
        "weights": None if backbone is None else backbone.weights,
        "dataset": dataset,
        **{name: value for name, value in data_flags.items() if value not in (DEFAULTS.get(name), None)},
        "strategy": settings.strategy,
        "num_train_epochs": settings.num_train_epochs,
        "refit": settings.refit,
    }
    words = [flag_words(name, value) for name, value in flags.items() if value is not None]
    return shlex.join(["hf-tl", "train", *itertools.chain.from_iterable(words)])
