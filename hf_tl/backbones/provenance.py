"""Where a model in memory has its weights from, and which images they learned from; stated by the loader."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hf_tl.backbones.freezing import digest
from hf_tl.errors import ModelError
from hf_tl.record import RECORD_FILE, LearnedFrom, Origin, RunRecord

if TYPE_CHECKING:
    from torch import nn

_PROVENANCE = "_hf_tl_provenance"


@dataclass(frozen=True)
class Provenance:
    """Origin of the weights of a model in memory."""

    origin: Origin
    learned: LearnedFrom = field(default_factory=LearnedFrom)
    weights_digest: str = ""
    """Digest of the model's tensors when the origin was stated."""


def set_provenance(model: "nn.Module", origin: Origin, learned: LearnedFrom | None = None) -> None:
    """State where the weights of `model` come from; called by what put them there."""
    model.__dict__[_PROVENANCE] = Provenance(origin, learned or LearnedFrom(), digest(model.state_dict()))


def provenance_of(model: "nn.Module") -> Provenance:
    """Return where the weights of `model` come from.

    Weights that were changed since they were loaded are `memory`, as are those of a model that hf_tl did not load: what
    they learned from is not known then.
    """
    known: Provenance | None = model.__dict__.get(_PROVENANCE)
    if known is None:
        return Provenance(Origin("memory"))
    if digest(model.state_dict()) != known.weights_digest:
        return Provenance(known.origin.changed_in_memory(), known.learned)
    return known


def saved_record(name: str, revision: str | None = None) -> RunRecord | None:
    """Read the record of a saved model from its folder or the Hub.

    Returns:
        None for a model that hf_tl did not train.

    Raises:
        ModelError: The record cannot be read, or fetched.
    """
    from transformers.utils import cached_file

    try:
        file = cached_file(name, RECORD_FILE, revision=revision, _raise_exceptions_for_missing_entries=False)
        return None if file is None else RunRecord.from_json(json.loads(Path(file).read_text(encoding="utf-8")), name)
    except (OSError, ValueError) as error:
        raise ModelError(f"{RECORD_FILE} of {name}, the record of its training, cannot be read: {error}") from error


def learned_from(name: str, revision: str | None = None) -> LearnedFrom:
    """Return which images a saved model learned from, as far as its folder, or the Hub, says.

    Raises:
        ModelError: As `saved_record`; or the file of digests is damaged.
    """
    record = saved_record(name, revision)
    if record is None:
        return LearnedFrom()
    return LearnedFrom.read(record.learned_from, Path(name) if Path(name).is_dir() else None)
