"""Limits of what the settings of a checkpoint may ask for, so that damaged ones do not fill the memory."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from hf_tl.errors import HfTlError, ModelError

LARGEST_INTEGER = 2**19
"""Largest integer in a config: libraries make and copy lists of that many names while they read it. Three million class
names take a minute; the largest vocabulary of an image-text model has 262,144 entries."""
LARGEST_SIDE = 2048
"""Largest height and width of images in pixels, before cropping too."""
MOST_MODULES = 100_000
MOST_PARAMETERS = 20 * 10**9
NEW_PARAMETERS = 10**8
"""Parameters that a network may have beyond its weights file: those of another head."""


def check_numbers(config: Mapping[str, Any], name: str) -> None:
    """Check the integers of a config that libraries read.

    Raises:
        ModelError: One exceeds `LARGEST_INTEGER`.
    """
    for key, value in _numbers(config):
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise ModelError(
                f"expected numbers up to {LARGEST_INTEGER:,} in config.json of {name}, found {key} {value:.3g}; do not "
                "load it"
            )


def check_input(input_size: Sequence[int], name: str) -> None:
    """Check the size (channels, height, width) of a network's input.

    Raises:
        ModelError: It exceeds that of a color image of `LARGEST_SIDE`.
    """
    check_sides(input_size, name)
    if math.prod(input_size) > 3 * LARGEST_SIDE**2:
        raise ModelError(
            f"expected an input of images in the preprocessing of {name}, found {input_size}; do not load it"
        )


def check_sides(sizes: Any, name: str) -> None:
    """Check the sizes of images that a checkpoint asks for, a number or nested ones.

    Raises:
        ModelError: A side exceeds `LARGEST_SIDE`.
    """
    for _, side in _numbers(sizes):
        if not 0 <= side <= LARGEST_SIDE:
            raise ModelError(
                f"expected images of up to {LARGEST_SIDE:,} pixels a side in the preprocessing of {name}, found "
                f"{side:,.6g}; do not load it"
            )


@contextmanager
def within_limits(name: str) -> Iterator[None]:
    """Stop the construction of a network that has far more modules or parameters than the weights of a checkpoint.

    Args:
        name: Directory of the checkpoint, or Hub id.

    Raises:
        ModelError: The network is too large.
    """
    modules = parameters = 0
    files = [file for file in Path(name).glob("*") if file.suffix in (".safetensors", ".bin")]
    # weights take a byte or more, and each is registered up to three times: built, loaded, converted
    most = 4 * (sum(file.stat().st_size for file in files) + NEW_PARAMETERS) if files else 4 * MOST_PARAMETERS

    def count_module(module: nn.Module, key: str, inner: nn.Module | None) -> None:
        nonlocal modules
        modules += 1
        check(modules <= MOST_MODULES, f"more than {MOST_MODULES:,} modules")

    def count_parameter(module: nn.Module, key: str, parameter: nn.Parameter | None) -> None:
        nonlocal parameters
        parameters += 0 if parameter is None else parameter.numel()
        check(parameters <= most, f"more than {most // 4:,} parameters")

    def check(is_within: bool, size: str) -> None:
        if not is_within:
            raise ModelError(f"expected a network of the size of its weights in {name}, found {size}; do not load it")

    hooks = (
        register_module_module_registration_hook(count_module),
        register_module_parameter_registration_hook(count_parameter),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def settings_of(name: str, file: str) -> Iterator[None]:
    """Turn every error of the libraries that read the settings of a checkpoint into one that names them.

    A value of another type or size makes them fail anywhere, with any exception. A missing library is no fault of the
    settings.

    Args:
        name: Directory of the checkpoint, or Hub id.
        file: Name of the file.

    Raises:
        ModelError: The settings cannot be used.
        ImportError: A library is not installed.
    """
    try:
        yield
    except (HfTlError, ImportError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"expected usable settings in {file} of {name}, found ones on which loading fails "
            f"({type(error).__name__}: {reason:.500}); correct them, or choose another model"
        ) from error


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, int | float]]:
    """Yield the numbers in nested mappings and lists, with the name that each stands under."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value
    parts: Iterable[tuple[str, Any]] = ()
    if isinstance(value, Mapping):
        parts = ((str(inner), item) for inner, item in value.items())
    elif isinstance(value, list | tuple):
        parts = ((key, item) for item in value)
    for inner, item in parts:
        yield from _numbers(item, inner)
