"""Fully sharded data parallelism (FSDP2): each process keeps its part of the parameters, gradients and moments.

The launcher asks for it, as for Accelerate's own, and hf_tl does it with torch's `fully_shard`
(https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html). Accelerate's own is not used: on CPUs it
leaves FSDP out without a word, and in a `TimmWrapper` it finds no layers to gather one by one. The stages tell them for
every network, and the same code runs on CPUs and on GPUs.
"""

import contextlib
import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from hf_tl.backbones.freezing import is_part, whole
from hf_tl.backbones.modules import inference, outermost_modules
from hf_tl.backbones.stages import Stage
from hf_tl.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ASKED = "ACCELERATE_USE_FSDP"
_REFUSED = {
    ("FSDP_OFFLOAD_PARAMS", "true"): "--fsdp_offload_params: parameters stay on the devices",
    ("FSDP_ACTIVATION_CHECKPOINTING", "true"): "--fsdp_activation_checkpointing: give hf-tl --gradient_checkpointing",
    ("FSDP_RESHARD_AFTER_FORWARD", "false"): "--fsdp_reshard_after_forward false: parameters are always freed",
}


class ShardedAccelerator(Accelerator):
    """Leaves a model as `shard` made it, where Accelerator would wrap it in DistributedDataParallel."""

    def prepare_model(
        self, model: nn.Module, device_placement: bool | None = None, evaluation_mode: bool = False
    ) -> nn.Module:
        """Add mixed precision and `torch.compile`, as for any model."""
        return super().prepare_model(model, device_placement, evaluation_mode=True)

    def clip_grad_norm_(self, *arguments: Any, **options: Any) -> Tensor:
        """Scale the gradients down, and return their norm over all processes."""
        return whole(super().clip_grad_norm_(*arguments, **options))


def launcher_asks() -> bool:
    """Tell whether the launcher asks for FSDP (`accelerate launch --use_fsdp --fsdp_version 2`).

    Which layers are gathered together, and how a checkpoint is written, is not the launcher's to say.

    Raises:
        ConfigError: it asks for FSDP1, or for what hf_tl does not do.
    """
    if os.environ.get(_ASKED, "").lower() != "true":
        return False
    if (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise ConfigError(
            f"the launcher asks for FSDP{version}, which needs the parameters of a layer to be all frozen or all "
            "trained: give accelerate launch --fsdp_version 2 (FSDP_VERSION=2)"
        )
    if refused := [text for (name, value), text in _REFUSED.items() if os.environ.get(name, "").lower() == value]:
        raise ConfigError(f"the launcher asks for what hf_tl does not do; leave out {'; '.join(refused)}")
    return True


@contextlib.contextmanager
def hidden_from_accelerate() -> Iterator[None]:
    """Keep Accelerate from sharding on its own while an Accelerator is made."""
    asked = os.environ.pop(_ASKED)
    # for good: transformers would load the weights into the first process alone
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    try:
        yield
    finally:
        os.environ[_ASKED] = asked


def check_sharding(accelerator: ShardedAccelerator) -> None:
    """Check that what the launcher asked for can be.

    Raises:
        ConfigError: there is one process, or a precision or compiler that does not go with it.
    """
    if not torch.distributed.is_initialized():
        raise ConfigError(
            "the launcher asks for FSDP, but there is one process and nothing to shard over: start several (torchrun, "
            "or accelerate launch --use_fsdp --num_processes N), or leave FSDP out"
        )
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise ConfigError(
            f"under FSDP the precision is float32 or bf16, found {accelerator.mixed_precision}: fp16 would need the "
            "scale of the loss to be agreed between the processes. Give --mixed_precision bf16"
        )


def shard(
    accelerator: Accelerator, model: "PreTrainedModel", stages: Sequence[Stage], pixel_values: Tensor
) -> "PreTrainedModel":
    """Make a copy of `model` of which each process keeps a part.

    Each block of a stage (a ViT's block, a ResNet's layer) is gathered when it is computed, and freed after that. The
    stem, the head and single layers are gathered together, once for a pass. All processes get the weights of the
    main one, as under DistributedDataParallel.

    Args:
        accelerator: tells whether to shard.
        model: the classifier; it stays whole and waits in the memory of the CPU.
        stages: `list_stages(model)`.
        pixel_values: (batch, channels, height, width), any; they show which blocks are called as such.

    Returns:
        The copy, or `model` itself where nothing is sharded.
    """
    if not isinstance(accelerator, ShardedAccelerator):
        return model
    from torch.distributed.fsdp import fully_shard

    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    model.load_state_dict(broadcast(state))
    # fully_shard takes no channels_last, and moves one block after another to the device
    sharded = copy.deepcopy(model.to("cpu")).to(memory_format=torch.contiguous_format)
    modules = dict(sharded.named_modules())
    names = [name for stage in stages[1:-1] for name in outermost_modules(stage, modules)]
    blocks = [name for name in names if any(True for _ in modules[name].children())]
    for name in _called(copy.deepcopy(sharded), blocks, pixel_values.to("cpu")):
        fully_shard(modules[name], reshard_after_forward=True)
    # parts again after each pass: freezing, averages and checkpoints read and change the parts
    fully_shard(sharded, reshard_after_forward=True)
    return sharded


def _called(model: nn.Module, names: Sequence[str], pixel_values: Tensor) -> list[str]:
    """Name those modules that a pass calls. Of others it takes parts, or calls `forward`: no hook would notice."""
    called: set[str] = set()
    for name in names:
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: called.add(name))
    with inference(model):
        model(pixel_values=pixel_values)
    return [name for name in names if name in called]


def part(tensor: Any) -> Tensor:
    """Give this process's part of a tensor, in the same memory; all of a tensor that is not sharded."""
    return tensor.to_local() if is_part(tensor) else tensor


def split_like(example: Any, tensor: Tensor) -> Tensor:
    """Split a whole tensor, which every process has, as `example` is split."""
    if not is_part(example):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(example.device), example.device_mesh, example.placements, src_data_rank=None)


@torch.no_grad()
def load_whole(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put whole tensors, which every process has, into a model that may be sharded."""
    own = model.state_dict()
    for name, tensor in tensors.items():
        own[name].copy_(split_like(own[name], tensor))


def gather_optimizer(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    """Give the state of a prepared optimizer, whole on the main process; all of them must ask."""
    if not _is_sharded(model):
        return optimizer.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_optimizer_state_dict(model, optimizer.optimizer, options=options)


def scatter_optimizer(model: nn.Module, optimizer: Any, state: dict[str, Any]) -> None:
    """Put back what `gather_optimizer` gave on the main process."""
    if not _is_sharded(model):
        optimizer.load_state_dict(state)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True)
    set_optimizer_state_dict(model, optimizer.optimizer, optim_state_dict=state, options=options)


def _is_sharded(model: nn.Module) -> bool:
    return any(is_part(parameter) for parameter in model.parameters())
