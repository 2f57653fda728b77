"""Backbones of transformers' own classes, and any checkpoint that its Auto classes load."""

import copy
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch

from hf_tl.backbones.libraries.class_names import class_names
from hf_tl.backbones.libraries.configs import load_config, model_from_config, timm_settings
from hf_tl.backbones.libraries.image_size import with_image_size, write_image_size
from hf_tl.backbones.stages.head import reset_head
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.backbones.weights.license import announce_license
from hf_tl.backbones.weights.limits import settings_of, within_limits
from hf_tl.backbones.weights.pretraining import authors_pretraining, timm_pretraining, weights_of
from hf_tl.backbones.weights.provenance import UNRECORDED, commit_of, config_origin, saved_origin, saved_record
from hf_tl.backbones.weights.saved_model import damaged_download
from hf_tl.errors import ModelError, name_some
from hf_tl.record import LearnedFrom, Origin
from hf_tl.record.origin import HeadState, Kind
from hf_tl.reporting.console import quiet_transformers
from hf_tl.storage.writing import library_writing

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def load_checkpoint(
    name: str,
    labels: Sequence[str] | None,
    *,
    pretrained: bool = True,
    image_size: int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple["PreTrainedModel", Origin, LearnedFrom]:
    """Load a Hub id or a local directory with transformers' Auto classes, with a head for `labels`.

    The head of the checkpoint is kept if its labels are the same in the same order; otherwise a new one is drawn.

    Args:
        name: Hub id or directory with `config.json`, including timm checkpoints.
        labels: Class names, in the order of the logits (default: those of the checkpoint).
        pretrained: Whether to load the weights; if False, only the architecture is used.
        image_size: Height and width in pixels (default: those of the checkpoint).
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Whether code from the repository may run.

    Returns:
        Model in inference mode, origin of its weights, and the images that they are known to have been trained on.

    Raises:
        ModelError: The checkpoint cannot be found or loaded, or weights other than the head's do not fit.
    """
    config = load_config(name, revision, trust_remote_code)
    known_labels = [config.id2label.get(index) for index in range(config.num_labels)]
    labels = known_labels if labels is None else labels
    config.id2label = dict(enumerate(labels))
    has_head = keeps_head = False
    if pretrained:
        if not Path(name).exists():
            announce_license(timm_settings(config).get("license"), name)
        model, has_head = _load_weights(name, config, revision, trust_remote_code)
        keeps_head = has_head and known_labels == list(labels)
    else:
        model = _initialize(config, labels, image_size, trust_remote_code)
    if pretrained and known_labels != list(labels):
        reset_head(model)
    if pretrained and image_size is not None:
        model = with_image_size(model, image_size)
    if not pretrained:
        return model.eval(), Origin.random(), LearnedFrom()
    return model.eval(), *origin_of(name, config, revision, "kept" if keeps_head else "new", has_classifier=has_head)


def origin_of(
    name: str, config: "PreTrainedConfig", revision: str | None, head: HeadState, *, has_classifier: bool
) -> tuple[Origin, LearnedFrom]:
    """Return the origin of a checkpoint's weights, and the images that they were trained on."""
    hub_name, commit = (None, None) if Path(name).exists() else (name, commit_of(name, revision))
    if getattr(config, "hf_tl", None):
        return _trained_origin(name, config, hub_name, commit, head)
    settings = timm_settings(config)
    kind: Kind = "folder" if hub_name is None else "hub"
    if config.model_type == "timm_wrapper":
        pretraining = timm_pretraining(weights_of(config.architecture, settings.get("tag")))
    else:
        pretraining = authors_pretraining(hub_name or "", config.model_type, has_classifier=has_classifier)
    origin = Origin(kind, hub_name, commit, settings.get("license"), pretraining, head=head)
    return origin, LearnedFrom()


def _trained_origin(
    name: str, config: "PreTrainedConfig", hub_name: str | None, commit: str | None, head: HeadState
) -> tuple[Origin, LearnedFrom]:
    """Return the origin of a model that hf_tl trained, from its record.

    A model that the Trainer saved has no record, so its training images are unknown.
    """
    record = saved_record(name, commit)
    shared: dict[str, Any] = {"name": hub_name, "revision": commit, "head": head}
    if record is None:
        return Origin("trained", **shared, earlier=config_origin(config.hf_tl)), UNRECORDED
    return saved_origin(record, Path(name) if hub_name is None else None, **shared)


def _load_weights(
    name: str, config: "PreTrainedConfig", revision: str | None, trust_remote_code: bool
) -> tuple["PreTrainedModel", bool]:
    """Load a checkpoint in float32: half-precision weights would lose small updates, and autocast is as fast.

    Returns:
        Model, and whether the checkpoint contains the head.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForImageClassification

    with settings_of(name, "config.json"), within_limits(name):
        try:
            with library_writing(), quiet_transformers():
                model, report = AutoModelForImageClassification.from_pretrained(
                    name,
                    config=config,
                    dtype=torch.float32,
                    revision=revision,
                    trust_remote_code=trust_remote_code,
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                )
        except UnpicklingError as error:
            raise ModelError(
                f"expected tensors only in the weights of {name!r}, found a pickle that would run code or is damaged; "
                "do not load it, or ask its author for model.safetensors"
            ) from error
        except (OSError, ValueError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
            if not Path(name).exists() and (damaged := damaged_download(name)) is not None:
                raise ModelError(
                    f"the cached file {damaged} is damaged ({error}): delete it, and it is downloaded again"
                ) from error
            raise ModelError(f"the weights of {name!r} cannot be loaded: {error}") from error
    return model, _has_head(model, report, name)


def random_weights(kind: type["PreTrainedModel"], config: "PreTrainedConfig", seed: int) -> dict[str, torch.Tensor]:
    """Draw new random weights for a model that is not pretrained, identical on every process.

    Args:
        kind: Class of the model.
        config: Config of the model.
        seed: Random seed of the weights.

    Returns:
        State dict.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        if config.model_type == "timm_wrapper":
            return _initialize(config, class_names(config), None, False).state_dict()
        return kind(copy.deepcopy(config)).state_dict()


def _initialize(
    config: "PreTrainedConfig", labels: Sequence[str], image_size: int | None, trust_remote_code: bool
) -> "PreTrainedModel":
    """Draw random weights with the initialization of the library that the architecture comes from."""
    if config.model_type != "timm_wrapper":
        if image_size is not None:
            write_image_size(config, image_size)
        return model_from_config(config, trust_remote_code)
    from hf_tl.backbones.libraries.timm import create_timm_backbone

    model, _ = create_timm_backbone(
        config.architecture, labels, pretrained=False, model_args=config.model_args, image_size=image_size
    )
    size = config.pretrained_cfg["input_size"] if image_size is None else model.config.pretrained_cfg["input_size"]
    model.config.pretrained_cfg = {**config.pretrained_cfg, "input_size": size}
    return model


def _has_head(model: "PreTrainedModel", report: dict[str, Any], name: str) -> bool:
    """Check that only the head's weights are new; return whether the checkpoint contains them too."""
    head = set(list_stages(model)[-1].parameter_names)
    new = {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}
    if foreign := sorted(new - head):
        raise ModelError(f"the weights of {name!r} do not fit {type(model).__name__}: {name_some(foreign)} missing")
    return not new
