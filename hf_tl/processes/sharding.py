"""Fully sharded data parallelism (FSDP2): each process keeps a part of the parameters, gradients and moments.

The launcher enables it with Accelerate's settings, and hf_tl applies torch's `fully_shard`
(https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html). Accelerate's own sharding is not used: on CPUs
it is silently disabled, and in a `TimmWrapper` it finds no layers to gather one by one. The stages define these layers
for every network, and the same code runs on CPUs and on GPUs.
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

from hf_tl.backbones.stages.modules import inference, is_sharded, outermost_modules
from hf_tl.backbones.stages.stage import Stage
from hf_tl.backbones.weights.digest import is_part, whole
from hf_tl.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ASKED = "ACCELERATE_USE_FSDP"
_REFUSED = {
    ("FSDP_OFFLOAD_PARAMS", "true"): "--fsdp_offload_params (parameters stay on the devices)",
    ("FSDP_ACTIVATION_CHECKPOINTING", "true"): "--fsdp_activation_checkpointing (use --gradient_checkpointing)",
    ("FSDP_RESHARD_AFTER_FORWARD", "false"): "--fsdp_reshard_after_forward false (parameters are always freed)",
}


class ShardedAccelerator(Accelerator):
    """Accelerator for a model that `shard` has prepared, which must not be wrapped in DistributedDataParallel."""

    def prepare_model(
        self, model: nn.Module, device_placement: bool | None = None, evaluation_mode: bool = False
    ) -> nn.Module:
        """Apply mixed precision and `torch.compile`, as for any model."""
        return super().prepare_model(model, device_placement, evaluation_mode=True)

    def clip_grad_norm_(self, *arguments: Any, **options: Any) -> Tensor:
        """Clip the gradients, and return their norm over all processes."""
        return whole(super().clip_grad_norm_(*arguments, **options))


def launcher_asks() -> bool:
    """Return whether the launcher asks for FSDP (`accelerate launch --use_fsdp --fsdp_version 2`).

    hf_tl, not the launcher, decides which layers are gathered together and how a checkpoint is written.

    Raises:
        ConfigError: The launcher asks for FSDP1, or for an option that hf_tl does not support.
    """
    if os.environ.get(_ASKED, "").lower() != "true":
        return False
    if (version := os.environ.get("FSDP_VERSION", "1")) != "2":
        raise ConfigError(
            f"expected FSDP2, found FSDP{version}, which needs the parameters of a layer to be all frozen or all "
            "trained: add accelerate launch --fsdp_version 2 (FSDP_VERSION=2)"
        )
    if refused := [text for (name, value), text in _REFUSED.items() if os.environ.get(name, "").lower() == value]:
        raise ConfigError(f"hf_tl does not support these settings of the launcher: leave out {'; '.join(refused)}")
    return True


@contextlib.contextmanager
def hidden_from_accelerate() -> Iterator[None]:
    """Disable Accelerate's own sharding while an Accelerator is created."""
    asked = os.environ.pop(_ASKED)
    # not restored: transformers would load the weights only into the first process
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    try:
        yield
    finally:
        os.environ[_ASKED] = asked


def check_sharding(accelerator: ShardedAccelerator) -> None:
    """Check the launcher's request for FSDP.

    Raises:
        ConfigError: There is one process, or a precision or compiler that FSDP does not support.
    """
    if not torch.distributed.is_initialized():
        raise ConfigError(
            "FSDP needs several processes, found one: launch several (torchrun, or accelerate launch --use_fsdp "
            "--num_processes N), or leave out FSDP"
        )
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise ConfigError(
            f"FSDP needs the precision float32 or bf16, found {accelerator.mixed_precision}: launch with bf16"
        )


def shard(
    accelerator: Accelerator, model: "PreTrainedModel", stages: Sequence[Stage], pixel_values: Tensor
) -> "PreTrainedModel":
    """Create a copy of `model` of which each process keeps a part.

    Each block of a stage (a ViT's block, a ResNet's layer) is gathered when it is computed, and freed afterwards. The
    stem, the head and single layers are gathered together, once per pass. All processes get the weights of the main
    one, as under DistributedDataParallel.

    Args:
        accelerator: Accelerator; its class determines whether to shard.
        model: Classifier. It stays unsharded, in the memory of the CPU.
        stages: Result of `list_stages(model)`.
        pixel_values: Any input (batch, channels, height, width), which shows which blocks are called as modules.

    Returns:
        The copy, or `model` itself without sharding.
    """
    if not isinstance(accelerator, ShardedAccelerator):
        return model
    from torch.distributed.fsdp import fully_shard

    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    model.load_state_dict(broadcast(state))
    # fully_shard does not support channels_last, and moves one block after another to the device
    sharded = copy.deepcopy(model.to("cpu")).to(memory_format=torch.contiguous_format)
    modules = dict(sharded.named_modules())
    names = [name for stage in stages[1:-1] for name in outermost_modules(stage, modules)]
    blocks = [name for name in names if any(True for _ in modules[name].children())]
    for name in _called(copy.deepcopy(sharded), blocks, pixel_values.to("cpu")):
        fully_shard(modules[name], reshard_after_forward=True)
    # sharded again after each pass: freezing, averages and checkpoints read and change the parts
    fully_shard(sharded, reshard_after_forward=True)
    return sharded


def _called(model: nn.Module, names: Sequence[str], pixel_values: Tensor) -> list[str]:
    """Return the modules that a pass calls. For others it uses parts of them or `forward`, which bypasses hooks."""
    called: set[str] = set()
    for name in names:
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: called.add(name))
    with inference(model):
        model(pixel_values=pixel_values)
    return [name for name in names if name in called]


def part(tensor: Any) -> Tensor:
    """Return this process's part of a tensor, in the same memory; an unsharded tensor is returned whole."""
    return tensor.to_local() if is_part(tensor) else tensor


def split_like(example: Any, tensor: Tensor) -> Tensor:
    """Shard a whole tensor, which every process has, like `example`."""
    if not is_part(example):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(example.device), example.device_mesh, example.placements, src_data_rank=None)


@torch.no_grad()
def load_whole(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load whole tensors, which every process has, into a model that may be sharded."""
    own = model.state_dict()
    for name, tensor in tensors.items():
        own[name].copy_(split_like(own[name], tensor))


def gather_optimizer(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    """Gather the state of a prepared optimizer on the main process. All processes must call this."""
    if not is_sharded(model):
        return optimizer.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_optimizer_state_dict(model, optimizer.optimizer, options=options)


def scatter_optimizer(model: nn.Module, optimizer: Any, state: dict[str, Any]) -> None:
    """Restore the state that `gather_optimizer` returned on the main process."""
    if not is_sharded(model):
        optimizer.load_state_dict(state)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True)
    set_optimizer_state_dict(model, optimizer.optimizer, optim_state_dict=state, options=options)
