"""Freezing of stages: no gradients and permanent inference mode, even after `model.train()`.

A frozen BatchNorm in training mode would normalize by batch statistics and update its running statistics, and
transformers' Trainer calls `model.train()` at every step (https://github.com/huggingface/transformers/issues/24479).
Each module of a frozen stage therefore gets an instance attribute `train` that leaves the module in inference mode. The
attribute is a partial of a module-level function: it survives deep copies, pickling, `torch.compile` and wrappers such
as DistributedDataParallel, and changes neither classes nor state dicts.
"""

import copy
import functools
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from hf_tl.backbones.stages.adapted import adapted_weight, has_adapters, is_adapter, plain_name
from hf_tl.backbones.stages.stage import Stage, list_stages, trainable_parameters
from hf_tl.errors import StageError, name_some
from hf_tl.strategy import BatchNorm, Norm, Phase, TrainableStages

_FIXED = "_hf_tl_fixed_parameters"


def freeze(
    model: nn.Module,
    trainable_stages: TrainableStages | Phase = 1,
    norm: Norm = "frozen",
    batch_norm: BatchNorm = "update",
) -> tuple[Stage, ...]:
    """Train the given stages of `model` and freeze all others, in place.

    A frozen stage gets no gradients and stays in inference mode: BatchNorm uses and keeps its running statistics, and
    dropout and stochastic depth are off. Another call replaces the selection. Parameters that the architecture itself
    never trains (fixed position embeddings) stay fixed.

    Args:
        model: Image classifier of transformers, or a timm model.
        trainable_stages: Number of trailing stages to train (1 is the head), `"all"`, or stage names; see
            `hf_tl.backbones.stages.stage.trainable_parameters`. Alternatively a phase, which also sets `norm` and
            `batch_norm`. With LoRA in the phase, the adapters in the model train in place of these stages' weights; a
            saved model holds none.
        norm: Normalization layers of frozen stages: `"frozen"` keeps them fixed, `"affine"` trains their scale and
            shift, `"adapt"` also updates their running statistics.
        batch_norm: BatchNorm in trained stages: `"update"` normalizes by batch statistics and updates the running
            statistics; `"keep"` stays in inference mode and uses the stored statistics. Scale and shift train in both
            cases.

    Returns:
        Frozen stages, in forward order.

    Raises:
        StageError: `model` has no such stage, or its head was frozen by other means.
        ConfigError: `norm` or `batch_norm` has another value.

    >>> import timm
    >>> model = timm.create_model("test_resnet")
    >>> [stage.name for stage in freeze(model, trainable_stages=2)]
    ['stem', 'layer1', 'layer2', 'layer3']
    >>> model.train().layer1.training, model.layer4.training
    (False, True)
    """
    phase = Phase(1, epochs=1, norm=norm, batch_norm=batch_norm)  # checks both
    if isinstance(trainable_stages, Phase):
        phase, trainable_stages = trainable_stages, trainable_stages.trainable_stages
    norm, batch_norm, is_adapted = phase.norm, phase.batch_norm, phase.is_adapted and has_adapters(model)
    stages = list_stages(model)
    parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
    chosen = trainable_parameters(stages, trainable_stages)
    trainable = _adapters(parameters, chosen, stages[-1]) if is_adapted else _weights(parameters, chosen)
    if _FIXED not in model.__dict__:
        model.__dict__[_FIXED] = _fixed_parameters(parameters, stages[-1])
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in trainable and plain_name(name) not in model.__dict__[_FIXED])
    frozen = tuple(stage for stage in stages if trainable.isdisjoint(stage.parameter_names))
    for module in modules.values():
        _unlock(module)
    for stage in stages:
        for name in _inference_modules(stage, trainable, modules, whole=stage in frozen):
            _lock(modules[name])
        if batch_norm == "keep" and stage not in frozen:
            for name in stage.module_names:
                if has_statistics(modules[name]):
                    _lock(modules[name])
    if norm != "frozen":
        for stage in stages[:-1] if is_adapted else frozen:
            _release_norms([modules[name] for name in stage.module_names], model.__dict__[_FIXED], parameters, norm)
    model.train(model.training)
    return frozen


def _weights(parameters: Iterable[str], chosen: frozenset[str]) -> frozenset[str]:
    """Return the chosen weights by their names in the model, whose layers may hold adapters."""
    return frozenset(name for name in parameters if not is_adapter(name) and plain_name(name) in chosen)


def _adapters(parameters: Iterable[str], chosen: frozenset[str], head: Stage) -> frozenset[str]:
    """Return the parameters of the head, and of the adapters of the chosen weights."""
    adapters = [name for name in parameters if is_adapter(name) and adapted_weight(name) in chosen]
    return frozenset((*adapters, *head.parameter_names))


def fix_unused(model: nn.Module, pixel_values: Tensor) -> list[str]:
    """Freeze permanently the parameters that the logits do not depend on, and return their names.

    Some classifiers contain parts that only pretraining uses, such as mask tokens or an unread pooling of the class
    token. These never get a gradient, so DistributedDataParallel would wait for them forever, or search for them at
    every step (`find_unused_parameters`). The pass runs on a copy of the model, so that no running statistics change.

    Args:
        model: Image classifier of transformers, possibly frozen by `freeze`.
        pixel_values: Images of shape (batch, channels, height, width); at least two, for BatchNorm.
    """
    parameters = dict(model.named_parameters())
    if _FIXED not in model.__dict__:
        model.__dict__[_FIXED] = _fixed_parameters(parameters, list_stages(model)[-1])
    candidates = parameters.keys() - model.__dict__[_FIXED]
    trained = copy.deepcopy(model)
    for module in trained.modules():
        _unlock(module)
    for name in candidates:
        trained.get_parameter(name).requires_grad_(True)
    with torch.random.fork_rng([pixel_values.device] if pixel_values.is_cuda else []):
        nodes = _graph(trained.train()(pixel_values=pixel_values).logits)
    unused = sorted(name for name in candidates if get_gradient_edge(trained.get_parameter(name)).node not in nodes)
    model.__dict__[_FIXED] = model.__dict__[_FIXED].union(unused)
    for name in unused:
        parameters[name].requires_grad_(False)
    return unused


def fixed_parameters(model: nn.Module) -> frozenset[str]:
    """Return the parameters that no phase trains: fixed by the architecture, or found by `fix_unused`."""
    return model.__dict__.get(_FIXED, frozenset())


def frozen_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of `model` that training must not change, by their names in the model without adapters.

    Returns:
        Parameters without gradients, and buffers of modules that are kept in inference mode.
    """
    tensors: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    for prefix, module in model.named_modules():
        if is_frozen(module):
            for name, buffer in module.named_buffers(recurse=False):
                tensors[f"{prefix}.{name}" if prefix else name] = buffer
    return {plain_name(name): tensor for name, tensor in tensors.items()}


def is_norm(module: nn.Module) -> bool:
    """Return whether `module` is a normalization layer: named so, with parameters of at most one dimension.

    timm and transformers define dozens of such classes (`LayerNorm2d`, `BatchNormAct2d`, `RmsNorm`).
    """
    return "norm" in type(module).__name__.lower() and all(p.ndim <= 1 for p in module.parameters())


def has_statistics(module: nn.Module) -> bool:
    """Return whether `module` keeps running statistics of its inputs, as BatchNorm does."""
    return isinstance(getattr(module, "running_mean", None), Tensor)


def _fixed_parameters(parameters: Mapping[str, nn.Parameter], head: Stage) -> frozenset[str]:
    fixed = frozenset(name for name, parameter in parameters.items() if not parameter.requires_grad)
    if fixed.issuperset(head.parameter_names):
        # fixed by the user or by the architecture? They look the same, but no architecture fixes its head
        raise StageError(
            f"expected a head that trains, found requires_grad=False on {name_some(head.parameter_names)}; "
            "call model.requires_grad_(True) before hf_tl.freeze"
        )
    return fixed


def _graph(output: Tensor) -> set[Node]:
    """Collect the nodes of the autograd graph that a backward pass from `output` reaches."""
    nodes: set[Node] = set()
    ahead = [output.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            ahead += [following for following, _ in node.next_functions]
    return nodes


def _inference_modules(
    stage: Stage, trainable: frozenset[str], modules: Mapping[str, nn.Module], *, whole: bool
) -> Iterator[str]:
    """Yield the modules of `stage` to keep in inference mode: all, or those whose parameters are all frozen."""
    for name in stage.module_names:
        owned = [f"{name}.{parameter}" for parameter, _ in modules[name].named_parameters()]
        if whole or (owned and trainable.isdisjoint(owned)):
            yield name


def _release_norms(
    modules: list[nn.Module], fixed: frozenset[str], parameters: Mapping[str, nn.Parameter], norm: Norm
) -> None:
    never_trained = {id(parameter) for name, parameter in parameters.items() if plain_name(name) in fixed}
    for module in modules:
        if is_norm(module):
            if norm == "adapt":
                _unlock(module)
            for parameter in module.parameters():
                parameter.requires_grad_(id(parameter) not in never_trained)


def _stay_in_inference_mode(module: nn.Module, mode: bool = True) -> nn.Module:
    """Replace `nn.Module.train`: pass the mode on to children (adapting norms follow it), keep the module's own."""
    module.training = False
    for child in module.children():
        child.train(mode)
    return module


def _lock(module: nn.Module) -> None:
    module.__dict__["train"] = functools.partial(_stay_in_inference_mode, module)
    module.training = False


def is_frozen(module: nn.Module) -> bool:
    """Return whether `freeze` keeps this module in inference mode."""
    train = module.__dict__.get("train")
    return isinstance(train, functools.partial) and train.func is _stay_in_inference_mode


def _unlock(module: nn.Module) -> None:
    if is_frozen(module):
        del module.__dict__["train"]
