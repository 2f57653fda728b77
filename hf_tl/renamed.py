"""Old names of arguments, which still work and warn."""

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

OLD_SOURCE = {"config_name": "dataset_config", "revision": "dataset_revision"}
"""New names of the arguments of `load_data` that choose a configuration and a revision on the Hub."""


def renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take arguments under their old names, with a `FutureWarning`.

    Args:
        names: New name of each old one.

    >>> @renamed(model_name="model")
    ... def load(model):
    ...     return model
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     load(model_name="out")
    'out'
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in names.keys() & kwargs.keys():
                new = names[old]
                if new in kwargs:
                    raise TypeError(f"{function.__name__}() got {new} twice: {old} is its old name, leave it out")
                text = f"{function.__name__}({old}=...) is deprecated: write {new}="
                warnings.warn(text, FutureWarning, stacklevel=2)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate
