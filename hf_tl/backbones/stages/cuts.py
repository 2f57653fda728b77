"""Division of a model into stages: one rule for timm and transformers.

A stage ends where the library says that a feature map or a block is complete (an anchor). Modules between two anchors
belong to the later one. Modules before the first anchor are the stem. Modules after the last anchor, except the
classifier, form a stage of their own; a lone norm after a hierarchy of resolutions belongs to the last anchor's stage
instead. Low-rank adapters in its layers do not change how a model is divided.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import chain

from hf_tl.backbones.stages.adapted import is_adapter
from hf_tl.backbones.stages.paths import lineage, outermost, parent_of, span, split_number
from hf_tl.backbones.stages.tables import LISTS, Layout


class Cutter:
    """Division of a layout's modules into stages, in order of registration (their positions)."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.modules = dict(layout.model.named_modules())
        self.position = {path: i for i, path in enumerate(self.modules)}
        self.size = Counter(parent for path in self.modules for parent in lineage(path))
        self.parameters: Counter[str] = Counter()
        self.matrices: Counter[str] = Counter()
        for name, parameter in layout.model.named_parameters():
            for path in lineage(parent_of(name)):
                self.parameters[path] += 1
                self.matrices[path] += not is_adapter(name) and sum(size > 1 for size in parameter.shape) > 1
        self.weighted = [name for name, _ in layout.model.named_parameters() if not self._is_placed(name)]
        self.starts = self._starts()

    def parts(self) -> Iterator[tuple[str, list[str], list[str], list[str]]]:
        """Yield for each stage its name and the names of its parameters, buffers and modules."""
        model = self.layout.model
        contents = (
            {name: self._stage_of(name) for name, _ in model.named_parameters()},
            {name: self._stage_of(name) for name, _ in model.named_buffers()},
            self._module_stages(),
        )
        for index in range(len(self.starts) + 1):
            parameters, buffers, modules = ([name for name, i in names.items() if i == index] for names in contents)
            yield self._name(parameters, index), parameters, buffers, modules

    def _is_placed(self, path: str) -> bool:
        """Return whether a module or tensor belongs to the head or to an anchor, wherever it is registered."""
        return any(parent in self.layout.heads or parent in self.layout.runs_with for parent in lineage(path))

    def _stage_of(self, path: str) -> int:
        """Return the stage of a module or tensor: that of the head, of its anchor, or of its position."""
        for parent in lineage(path):
            if parent in self.layout.heads:
                return len(self.starts)
            if parent in self.layout.runs_with:
                return self._stage_of(self.layout.runs_with[parent])
        owner = next(parent for parent in lineage(path) if parent in self.position)
        return bisect_right(self.starts, self.position[owner]) - 1

    def _end(self, path: str) -> int:
        return self.position[path] + self.size[path]

    def _starts(self) -> list[int]:
        """Find the positions at which stages start; merge a range without parameters into the stage after it."""
        *anchors, last = sorted(self.layout.anchors, key=self._end)
        cuts = [0, *sorted({*self._opening((*anchors, last)[0]), *map(self._cut_after, anchors), *self._closing(last)})]
        places = [self.position[parent_of(name)] for name in self.weighted]
        places += [self.position[anchor] for anchor in self.layout.runs_with.values()]
        occupied = sorted({bisect_right(cuts, place) for place in places})
        return [0, *(cuts[i] for i in occupied[:-1])]

    def _opening(self, anchor: str) -> list[int]:
        """Cut before the list of the first anchor (or the anchor) if it holds layers and other layers precede it."""
        block = self._block_of(anchor)
        if (parent := parent_of(block)) and isinstance(self.modules[parent], LISTS):
            block = parent
        has_stem = any(self.position[parent_of(name)] < self.position[block] for name in self.weighted)
        return [self.position[block]] if has_stem and self.matrices[block] > 1 else []

    def _cut_after(self, anchor: str) -> int:
        """Cut after an anchor and its sibling norms, or before the whole block if the anchor lies inside one."""
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
        """Return the outermost module that contains this anchor alone and is not a mere list of modules."""
        shared = Counter(path for other in self.layout.anchors for path in lineage(other))
        alone = [path for path in lineage(anchor) if shared[path] == 1 and not isinstance(self.modules[path], LISTS)]
        return alone[-1] if alone else anchor

    def _next_siblings(self, path: str) -> list[str]:
        parent = parent_of(path)
        names = [f"{parent}.{name}" if parent else name for name, _ in self.modules[parent].named_children()]
        return [name for name in names if name in self.position and self.position[name] > self.position[path]]

    def _closing(self, anchor: str) -> list[int]:
        """Cut after the last anchor if more than a norm follows, or if all blocks have one resolution."""
        end = self._end(anchor)
        after = [parent_of(name) for name in self.weighted if self.position[parent_of(name)] >= end]
        return [end] if self.layout.isotropic or any(self.matrices[path] for path in after) else []

    def _module_stages(self) -> dict[str, int]:
        """Find the modules that lie entirely in one stage; those without tensors follow their parent module.

        Modules after the last layer of the backbone, such as dropout before the classifier, belong to the head.
        """
        stages = self._stages_of_tensors()
        last = max(self.position[parent_of(name)] for name in self.weighted)
        spread = {path for name in self.layout.runs_with for path in lineage(parent_of(name))}
        result: dict[str, int] = {}
        for path, position in self.position.items():
            if path in stages:
                if len(stages[path]) == 1:
                    result[path] = min(stages[path])
            elif self._is_placed(path):
                result[path] = self._stage_of(path)
            elif parent_of(path) in result:
                result[path] = result[parent_of(path)]
            elif path not in spread:
                result[path] = len(self.starts) if position > last else self._stage_of(path)
        return result

    def _stages_of_tensors(self) -> dict[str, set[int]]:
        """Find the stages of the tensors in each module; a shared tensor belongs to the stage of its first name."""
        model = self.layout.model
        owner = {id(t): self._stage_of(name) for name, t in chain(model.named_parameters(), model.named_buffers())}
        everywhere = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
        stages: defaultdict[str, set[int]] = defaultdict(set)
        for name, tensor in chain(*everywhere):
            for path in lineage(parent_of(name)):
                stages[path].add(owner[id(tensor)])
        return dict(stages)

    def _name(self, names: list[str], index: int) -> str:
        """Name a stage by its outermost modules ("layer4", "blocks.3-4"); the first may be "stem", the last is "head".

        The name omits norms and modules that run with an anchor, unless there is nothing else.
        """
        if index == len(self.starts):
            return "head"
        roots = self._roots(names)
        natural = [path for path in roots if not self._is_placed(path)]
        main = [path for path in natural if self.matrices[path]] or natural or roots or [parent_of(names[0])]
        anchors = self.layout.anchors
        family = split_number(anchors[1] if len(anchors) > 1 else anchors[0])[0]
        if index == 0 and any(split_number(path)[0] != family for path in main):
            return "stem"
        own = [anchor for anchor in anchors if self._stage_of(anchor) == index]
        main = [path for path in main if parent_of(path) in map(parent_of, own)] or main
        last = next((anchor for anchor in own if split_number(anchor)[0] == split_number(main[-1])[0]), main[-1])
        base = f"{getattr(self.layout.model, 'base_model_prefix', '')}."
        return span(main[0].removeprefix(base), last.removeprefix(base))

    def _roots(self, names: list[str]) -> list[str]:
        """Find the outermost modules whose own parameters all lie in `names`."""
        counts = Counter(path for name in names for path in lineage(parent_of(name)))
        whole = {path for path in counts if counts[path] == self.parameters[path]}
        return outermost(path for path in self.modules if path in whole)
