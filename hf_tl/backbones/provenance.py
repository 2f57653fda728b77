"""Where a model in memory has its weights from, and which images they learned from; stated by the loader."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tl.backbones.freezing import digest
from hf_tl.errors import ModelError
from hf_tl.record import RECORD_FILE, LearnedFrom, LearnedSplit, Origin, RunRecord
from hf_tl.record.codec import RecordError, decode

if TYPE_CHECKING:
    from torch import nn

_PROVENANCE = "_hf_tl_provenance"
UNKNOWN_IMAGES = LearnedSplit("a dataset that is not recorded", "train", 0)
UNRECORDED = LearnedFrom((UNKNOWN_IMAGES,), unknown=(UNKNOWN_IMAGES,))
"""What a model learned from that hf_tl trained and that came without its record."""


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


def trained_origin(record: RunRecord, **place: Any) -> Origin:
    """Return the origin of a model that hf_tl trained.

    Args:
        record: Of its training.
        place: `name` and `revision` of a model of the Hub, and the state of its `head`.
    """
    return Origin(
        "trained",
        **place,
        weights_digest=record.weights_digest,
        strategy=record.strategy.name,
        data=record.data.name,
        earlier=record.origin,
    )


def file_origin(origin: Origin, weights: str) -> tuple[Origin, LearnedFrom]:
    """Follow a weights file to the model that hf_tl trained, if it lies in such a model's folder.

    Args:
        origin: Of the file alone.
        weights: The file.
    """
    folder = Path(weights).parent
    if not Path(weights).name.startswith("model") or not (folder / RECORD_FILE).is_file():
        return origin, LearnedFrom()
    record = saved_record(str(folder))
    assert record is not None, "the file was seen"
    return trained_origin(record, head=origin.head), LearnedFrom.read(record.learned_from, folder)


def config_origin(saved: Mapping[str, Any]) -> Origin | None:
    """Read the origin that `config.json` holds under `hf_tl`; None where it states none that can be read."""
    try:
        return decode(Origin, saved["origin"], "the origin in config.json") if "origin" in saved else None
    except RecordError:
        return None


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
        return UNRECORDED if _is_trained(name, revision) else LearnedFrom()
    return LearnedFrom.read(record.learned_from, Path(name) if Path(name).is_dir() else None)


def _is_trained(name: str, revision: str | None) -> bool:
    """Return whether the config of a model states that hf_tl has loaded or trained it."""
    from transformers.utils import cached_file

    try:
        file = cached_file(name, "config.json", revision=revision, _raise_exceptions_for_missing_entries=False)
        return file is not None and bool(json.loads(Path(file).read_text(encoding="utf-8")).get("hf_tl"))
    except (OSError, ValueError, AttributeError):
        return False  # the loader states what is wrong with it
