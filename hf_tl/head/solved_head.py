"""A phase with a solved head: logistic regression on the head's inputs from the frozen network."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hf_tl.backbones.stages.modules import inference
from hf_tl.backbones.stages.stage import Stage
from hf_tl.config import TrainingConfig
from hf_tl.errors import ConfigError, TrainingError, name_some
from hf_tl.features.inputs import PhaseInputs
from hf_tl.head.head_solver import solve_head
from hf_tl.head.tuning import head_module
from hf_tl.phase import Phase
from hf_tl.processes.sharding import load_whole
from hf_tl.processes.together import on_main_process
from hf_tl.reporting.console import progress_bar, say
from hf_tl.storage.rows import new_rows
from hf_tl.storage.writing import temporary_place, writing

if TYPE_CHECKING:
    from accelerate import Accelerator


def linear_head(model: nn.Module, head: Stage) -> nn.Linear:
    """Return the linear layer that a phase can solve.

    Raises:
        ConfigError: The head is not linear.
    """
    instead = "choose --head_solver adamw"
    module = head_module(model, head, "--head_solver lbfgs", instead)
    if type(module) is not nn.Linear or module.bias is None:
        layers = " ".join(str(module).split())
        raise ConfigError(
            f"--head_solver lbfgs needs a head that is one linear layer with a bias, found {layers:.200}: {instead}"
        )
    return module


def solve_phase(
    accelerator: "Accelerator",
    model: nn.Module,
    head: nn.Linear,
    inputs: PhaseInputs,
    phase: Phase,
    config: TrainingConfig,
    num_workers: int,
    groups: np.ndarray | None = None,
) -> tuple[float, dict[str, Any]]:
    """Solve the head on the main process, and load the solution on all processes.

    Args:
        accelerator: Accelerator; its processes share the pass over the images.
        model: Model on the accelerator's device, whole or sharded.
        head: Result of `linear_head`.
        inputs: Images, or features of the frozen prefix.
        phase: Augmentation, label smoothing and class weights.
        config: Seed, batch size, and number of views of each image.
        num_workers: Number of loader processes.
        groups: Number of the group of each image (images,), held out together. Defaults to independent images.

    Returns:
        The mean training loss, and the search results for the record.

    Raises:
        ConfigError: The logits of the model are not the output of the head.
        TrainingError: An input of the head is not finite, or the disk is too full for all inputs.
    """
    from accelerate.utils import broadcast

    views = 1 if phase.augmentation == "none" else config.cached_views or 1
    images = len(inputs.train)  # type: ignore[arg-type]
    stored: list[Tensor] = []  # on the main process
    on_main_process(accelerator, lambda: stored.append(_allocate(views * images, head)))
    for view in range(views):
        rows = [features[view * images : (view + 1) * images] for features in stored]
        labels = store_inputs(accelerator, model, head, inputs, view, config, num_workers, *rows)
    solved = [torch.zeros(parameter.shape, device=accelerator.device) for parameter in (head.weight, head.bias)]

    def solve() -> tuple[float, dict[str, Any]]:
        solution = solve_head(
            stored.pop(),
            labels,
            head.out_features,
            views=views,
            groups=None if groups is None else torch.as_tensor(groups),
            label_smoothing=phase.label_smoothing,
            balanced=phase.class_weights == "balanced",
            seed=config.seed,
            overwrite=True,
        )
        say(None, f"Solved the head: {solution}")
        for tensor, value in zip(solved, (solution.weight, solution.bias), strict=True):
            tensor.copy_(value)
        return solution.train_loss, solution.to_record()

    result = on_main_process(accelerator, solve)
    load_whole(head, dict(zip(("weight", "bias"), broadcast(solved), strict=True)))
    return result


def _allocate(images: int, head: nn.Linear) -> Tensor:
    """Return memory for the inputs of the head (images, values)."""
    size = f"{4e-9 * images * head.in_features:,.1f} GB"
    what = f"the inputs of the head for {images:,} images ({size}) in {temporary_place()}"
    with writing(what, TrainingError, "set TMPDIR to another folder, or choose --head_solver adamw"):
        return new_rows(images, head.in_features, torch.float32, head.weight.device)


def store_inputs(
    accelerator: "Accelerator",
    model: nn.Module,
    head: nn.Linear,
    inputs: PhaseInputs,
    view: int,
    config: TrainingConfig,
    num_workers: int,
    stored: Tensor | None = None,
) -> Tensor:
    """Compute the head's input for each training image, in one pass in inference mode.

    The inputs are written to `stored` in the order of the images (images, values), on processes that have it.

    Returns:
        Labels (images,) in the same order, on all processes.
    """
    images = len(inputs.train)  # type: ignore[arg-type]
    loader = accelerator.prepare_data_loader(
        DataLoader(
            inputs.train,
            batch_size=config.per_device_eval_batch_size,
            sampler=[(view, index) for index in range(images)],
            collate_fn=inputs.collate,
            num_workers=num_workers,
            generator=torch.Generator().manual_seed(config.seed),
        )
    )
    labels: list[Tensor] = []
    calls: list[tuple[Tensor, Tensor]] = []
    first = 0
    hook = head.register_forward_hook(lambda module, arguments, output: calls.append((arguments[0], output)))
    hidden = not accelerator.is_main_process
    try:
        with (
            inference(model),
            progress_bar(total=images, desc="Inputs of the head", unit="image", disable=hidden) as progress,
        ):
            for batch in loader:
                with accelerator.autocast():
                    logits = inputs.logits_of(model, batch)
                (head_input, output), *others = calls
                calls.clear()
                rows, label, index = accelerator.gather_for_metrics(
                    (head_input.float(), batch["labels"], batch["index"])
                )
                _check_finite(rows, index)
                if others or head_input.ndim != 2 or not torch.equal(output.float(), logits.float()):
                    raise ConfigError(
                        "--head_solver lbfgs needs a head that maps one feature vector per image to the logits, "
                        f"found an input of shape {tuple(head_input.shape)}: choose --head_solver adamw"
                    )
                if stored is not None:
                    stored[first : first + len(rows)] = rows
                first += len(rows)
                labels.append(label)
                progress.update(len(rows))
    finally:
        hook.remove()
    return torch.cat(labels).clone()


def _check_finite(rows: Tensor, index: Tensor) -> None:
    wrong = index[~rows.flatten(1).isfinite().all(1)].tolist()
    if wrong:
        raise TrainingError(
            "features of the head must be finite, and are not for the images in these rows of the training split: "
            f"{name_some(sorted(wrong))}. Check these images"
        )
