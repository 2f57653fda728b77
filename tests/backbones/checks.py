"""Checks for every backbone: frozen tensors keep their bits, and a saved model loads in both libraries."""

import shutil
from pathlib import Path

import torch
from backbones.reload import Reloader
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_tl.backbones.libraries.preprocessing import Preprocessing
from hf_tl.backbones.stages.freezing import freeze
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.publish.save import _write_checkpoint, check_reload


def check_frozen(model: nn.Module, trainable_stages: int) -> None:
    """Freeze all but the last stages, and check gradients and modes after `model.train()`."""
    stages = list_stages(model)
    frozen, trained = stages[:-trainable_stages], stages[-trainable_stages:]
    assert freeze(model, trainable_stages) == frozen
    model.train()
    modules = dict(model.named_modules())
    assert [name for stage in frozen for name in stage.module_names if modules[name].training] == []
    assert [name for stage in trained for name in stage.module_names if not modules[name].training] == []
    trains = {name for stage in trained for name in stage.parameter_names}
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trains


def check_step(
    model: nn.Module, inputs: dict[str, Tensor], trainable_stages: int, untrained: tuple[str, ...] = ()
) -> None:
    """Take one step: every frozen tensor keeps its bits, and every trained one changes except the `untrained`.

    A shift of all inputs of a batch norm has no effect. Its gradient consists of rounding errors, which may sum to
    zero. It changes where the norm uses its stored statistics.
    """
    check_frozen(model, trainable_stages)
    stages = list_stages(model)
    kept = {n for stage in stages[:-trainable_stages] for n in (*stage.parameter_names, *stage.buffer_names)}
    trains = {name for stage in stages[-trainable_stages:] for name in stage.parameter_names}
    moved, reached = moved_by_step(model, inputs)
    assert sorted(moved & kept) == []
    if removed := (trains & reached) - moved:
        moved |= removed & moved_by_step(model.eval(), inputs)[0]
    assert trains - moved == {name for name in trains if any(part in name for part in untrained)}


def moved_by_step(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[set[str], set[str]]:
    """Take one step and undo it.

    Returns:
        Names of the tensors that changed, and of those with a gradient, even a zero one.
    """
    before = {name: tensor.detach().clone() for name, tensor in tensors(model).items()}
    train_step(model, inputs)
    moved = {name for name, tensor in tensors(model).items() if not torch.equal(tensor, before[name])}
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    with torch.no_grad():
        for name, tensor in tensors(model).items():
            tensor.copy_(before[name])
    model.zero_grad()
    return moved, reached


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def train_step(model: nn.Module, inputs: dict[str, Tensor]) -> None:
    """Take one step at a learning rate at which the smallest gradient changes its parameter."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    logits = model(**inputs)[0]
    nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1]).backward()
    assert all(parameter.grad.isfinite().all() for parameter in trained if parameter.grad is not None)
    torch.optim.SGD(trained, lr=1e12).step()


def check_saved(
    model: PreTrainedModel,
    preprocessing: Preprocessing,
    inputs: dict[str, Tensor],
    reloader: Reloader,
    folder: Path,
    *,
    takes_images: bool = True,
) -> None:
    """Save a model, load it in another process with transformers (and timm, for a timm backbone), and compare."""
    is_timm = model.config.model_type == "timm_wrapper"
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    _write_checkpoint(model, preprocessing, folder, {})
    if takes_images:
        check_reload(model, preprocessing, folder)
    reloaded, logits = reloader.load(folder, inputs)
    shutil.rmtree(folder)  # pytest would keep gigabytes
    with torch.no_grad():
        # like the loaded ones: torch's kernels for a frozen linear layer may differ in the last bit (CaiT)
        expected = model.requires_grad_(True).eval()(**inputs)[0]
    assert expected.shape == (len(expected), len(labels))
    assert expected.isfinite().all()
    assert logits.keys() == ({"transformers", "timm"} if is_timm else {"transformers"})
    assert [library for library in logits if not torch.equal(logits[library], expected)] == []
    assert reloaded["labels"] == labels == reloaded.get("timm_labels", labels)
    assert bool(reloaded["hf_tl"]) is reloader.has_classics
