"""Stages of a backbone in forward order, and all stage arithmetic.

`tables` reads where the library says that stages end; `cuts` divides the model there.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_tl.backbones.stages.cuts import Cutter
from hf_tl.backbones.stages.tables import describe, read_layout
from hf_tl.errors import StageError, name_some
from hf_tl.strategy import TrainableStages

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Stage:
    """Stage of a backbone at the usual granularity of the field; the head is the last.

    >>> import timm
    >>> head = list_stages(timm.create_model("resnet18"))[-1]
    >>> head.name, head.parameter_names
    ('head', ('fc.weight', 'fc.bias'))
    """

    name: str
    parameter_names: tuple[str, ...]
    buffer_names: tuple[str, ...]
    module_names: tuple[str, ...]
    """Modules entirely in this stage, including those without parameters, named as in `model.named_modules()`."""


def list_stages(model: "nn.Module") -> tuple[Stage, ...]:
    """List the stages of `model` in forward order, the head last.

    Every parameter and buffer is in exactly one stage. A shared one is listed once, as in `named_parameters()`.

    Args:
        model: Model of timm, or image classifier of transformers (including `TimmWrapperForImageClassification`).

    Raises:
        StageError: The model has no classifier, or its stages cannot be determined. The message shows its structure.

    >>> import timm
    >>> [stage.name for stage in list_stages(timm.create_model("resnet18"))]
    ['stem', 'layer1', 'layer2', 'layer3', 'layer4', 'head']
    """
    layout = read_layout(model)
    stages = tuple(
        Stage(name, *(tuple(layout.prefix + path for path in paths) for paths in contents))
        for name, *contents in Cutter(layout).parts()
    )
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names) or len(names) < 3:
        raise StageError(
            f"expected at least three stages of different names, found {', '.join(names)} in {describe(model)}"
        )
    return stages


def trainable_parameters(stages: Sequence[Stage], trainable_stages: TrainableStages) -> frozenset[str]:
    """Return the names of the parameters that train.

    Args:
        stages: Stages of the model, from `list_stages`.
        trainable_stages: A number k: the last k stages (1 is the head). `"all"`: every stage. A stage name: that stage
            to the head. Several names: exactly these and the head. `"re:PATTERN"`: the parameters whose names match the
            regular expression (`re.search`), and the head.

    Raises:
        StageError: There is no such stage or parameter.

    >>> stages = tuple(Stage(name, (f"{name}.weight",), (), (name,)) for name in ("stem", "layer1", "head"))
    >>> sorted(trainable_parameters(stages, "layer1"))
    ['head.weight', 'layer1.weight']
    """
    if isinstance(trainable_stages, str) and trainable_stages.startswith("re:"):
        return _matching_parameters(stages, trainable_stages.removeprefix("re:"))
    names = [stage.name for stage in stages]
    if trainable_stages == "all":
        chosen = stages
    elif isinstance(trainable_stages, int):
        if not 1 <= trainable_stages <= len(stages):
            raise StageError(
                f"expected 1 to {len(stages)} trainable stages (--trainable_stages), found {trainable_stages}; "
                f"the stages are {', '.join(names)}"
            )
        chosen = stages[-trainable_stages:]
    else:
        wanted = (trainable_stages,) if isinstance(trainable_stages, str) else tuple(trainable_stages)
        if unknown := [name for name in wanted if name not in names]:
            raise StageError(
                f"there is no stage {name_some(unknown)} (--trainable_stages); the stages are {', '.join(names)}"
            )
        if isinstance(trainable_stages, str):
            chosen = stages[names.index(trainable_stages) :]
        else:
            chosen = tuple(stage for stage in stages if stage.name in (*wanted, "head"))
    return frozenset(name for stage in chosen for name in stage.parameter_names)


def _matching_parameters(stages: Sequence[Stage], pattern: str) -> frozenset[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise StageError(f"{pattern!r} (--trainable_stages) is not a regular expression: {error}") from error
    *backbone, head = stages
    names = [name for stage in backbone for name in stage.parameter_names]
    if not (matching := [name for name in names if expression.search(name)]):
        raise StageError(
            f"no parameter of the backbone matches {pattern!r} (--trainable_stages); its names are {name_some(names)}"
        )
    return frozenset((*matching, *head.parameter_names))
