"""The stages of a backbone, in forward order, and the one place of stage arithmetic.

A stage ends where the library says that a feature map or a block is complete (an anchor: an entry of timm's
`feature_info`, an element of transformers' list of blocks). What lies between two anchors belongs to the later one, what
comes before the first one is the stem, what follows the last one and is not the classifier is a stage of its own, or, if
it is only a norm after a resolution hierarchy, part of the last one. `stage_tables` finds the anchors.
"""

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from hf_tl.backbones.stage_tables import LISTS, Layout, describe, read_layout, split_number
from hf_tl.errors import StageError, name_some
from hf_tl.strategy import TrainableStages

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Stage:
    """One step of a backbone at the field's own granularity; the head is the last."""

    name: str
    parameter_names: tuple[str, ...]
    buffer_names: tuple[str, ...]
    module_names: tuple[str, ...]
    """Modules that lie wholly in this stage (those without parameters too), as in `model.named_modules()`."""


def list_stages(model: "nn.Module") -> tuple[Stage, ...]:
    """List the stages of `model` in forward order, the head last.

    Every parameter and buffer is in exactly one stage; one that is shared is named once, as in `named_parameters()`.

    Args:
        model: a timm model, or an image classifier of transformers (`TimmWrapperForImageClassification` too).

    Raises:
        StageError: the model has no classifier, or its stages cannot be told; the message shows what was found.

    >>> import timm
    >>> [stage.name for stage in list_stages(timm.create_model("resnet18"))]
    ['stem', 'layer1', 'layer2', 'layer3', 'layer4', 'head']
    """
    layout = read_layout(model)
    stages = _Cutter(layout).stages()
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names) or len(names) < 3:
        raise StageError(f"the stages of {describe(model)} cannot be told: found {', '.join(names)}")
    prefix = layout.prefix
    return tuple(
        replace(
            stage,
            parameter_names=tuple(prefix + name for name in stage.parameter_names),
            buffer_names=tuple(prefix + name for name in stage.buffer_names),
            module_names=tuple(prefix + name for name in stage.module_names),
        )
        for stage in stages
    )


def trainable_parameters(stages: tuple[Stage, ...], trainable_stages: TrainableStages) -> frozenset[str]:
    """Name the parameters that train.

    Args:
        stages: those of the model, from `list_stages`.
        trainable_stages: a number k, the last k stages (1 is the head); `"all"`; a stage's name, from that stage to the
            head; several names, exactly these and the head; or `"re:PATTERN"`, exactly the parameters in whose names
            the regular expression is found, and the head.

    Raises:
        StageError: there is no such stage, or no such parameter.

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


def _matching_parameters(stages: tuple[Stage, ...], pattern: str) -> frozenset[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise StageError(f"{pattern!r} (--trainable_stages) is not a regular expression: {error}") from error
    *backbone, head = stages
    names = [name for stage in backbone for name in stage.parameter_names]
    if not (found := [name for name in names if expression.search(name)]):
        raise StageError(
            f"no parameter of the backbone matches {pattern!r} (--trainable_stages); its names are {name_some(names)}"
        )
    return frozenset((*found, *head.parameter_names))


def select_stages(stages: tuple[Stage, ...], trainable_stages: TrainableStages) -> tuple[Stage, ...]:
    """Choose the stages of which at least one parameter trains; the others are frozen.

    Raises:
        StageError: there is no such stage, or no such parameter.
    """
    trainable = trainable_parameters(stages, trainable_stages)
    return tuple(stage for stage in stages if not trainable.isdisjoint(stage.parameter_names))


def head_stages(stages: tuple[Stage, ...]) -> int:
    """Count the trailing stages that are the fully connected part: 2 in VGG and AlexNet, 1 where only the head is one.

    Hidden fully connected layers stand between the last anchor and the head, either in timm's `pre_logits` or beside the
    classifier in one module.
    """
    first, *_, hidden, head = stages
    beside = _parent(_parent(head.parameter_names[0]))
    # not the whole model nor a wrapper's inner model, which hold the stem too
    around = {
        path for path in (beside, _parent(beside)) if path and not first.parameter_names[0].startswith(f"{path}.")
    }
    owners = {_parent(name) for name in hidden.parameter_names}
    is_hidden = all("pre_logits" in owner.split(".") or _parent(owner) in around for owner in owners)
    return 2 if is_hidden else 1


class _Cutter:
    """Cuts the modules of a layout into stages, in the order in which they are registered (their positions)."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.modules = dict(layout.model.named_modules())
        self.position = {path: i for i, path in enumerate(self.modules)}
        self.size = Counter(parent for path in self.modules for parent in _lineage(path))
        self.parameters: Counter[str] = Counter()
        self.matrices: Counter[str] = Counter()
        for name, parameter in layout.model.named_parameters():
            for path in _lineage(_parent(name)):
                self.parameters[path] += 1
                self.matrices[path] += sum(size > 1 for size in parameter.shape) > 1
        self.weighted = [name for name, _ in layout.model.named_parameters() if not self._is_placed(name)]
        self.starts = self._starts()

    def stages(self) -> list[Stage]:
        """Collect the names that lie in each stage, and name it."""
        model = self.layout.model
        parameters = {name: self._stage_of(name) for name, _ in model.named_parameters()}
        buffers = {name: self._stage_of(name) for name, _ in model.named_buffers()}
        modules = self._module_stages()
        stages = []
        for index in range(len(self.starts) + 1):
            contents = [[k for k, i in names.items() if i == index] for names in (parameters, buffers, modules)]
            stages.append(Stage(self._name(contents[0], index), *map(tuple, contents)))
        return stages

    def _is_placed(self, path: str) -> bool:
        """Whether a module or tensor is in the head or runs with an anchor, wherever it is registered."""
        return any(parent in self.layout.heads or parent in self.layout.runs_with for parent in _lineage(path))

    def _stage_of(self, path: str) -> int:
        """Find the stage of a module or tensor: the head's, its anchor's, or that of its position."""
        for parent in _lineage(path):
            if parent in self.layout.heads:
                return len(self.starts)
            if parent in self.layout.runs_with:
                return self._stage_of(self.layout.runs_with[parent])
        owner = next(parent for parent in _lineage(path) if parent in self.position)
        return bisect_right(self.starts, self.position[owner]) - 1

    def _end(self, path: str) -> int:
        return self.position[path] + self.size[path]

    def _starts(self) -> list[int]:
        """Find the positions at which stages start; a stretch without parameters is part of the stage after it."""
        *anchors, last = sorted(self.layout.anchors, key=self._end)
        cuts = [0, *sorted({*self._opening((*anchors, last)[0]), *map(self._cut_after, anchors), *self._closing(last)})]
        places = [self.position[_parent(name)] for name in self.weighted]
        places += [self.position[anchor] for anchor in self.layout.runs_with.values()]
        occupied = sorted({bisect_right(cuts, place) for place in places})
        return [0, *(cuts[i] for i in occupied[:-1])]

    def _opening(self, anchor: str) -> list[int]:
        """Cut before the list of the first anchor (or the anchor), if it holds layers and others come before it."""
        block = self._block_of(anchor)
        if (parent := _parent(block)) and isinstance(self.modules[parent], LISTS):
            block = parent
        has_stem = any(self.position[_parent(name)] < self.position[block] for name in self.weighted)
        return [self.position[block]] if has_stem and self.matrices[block] > 1 else []

    def _cut_after(self, anchor: str) -> int:
        """Cut after an anchor and the norms beside it, or, if it lies inside a block or cell, before the whole block."""
        if (block := self._block_of(anchor)) != anchor:
            return self.position[block]
        end = self._end(anchor)
        for path in self._next_siblings(anchor):
            if self.matrices[path]:
                break
            if self.parameters[path]:
                end = self._end(path)
        return end

    def _block_of(self, anchor: str) -> str:
        """Find the outermost module that holds this anchor alone and is more than a list of modules."""
        shared = Counter(path for other in self.layout.anchors for path in _lineage(other))
        around = reversed(list(_lineage(anchor)))
        return next(
            path for path in around if path == anchor or shared[path] == 1 and not isinstance(self.modules[path], LISTS)
        )

    def _next_siblings(self, path: str) -> list[str]:
        parent = _parent(path)
        names = [f"{parent}.{name}" if parent else name for name, _ in self.modules[parent].named_children()]
        return [name for name in names if name in self.position and self.position[name] > self.position[path]]

    def _closing(self, anchor: str) -> list[int]:
        """Cut after the last anchor if more than a norm follows, or if its blocks are all of one resolution."""
        end = self._end(anchor)
        after = [_parent(name) for name in self.weighted if self.position[_parent(name)] >= end]
        return [end] if self.layout.isotropic or any(self.matrices[path] for path in after) else []

    def _module_stages(self) -> dict[str, int]:
        """Find the modules that lie wholly in one stage; those without tensors lie where the module around them does.

        What comes after the last layer of the backbone, such as dropout before the classifier, is the head's.
        """
        found = self._stages_of_tensors()
        last = max(self.position[_parent(name)] for name in self.weighted)
        spread = {path for name in self.layout.runs_with for path in _lineage(_parent(name))}
        result: dict[str, int] = {}
        for path, position in self.position.items():
            if path in found:
                if len(found[path]) == 1:
                    result[path] = min(found[path])
            elif self._is_placed(path):
                result[path] = self._stage_of(path)
            elif _parent(path) in result:
                result[path] = result[_parent(path)]
            elif path not in spread:
                result[path] = len(self.starts) if position > last else self._stage_of(path)
        return result

    def _stages_of_tensors(self) -> dict[str, set[int]]:
        """Find for each module the stages of the tensors in it; a shared tensor is in the stage of its first name."""
        model = self.layout.model
        stages = {id(t): self._stage_of(name) for name, t in chain(model.named_parameters(), model.named_buffers())}
        everywhere = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
        found: defaultdict[str, set[int]] = defaultdict(set)
        for name, tensor in chain(*everywhere):
            for path in _lineage(_parent(name)):
                found[path].add(stages[id(tensor)])
        return dict(found)

    def _name(self, names: list[str], index: int) -> str:
        """Name a stage by its outermost modules: "layer4", "blocks.3-4"; the first is the "stem", the last the "head".

        Norms and what runs with an anchor are not named where there is more.
        """
        if index == len(self.starts):
            return "head"
        roots = self._roots(names)
        natural = [path for path in roots if not self._is_placed(path)]
        main = [path for path in natural if self.matrices[path]] or natural or roots
        anchors = self.layout.anchors
        family = split_number(anchors[1] if len(anchors) > 1 else anchors[0])[0]
        if index == 0 and any(split_number(path)[0] != family for path in main):
            return "stem"
        own = [anchor for anchor in anchors if self._stage_of(anchor) == index]
        main = [path for path in main if _parent(path) in map(_parent, own)] or main
        last = next((anchor for anchor in own if split_number(anchor)[0] == split_number(main[-1])[0]), main[-1])
        base = f"{getattr(self.layout.model, 'base_model_prefix', '')}."
        return _span(main[0].removeprefix(base), last.removeprefix(base))

    def _roots(self, names: list[str]) -> list[str]:
        """Find the outermost modules whose own parameters are `names` alone."""
        counts = Counter(path for name in names for path in _lineage(_parent(name)))
        whole = {path for path in counts if counts[path] == self.parameters[path]}
        return [path for path in self.modules if path in whole and _parent(path) not in whole]


def _span(first: str, last: str) -> str:
    """Name the run from one module to another.

    >>> _span("blocks.3", "blocks.4"), _span("features.transition1", "features.denseblock2")
    ('blocks.3-4', 'features.transition1-denseblock2')
    """
    if first == last:
        return first
    family, number = split_number(last)
    if split_number(first)[0] == family:
        return f"{first}-{number}"
    common = next(parent for parent in _lineage(_parent(first)) if not parent or last.startswith(f"{parent}."))
    return f"{first}-{last[len(common) :].lstrip('.')}"


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _lineage(path: str) -> Iterator[str]:
    """Yield a path and what it lies in, the nearest first, the root (an empty path) last."""
    while path:
        yield path
        path = _parent(path)
    yield path
