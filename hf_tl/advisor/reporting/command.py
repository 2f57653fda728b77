"""Command of the recommended training."""

import itertools
import shlex
from collections.abc import Mapping
from typing import Any

from hf_tl.backbones.candidates import Backbone
from hf_tl.config import DataConfig, StrategyConfig, TrainingConfig
from hf_tl.ranges import flag_words

DEFAULTS = {**vars(DataConfig()), "seed": TrainingConfig().seed}
"""Defaults of the `hf-tl train` flags that the measured images depend on."""


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
