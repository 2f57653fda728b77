"""Stage metadata of timm and transformers, and tables that correct it."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from hf_tl.backbones.stages.paths import parent_of, split_number
from hf_tl.errors import StageError, name_some

LISTS = (nn.ModuleList, nn.Sequential)

RENAMED_FEATURES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "CoaT": {"parallel_blocks": ("serial_blocks2", "serial_blocks3", "serial_blocks4")},
    "Gemma4VitClassifier": {"blocks": ("encoder.blocks",)},
    "HighResolutionNet": {"stem": ("bn2",), "stage1": ("layer1",)},
    "MobileNetV5": {"bn1": ("conv_stem",)},
    "MultiScaleVit": {"block": ("stages",)},
    "TResNet": {"": ("body.conv1",)},
    "Twins": {"block": ("blocks",)},
}
"""Starts of module paths in `feature_info` that do not exist, and the correct ones, by timm class."""

RUNS_WITH: Mapping[str, Mapping[str, str]] = {
    "EfficientViM": {"norm.0": "stages.0", "norm.1": "stages.1", "norm": "stages.2", "weights": "stages.2"},
}
"""Modules and root parameters that are registered elsewhere, and the anchors they run with, by timm class."""


CLASSIFIERS: Mapping[str, tuple[str, ...]] = {"LevitDistilled": ("head.linear", "head_dist.linear")}
"""Classifier layers of timm classes of which some `pretrained_cfg` is incomplete."""


@dataclass(frozen=True)
class Layout:
    """Input for the division of a model into stages; all names are paths in `model`."""

    model: nn.Module
    anchors: tuple[str, ...]
    """Modules whose end is the end of a stage, in forward order."""
    heads: tuple[str, ...]
    """Classifier layers, which a change of the number of classes re-initializes."""
    isotropic: bool
    """Whether all blocks have one resolution, so that the final norm is a stage of its own."""
    prefix: str = ""
    """Prefix of each name when `model` lies in a wrapper."""
    runs_with: Mapping[str, str] = field(default_factory=dict)
    """Modules and parameters that belong to an anchor but are registered elsewhere."""


def read_layout(model: nn.Module) -> Layout:
    """Find the anchors and classifier layers of a timm model, a `TimmWrapper` or a transformers image classifier.

    Raises:
        StageError: The model has no classifier, or its blocks cannot be determined.
    """
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        return _read_timm(model)
    if model.config.model_type == "timm_wrapper":
        return _read_timm(model.timm_model, prefix="timm_model.")
    return _read_transformers(model)


def describe(model: nn.Module) -> str:
    """Describe a model by its checkpoint and its top-level modules, for error messages."""
    checkpoint = str(getattr(getattr(model, "config", None), "name_or_path", ""))
    name = type(model).__name__ + (f" of {checkpoint}" if checkpoint else "")
    return f"{name} with {name_some(f'{n} ({type(m).__name__})' for n, m in model.named_children())}"


def _read_timm(model: nn.Module, prefix: str = "") -> Layout:
    modules = dict(model.named_modules())
    classifier = _of_class(CLASSIFIERS, model) or (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    heads = tuple(name for name in names if name in modules and any(True for _ in modules[name].parameters()))
    if not heads:
        raise StageError(
            f"expected a classifier, found {describe(model)}, an encoder without one (or built with num_classes=0); "
            "choose an architecture that classifies images"
        )
    info = getattr(model, "feature_info", ())
    dicts = info.get_dicts() if hasattr(info, "get_dicts") else list(info)
    renamed = _of_class(RENAMED_FEATURES, model)
    anchors = tuple(dict.fromkeys(path for entry in dicts for path in _rename(entry["module"], renamed)))
    missing = [name for name in anchors if name not in modules or not name]
    if missing or not anchors:
        raise StageError(
            f"feature_info of {describe(model)} names modules that it lacks: {name_some(missing) or 'none at all'}; "
            "its stages cannot be determined; choose another architecture"
        )
    return Layout(
        model=model,
        anchors=anchors,
        heads=heads,
        isotropic=len({entry["reduction"] for entry in dicts}) == 1,
        prefix=prefix,
        runs_with={
            **_sibling_lists(model, anchors),
            **_numbered_siblings(model, anchors),
            **_of_class(RUNS_WITH, model),
        },
    )


def _of_class(table: Mapping[str, Any], model: nn.Module) -> Any:
    return next((table[base.__name__] for base in type(model).__mro__ if base.__name__ in table), {})


def _rename(path: str, renamed: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    start, dot, rest = path.partition(".")
    for other in renamed.get(start, (start,)):
        yield other + dot + rest


def _sibling_lists(model: nn.Module, anchors: tuple[str, ...]) -> dict[str, str]:
    """Pair the elements of sibling lists with the anchors of that index (Twins: patch_embeds, blocks, pos_block)."""
    path = parent_of(anchors[0])
    blocks = model.get_submodule(path)
    names = [f"{path}.{name}" for name, _ in blocks.named_children()]
    if not path or not isinstance(blocks, LISTS) or tuple(names) != anchors:
        return {}
    parent = parent_of(path)
    return {
        f"{f'{parent}.' if parent else ''}{name}.{i}": anchor
        for name, sibling in model.get_submodule(parent).named_children()
        if isinstance(sibling, nn.ModuleList) and sibling is not blocks and len(sibling) == len(anchors)
        for i, anchor in enumerate(anchors)
    }


def _numbered_siblings(model: nn.Module, anchors: tuple[str, ...]) -> dict[str, str]:
    """Pair children and parameters of the model with the anchor of the same number (CoaT: cpe2, serial_blocks2)."""
    by_number = {number: anchor for anchor in anchors for number in [split_number(anchor)[1]] if "." not in anchor}
    names = [name for name, _ in model.named_children()] + [name for name, _ in model.named_parameters(recurse=False)]
    families: dict[str, set[str]] = {}
    for name in names:
        family, number = split_number(name)
        families.setdefault(family, set()).add(number)
    own = {split_number(anchor)[0] for anchor in anchors}
    if len(own) != 1 or len(by_number) < 2:
        return {}
    return {
        family + number: anchor
        for family, numbers in families.items()
        if family not in own and numbers == set(by_number)
        for number, anchor in by_number.items()
    }


def _read_transformers(model: Any) -> Layout:
    heads = _shaped_by_labels(model)
    if not heads:
        raise StageError(
            f"expected a layer whose shape follows the number of labels, found none in {describe(model)}: it may "
            "classify by the tokens of a language model, and has no head to train; choose an image classifier"
        )
    lists = {name: module for name, module in _outermost_lists(model) if _is_trunk(name, module, heads)}
    main = max(lists, key=lambda name: sum(p.numel() for p in lists[name].parameters()), default="")
    # siblings of the same length run with it (patch_embeddings and block); any other list is a second trunk
    rivals = [n for n in lists if (parent_of(n), len(lists[n])) != (parent_of(main), len(lists[main]))]
    if not lists or rivals:
        raise StageError(
            f"expected one list of blocks or stages, found {name_some(lists) or 'none'} in {describe(model)}; "
            "its stages cannot be determined; choose another architecture"
        )
    anchors, isotropic = _anchors_of_list(main, lists[main])
    return Layout(
        model=model,
        anchors=anchors,
        heads=heads,
        isotropic=isotropic,
        runs_with=_sibling_lists(model, anchors),
    )


def _shaped_by_labels(model: Any) -> tuple[str, ...]:
    """Find the classifier layers: their shapes differ in a meta-device copy of the model with one more label."""
    config = copy.deepcopy(model.config)
    config.num_labels = model.config.num_labels + 1
    with torch.device("meta"):
        twin = type(model)(config)
    shapes = {name: parameter.shape for name, parameter in twin.named_parameters()}
    changed = [name for name, p in model.named_parameters() if name in shapes and shapes[name] != p.shape]
    return tuple(dict.fromkeys(map(parent_of, changed)))


def _outermost_lists(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.ModuleList]]:
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield f"{path}{name}", child
        else:
            yield from _outermost_lists(child, f"{path}{name}.")


def _is_trunk(path: str, blocks: nn.ModuleList, heads: tuple[str, ...]) -> bool:
    is_head = any(head == path or head.startswith(f"{path}.") for head in heads)
    return len(blocks) > 1 and not is_head and any(True for _ in blocks.parameters())


def _anchors_of_list(path: str, blocks: nn.ModuleList) -> tuple[tuple[str, ...], bool]:
    """Find the stages of a list: elements that contain lists, else runs that begin at a stride, else every block."""
    names = [f"{path}.{i}" for i in range(len(blocks))]
    stages = [name for name, block in zip(names, blocks, strict=True) if _holds(block, lambda m: isinstance(m, LISTS))]
    if stages:
        return tuple(stages), False
    strided = [i for i, block in enumerate(blocks) if i and _holds(block, _is_strided)]
    if strided:
        return tuple(names[i - 1] for i in [*strided, len(blocks)]), False
    return tuple(names), True


def _holds(block: nn.Module, condition: Any) -> bool:
    return any(condition(module) for module in block.modules())


def _is_strided(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and max(module.stride) > 1
