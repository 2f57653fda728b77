"""Provenance of a model in memory: the origin of its weights and their training images, recorded by the loader."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tl.backbones.weights.digest import digest
from hf_tl.backbones.weights.saved_model import weight_files, weights_digest
from hf_tl.errors import ModelError
from hf_tl.record import RECORD_FILE, LearnedFrom, LearnedSplit, Origin, RunRecord
from hf_tl.record.codec import RecordError, decode
from hf_tl.storage.documents import read_json

if TYPE_CHECKING:
    from torch import nn

_PROVENANCE = "_hf_tl_provenance"
UNKNOWN_IMAGES = LearnedSplit("a dataset that is not recorded", "train", 0)
UNRECORDED = LearnedFrom((UNKNOWN_IMAGES,), unknown=(UNKNOWN_IMAGES,))
"""Training images of a model that hf_tl trained but whose record is missing."""


@dataclass(frozen=True)
class Provenance:
    """Origin and training images of the weights of a model in memory."""

    origin: Origin
    learned: LearnedFrom = field(default_factory=LearnedFrom)
    weights_digest: str = ""
    """Digest of the model's tensors when the origin was recorded."""


def set_provenance(model: "nn.Module", origin: Origin, learned: LearnedFrom | None = None) -> None:
    """Record the origin of the weights of `model`; to be called by the function that loaded them."""
    model.__dict__[_PROVENANCE] = Provenance(origin, learned or LearnedFrom(), digest(model.state_dict()))


def provenance_of(model: "nn.Module") -> Provenance:
    """Return the provenance of the weights of `model`.

    The origin is `memory` for weights that changed since they were loaded, and for a model that hf_tl did not load.
    Their training images are then unknown.
    """
    known: Provenance | None = model.__dict__.get(_PROVENANCE)
    if known is None:
        return _provenance_by_config(model)
    if digest(model.state_dict()) != known.weights_digest:
        return Provenance(known.origin.changed_in_memory(), known.learned)
    return known


def _provenance_by_config(model: "nn.Module") -> Provenance:
    """Return what the config of a model states that other code loaded: hf_tl may have trained it."""
    config = getattr(model, "config", None)
    saved = getattr(config, "hf_tl", None)
    if not saved:
        return Provenance(Origin("memory"))
    name = str(getattr(config, "name_or_path", "") or "")
    learned = learned_from(name) if Path(name, RECORD_FILE).is_file() else UNRECORDED
    return Provenance(Origin("memory", earlier=Origin("trained", earlier=config_origin(saved))), learned)


def saved_origin(record: RunRecord, folder: Path | None, **place: Any) -> tuple[Origin, LearnedFrom]:
    """Return the origin and the training images of a saved model.

    Args:
        record: Record of its training.
        folder: Folder of the model. None for a Hub model.
        place: `name` and `revision` of a Hub model, and the state of its `head`.

    Returns:
        Where the weights in the folder are not those of the record, the origin is `memory`, and further training images
        are unknown.
    """
    origin, learned = trained_origin(record, **place), LearnedFrom.read(record.learned_from, folder)
    if folder is None or record.weights_digest in (None, weights_digest(folder, weight_files(folder))):
        return origin, learned
    return origin.changed_in_memory(), learned.union(UNRECORDED)


def trained_origin(record: RunRecord, **place: Any) -> Origin:
    """Return the origin of a model that hf_tl trained.

    Args:
        record: Record of its training.
        place: `name` and `revision` of a Hub model, and the state of its `head`.
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
    """Return the origin and training images of a weights file in the folder of a model that hf_tl trained.

    Args:
        origin: Origin of the file alone, returned for any other file.
        weights: Path of the weights file.
    """
    folder = Path(weights).parent
    if not Path(weights).name.startswith("model") or not (folder / RECORD_FILE).is_file():
        return origin, LearnedFrom()
    record = saved_record(str(folder))
    assert record is not None, "the file was seen"
    return saved_origin(record, folder, head=origin.head)


def config_origin(saved: Mapping[str, Any]) -> Origin | None:
    """Read the origin from the `hf_tl` entry of `config.json`; return None if there is no readable one."""
    try:
        return decode(Origin, saved["origin"], "the origin in config.json")
    except (RecordError, LookupError, TypeError):
        return None


def saved_record(name: str, revision: str | None = None) -> RunRecord | None:
    """Read the record of a saved model from its folder or from the Hub.

    Returns:
        Record, or None for a model that hf_tl did not train.

    Raises:
        ModelError: The record cannot be read or downloaded.
    """
    from transformers.utils import cached_file

    try:
        file = cached_file(name, RECORD_FILE, revision=revision, _raise_exceptions_for_missing_entries=False)
        return None if file is None else RunRecord.from_json(read_json(Path(file)), name)
    except (OSError, ValueError) as error:
        raise ModelError(f"{RECORD_FILE} of {name}, the record of its training, cannot be read: {error}") from error


def learned_from(name: str, revision: str | None = None) -> LearnedFrom:
    """Return the images that a saved model was trained on, as far as its folder or the Hub records them.

    Raises:
        ModelError: As in `saved_record`, or the file of digests is damaged.
    """
    record = saved_record(name, revision)
    if record is None:
        return UNRECORDED if _is_trained(name, revision) else LearnedFrom()
    return LearnedFrom.read(record.learned_from, Path(name) if Path(name).is_dir() else None)


def _is_trained(name: str, revision: str | None) -> bool:
    """Return whether the config of a model states that hf_tl loaded or trained it."""
    from transformers.utils import cached_file

    try:
        file = cached_file(name, "config.json", revision=revision, _raise_exceptions_for_missing_entries=False)
        return file is not None and bool(read_json(Path(file)).get("hf_tl"))
    except (OSError, ValueError, AttributeError):
        return False  # the loader reports what is wrong with the config


def commit_of(name: str, revision: str | None = None) -> str | None:
    """Return the commit of a Hub repository in the local cache; None for a folder."""
    from huggingface_hub import try_to_load_from_cache

    if Path(name).exists():
        return None
    files = (try_to_load_from_cache(name, file, revision=revision) for file in ("config.json", "model.safetensors"))
    return next((Path(file).parent.name for file in files if isinstance(file, str)), None)
