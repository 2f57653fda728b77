"""Stages of a backbone in forward order, and all stage arithmetic.

`tables` reads where the library says that stages end; `cuts` divides the model there.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hf_tl.backbones.stages.adapted import is_adapter, plain_name
from hf_tl.backbones.stages.cuts import Cutter
from hf_tl.backbones.stages.tables import describe, read_layout
from hf_tl.errors import StageError, name_some
from hf_tl.reporting.frames import to_frame
from hf_tl.reporting.html import html_summary
from hf_tl.reporting.numbers import counted
from hf_tl.strategy import TrainableStages

if TYPE_CHECKING:
    import pandas
    from torch import nn


@dataclass(frozen=True, repr=False)
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
    parameters: int = field(default=0, compare=False)
    """Number of its parameters."""

    @property
    def plain_names(self) -> tuple[str, ...]:
        """Names of its parameters in the model without adapters."""
        return tuple(plain_name(name) for name in self.parameter_names if not is_adapter(name))

    def __repr__(self) -> str:
        return f"Stage({self.name!r}, {self.parameters:,} parameters in {counted(len(self.parameter_names), 'tensor')})"


class Stages(tuple[Stage, ...]):
    """Stages of a model in forward order, shown as a table.

    >>> Stages([Stage("stem", ("conv.weight",), (), (), 432), Stage("head", ("fc.weight",), (), (), 20)])
    stage  parameters
    stem          432
    head           20
    """

    __slots__ = ()

    def __repr__(self) -> str:
        rows = self._rows()
        first, second = (max(len(row[place]) for row in rows) for place in (0, 1))
        return "\n".join(f"{name:<{first}}  {parameters:>{second}}" for name, parameters in rows)

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return html_summary("Stages", table=self._rows(), limit=None)

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a table with a row for each stage.

        Raises:
            ConfigError: pandas is not installed.
        """
        return to_frame(
            {
                "stage": stage.name,
                "parameters": stage.parameters,
                "parameter_tensors": len(stage.parameter_names),
                "buffers": len(stage.buffer_names),
                "modules": len(stage.module_names),
            }
            for stage in self
        )

    def _rows(self) -> list[list[str]]:
        return [["stage", "parameters"], *([stage.name, f"{stage.parameters:,}"] for stage in self)]


def list_stages(model: "nn.Module") -> Stages:
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
    layout, sizes = read_layout(model), {name: tensor.numel() for name, tensor in model.named_parameters()}
    stages = Stages(_stage(layout.prefix, sizes, *part) for part in Cutter(layout).parts())
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names) or len(names) < 3:
        raise StageError(
            f"expected at least three stages of different names, found {', '.join(names)} in {describe(model)}"
        )
    return stages


def _stage(prefix: str, sizes: Mapping[str, int], name: str, *contents: Iterable[str]) -> Stage:
    parameters, buffers, modules = (tuple(prefix + path for path in paths) for paths in contents)
    return Stage(name, parameters, buffers, modules, sum(sizes[path] for path in parameters))


def trainable_parameters(stages: Sequence[Stage], trainable_stages: TrainableStages) -> frozenset[str]:
    """Return the names of the parameters that train, as in the model without adapters.

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
    return frozenset(name for stage in chosen for name in stage.plain_names)


def _matching_parameters(stages: Sequence[Stage], pattern: str) -> frozenset[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise StageError(f"{pattern!r} (--trainable_stages) is not a regular expression: {error}") from error
    *backbone, head = stages
    names = [name for stage in backbone for name in stage.plain_names]
    if not (matching := [name for name in names if expression.search(name)]):
        raise StageError(
            f"no parameter of the backbone matches {pattern!r} (--trainable_stages); its names are {name_some(names)}"
        )
    return frozenset((*matching, *head.plain_names))
