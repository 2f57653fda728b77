"""State of a training from which it resumes exactly."""

import io
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from hf_tl.errors import CheckpointError, unreadable
from hf_tl.record import InterpolationRecord, PhaseRecord
from hf_tl.record.codec import decode, encode
from hf_tl.record.parts import PrecisionRecord
from hf_tl.record.run import ONE_STANDARD_ERROR
from hf_tl.storage.documents import read_json
from hf_tl.strategy import Strategy

if TYPE_CHECKING:
    from accelerate import Accelerator

STATE, WEIGHTS, BEST, KEPT, START, OPTIMIZER, RANDOM = (
    "state.json", "weights.safetensors", "best.safetensors", "kept.safetensors", "start.safetensors", "optimizer.pt",
    "random.pt",
)  # fmt: skip


OF_FILES = (SafetensorError, UnpicklingError, EOFError)
"""Errors of the libraries that read tensors."""


@dataclass
class TrainingLog:
    """Log of a training, in the format of `run.json`."""

    history: list[dict[str, Any]] = field(default_factory=list)
    phases: list[PhaseRecord] = field(default_factory=list)
    """Finished phases; in an escalation, those that were kept."""
    best: dict[str, Any] | None = None
    """Evaluation whose weights are selected: the latest within one standard error of the best metric."""
    highest: dict[str, Any] | None = None
    """Evaluation with the best metrics."""
    seconds: float = 0.0
    rungs: list[dict[str, Any]] = field(default_factory=list)
    """All stage depths that an escalation tried."""
    stopped: str | None = None
    """Reason why an escalation ended before its last stage depth."""
    zero_shot: dict[str, Any] | None = None
    """Results of a head from class names before training, by split: `images`, `metrics` and `interval`."""
    interpolation: InterpolationRecord | None = None
    """Interpolation of the selected weights with those before fine-tuning."""

    @property
    def kept_phases(self) -> list[PhaseRecord]:
        """Phases up to the one of the kept weights."""
        return self.phases if self.best is None else self.phases[: self.best["phase"] + 1]


@dataclass(frozen=True)
class Outcome:
    """Outcome of a training, by the Accelerate loop or under transformers' Trainer."""

    strategy: Strategy
    """Strategy, all phases of it."""
    log: TrainingLog
    images: int
    """Number of images that it trains on."""
    selection: str = ONE_STANDARD_ERROR
    """Rule of the model selection, as in `RunRecord`."""

    @property
    def carried_out(self) -> Strategy:
        """Strategy up to the phase of the kept weights."""
        return self.strategy.done(len(self.log.kept_phases))

    @property
    def is_from_random(self) -> bool:
        """Return whether the weights descend from random weights that a phase drew."""
        kept = [phase.recipe for phase in self.log.kept_phases] or self.strategy.phases[:1]
        return any(phase.from_random_weights for phase in kept)


@dataclass
class TrainingState:
    """State of a training between two optimizer steps."""

    step: int = 0
    """Optimizer steps done, which determine the phase and the position in the stream of images."""
    losses: list[float] = field(default_factory=list)
    """Losses of the steps since the last evaluation, each averaged over all images of its step."""
    frozen_digest: str | None = None
    """Digest of the tensors that the current phase freezes, at its start; None between phases."""
    phase_seconds: float = 0.0
    uses_features: bool | None = None
    """Whether the current phase trains on cached features; None between phases."""
    frozen_precision: PrecisionRecord | None = None
    """Precision of the frozen part in the current phase; None between phases, and if it runs with the rest."""
    step_precision: PrecisionRecord | None = None
    """Precision of the steps of the current phase; None between phases, and if the launcher chose it."""
    kept: dict[str, Any] | None = None
    """Best evaluation of the previous stage depths, while another one is trained."""
    kept_right: str | None = None
    """1 or 0 for each validation image: whether the last stage depth that was kept classifies it correctly."""
    log: TrainingLog = field(default_factory=TrainingLog)

    def end_phase(self, step: int) -> None:
        """Move to the step after a phase, and forget what belongs to the phase."""
        self.step, self.frozen_digest, self.phase_seconds = step, None, 0.0
        self.uses_features = self.frozen_precision = self.step_precision = None


@dataclass(frozen=True)
class Contents:
    """Contents of the files of a checkpoint."""

    state: TrainingState
    weights: Mapping[str, Tensor]
    """Tensors that some phase trains."""
    best: Mapping[str, Tensor]
    """The same tensors at the best evaluation so far; in an escalation, at that of the current stage depth."""
    kept: Mapping[str, Tensor]
    """The same tensors at the best evaluation of the previous stage depths, in an escalation."""
    start: Mapping[str, Tensor]
    """The same tensors before fine-tuning, if the result is interpolated with them."""
    optimizer: dict[str, Any] | None
    """States of optimizer, schedule, gradient scaler and weight average; None between phases."""
    random_states: list[dict[str, Any]]
    """States of the random number generators of each process, in order."""


def write_state(folder: Path, contents: Contents, identity: Mapping[str, Any]) -> None:
    """Write the files of a checkpoint.

    Args:
        folder: Empty folder.
        contents: Contents to write.
        identity: What the checkpoint and the run that resumes from it must share.

    Raises:
        OSError: The disk is full or read-only.
    """
    state = {"identity": identity, **encode(contents.state)}
    (folder / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    # Python writes the bytes, because the libraries hide the cause when the disk is full
    weights = {name: tensor.cpu().contiguous() for name, tensor in contents.weights.items()}
    (folder / WEIGHTS).write_bytes(save(weights))
    (folder / BEST).write_bytes(save({name: tensor.contiguous() for name, tensor in contents.best.items()}))
    for name, tensors in ((KEPT, contents.kept), (START, contents.start)):
        if tensors:
            (folder / name).write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    (folder / RANDOM).write_bytes(_pickled(contents.random_states))
    if contents.optimizer is not None:
        (folder / OPTIMIZER).write_bytes(_pickled(contents.optimizer))


def _pickled(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def read_state(folder: Path, identity: Mapping[str, Any]) -> Contents:
    """Read the files of a complete checkpoint.

    Raises:
        CheckpointError: The checkpoint is from a run with other settings, which the message names; or its files hold
            something else than a checkpoint's.
    """
    try:
        return _read_contents(folder, identity)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, *OF_FILES) as error:
        raise CheckpointError(
            f"expected the state of a training in {folder}, found {unreadable(error)}; resume from another checkpoint, "
            "or start a new run in another --output_dir"
        ) from error


def _read_contents(folder: Path, identity: Mapping[str, Any]) -> Contents:
    content = read_json(folder / STATE)
    recorded, expected = content.pop("identity"), json.loads(json.dumps(identity))
    different = [
        f"{name:.80} was {recorded.get(name)!r:.200}, now {expected.get(name)!r:.200}"
        for name in {**recorded, **expected}
        if recorded.get(name) != expected.get(name)
    ]
    if different:
        raise CheckpointError(
            f"the checkpoint {folder} is from another run: {'; '.join(different[:5])}. "
            "Resume with the flags and the number of processes of that run, or start a new run in another --output_dir"
        )
    optimizer = folder / OPTIMIZER
    return Contents(
        state=decode(TrainingState, content, f"the state in {folder / STATE}"),
        weights=load_file(folder / WEIGHTS),
        best=load_file(folder / BEST),
        kept=_read_tensors(folder / KEPT),
        start=_read_tensors(folder / START),
        optimizer=torch.load(optimizer, map_location="cpu", weights_only=True) if optimizer.exists() else None,
        random_states=torch.load(folder / RANDOM, map_location="cpu", weights_only=True),
    )


def _read_tensors(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a file; none if it does not exist."""
    return load_file(file) if file.exists() else {}


def random_state(accelerator: "Accelerator") -> dict[str, Any]:
    """Return the states of this process's random number generators: Python's, torch's and the device's."""
    state: dict[str, Any] = {"python": random.getstate(), "cpu": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(accelerator.device)
    return state


def set_random_state(accelerator: "Accelerator", state: Mapping[str, Any]) -> None:
    """Restore the states that `random_state` returned."""
    random.setstate(state["python"])
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], accelerator.device)
