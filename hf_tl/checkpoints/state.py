"""What a training must remember to go on as if nothing had happened."""

import io
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from hf_tl.errors import CheckpointError
from hf_tl.record import PhaseRecord
from hf_tl.record.codec import decode, encode

if TYPE_CHECKING:
    from accelerate import Accelerator

STATE, WEIGHTS, BEST, KEPT, OPTIMIZER, RANDOM = (
    "state.json", "weights.safetensors", "best.safetensors", "kept.safetensors", "optimizer.pt", "random.pt"
)  # fmt: skip


@dataclass
class TrainingLog:
    """What a training did, in the shape of `run.json`."""

    history: list[dict[str, Any]] = field(default_factory=list)
    phases: list[PhaseRecord] = field(default_factory=list)
    """Those that are done; in a climb, those that were kept."""
    best: dict[str, Any] | None = None
    """The evaluation whose weights are kept: the latest that is as good as the highest, up to one standard error."""
    highest: dict[str, Any] | None = None
    """The evaluation with the best metrics."""
    seconds: float = 0.0
    rungs: list[dict[str, Any]] = field(default_factory=list)
    """All stage depths that a climb tried."""
    stopped: str | None = None
    """Why a climb ended before its last stage depth."""

    @property
    def kept_phases(self) -> list[PhaseRecord]:
        """The phases that the kept weights come from: none that began after them."""
        return self.phases if self.best is None else self.phases[: self.best["phase"] + 1]


@dataclass
class TrainingState:
    """Where a training stands, between two optimizer steps."""

    step: int = 0
    """Optimizer steps done; it tells the phase and the place in the stream of images."""
    losses: list[float] = field(default_factory=list)
    """Of the steps since the last evaluation, each over all its images."""
    frozen_digest: str | None = None
    """Of the tensors that the current phase freezes, at its start; None between phases."""
    phase_seconds: float = 0.0
    uses_features: bool | None = None
    """Whether the current phase trains on cached features; None between phases."""
    kept: dict[str, Any] | None = None
    """The best evaluation of the rungs before, while another is under way."""
    kept_right: str | None = None
    """1 or 0 for each validation image: whether the rung that was kept last gets it right."""
    log: TrainingLog = field(default_factory=TrainingLog)


@dataclass(frozen=True)
class Contents:
    """What the files of a checkpoint hold."""

    state: TrainingState
    weights: Mapping[str, Tensor]
    """The tensors that some phase trains."""
    best: Mapping[str, Tensor]
    """The same tensors at the best evaluation so far; in a climb, of the rung under way."""
    kept: Mapping[str, Tensor]
    """In a climb, at the best evaluation of the rungs before."""
    optimizer: dict[str, Any] | None
    """States of optimizer, schedule, gradient scaler and average; None between phases."""
    random_states: list[dict[str, Any]]
    """Of each process, in order."""


def write_state(folder: Path, contents: Contents, identity: Mapping[str, Any]) -> None:
    """Write the files of a checkpoint.

    Args:
        folder: an empty folder.
        contents: what is written.
        identity: what must be the same when the training goes on.

    Raises:
        OSError: the disk is full or read-only.
    """
    state = {"identity": identity, **encode(contents.state)}
    (folder / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    # Python writes the bytes: the libraries hide the cause where the disk is full
    weights = {name: tensor.cpu().contiguous() for name, tensor in contents.weights.items()}
    (folder / WEIGHTS).write_bytes(save(weights))
    (folder / BEST).write_bytes(save({name: tensor.contiguous() for name, tensor in contents.best.items()}))
    if contents.kept:
        (folder / KEPT).write_bytes(save({name: tensor.contiguous() for name, tensor in contents.kept.items()}))
    (folder / RANDOM).write_bytes(_pickled(contents.random_states))
    if contents.optimizer is not None:
        (folder / OPTIMIZER).write_bytes(_pickled(contents.optimizer))


def _pickled(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def read_state(folder: Path, identity: Mapping[str, Any]) -> Contents:
    """Read the files of a whole checkpoint.

    Raises:
        CheckpointError: it is from a run with other settings, which are named.
    """
    content = json.loads((folder / STATE).read_text(encoding="utf-8"))
    recorded, expected = content.pop("identity"), json.loads(json.dumps(identity))
    different = [
        f"{name} was {recorded.get(name)!r:.200}, now {expected.get(name)!r:.200}"
        for name in {**recorded, **expected}
        if recorded.get(name) != expected.get(name)
    ]
    if different:
        raise CheckpointError(
            f"the checkpoint {folder} is of another run: {'; '.join(different[:5])}. "
            "Give the same flags and as many processes as then, or another --output_dir to start anew"
        )
    log = decode(TrainingLog, content.pop("log"), f"the log in {folder / STATE}")
    kept, optimizer = folder / KEPT, folder / OPTIMIZER
    return Contents(
        state=TrainingState(**content, log=log),
        weights=load_file(folder / WEIGHTS),
        best=load_file(folder / BEST),
        kept=load_file(kept) if kept.exists() else {},
        optimizer=torch.load(optimizer, map_location="cpu", weights_only=True) if optimizer.exists() else None,
        random_states=torch.load(folder / RANDOM, map_location="cpu", weights_only=True),
    )


def random_state(accelerator: "Accelerator") -> dict[str, Any]:
    """Take the state of this process's random numbers: Python's, torch's and the device's."""
    state: dict[str, Any] = {"python": random.getstate(), "cpu": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(accelerator.device)
    return state


def set_random_state(accelerator: "Accelerator", state: Mapping[str, Any]) -> None:
    """Put back what `random_state` took."""
    random.setstate(state["python"])
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], accelerator.device)
