"""Backbones of transformers' own classes, and any checkpoint that its Auto classes load."""

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from hf_tl.backbones.preprocessing import Preprocessing
from hf_tl.backbones.provenance import UNRECORDED, config_origin, saved_origin, saved_record
from hf_tl.backbones.repository import check_checkpoint, check_config, check_needs_no_code
from hf_tl.backbones.saved_weights import damaged_download
from hf_tl.backbones.stages import list_stages
from hf_tl.errors import ModelError, name_some
from hf_tl.record import LearnedFrom, Origin
from hf_tl.record.origin import HeadState, Kind
from hf_tl.reporting.console import quiet_transformers

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel


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
    keeps_head = False
    if pretrained:
        model, has_head = _load_weights(name, config, revision, trust_remote_code)
        keeps_head = has_head and known_labels == list(labels)
    else:
        model = _initialize(config, labels, image_size, trust_remote_code)
    if pretrained and known_labels != list(labels):
        reset_head(model)
    if pretrained and image_size is not None:
        model = _with_image_size(model, image_size)
    if not pretrained:
        return model.eval(), Origin.random(), LearnedFrom()
    return model.eval(), *_origin(name, config, revision, "kept" if keeps_head else "new")


def _origin(name: str, config: "PreTrainedConfig", revision: str | None, head: HeadState) -> tuple[Origin, LearnedFrom]:
    """Return the origin of a checkpoint's weights, and the images that they were trained on."""
    hub_name, commit = (None, None) if Path(name).exists() else (name, commit_of(name, revision))
    if getattr(config, "hf_tl", None):
        return _trained_origin(name, config, hub_name, commit, head)
    settings = getattr(config, "pretrained_cfg", None) or {}
    kind: Kind = "folder" if hub_name is None else "hub"
    return Origin(kind, name=hub_name, revision=commit, license=settings.get("license"), head=head), LearnedFrom()


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


def commit_of(name: str, revision: str | None = None) -> str | None:
    """Return the commit of a Hub repository in the local cache; None for a folder."""
    from huggingface_hub import try_to_load_from_cache

    if Path(name).exists():
        return None
    files = (try_to_load_from_cache(name, file, revision=revision) for file in ("config.json", "model.safetensors"))
    return next((Path(file).parent.name for file in files if isinstance(file, str)), None)


def _load_weights(
    name: str, config: "PreTrainedConfig", revision: str | None, trust_remote_code: bool
) -> tuple["PreTrainedModel", bool]:
    """Load a checkpoint in float32: half-precision weights would lose small updates, and autocast is as fast.

    Returns:
        Model, and whether the checkpoint contains the head.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForImageClassification

    try:
        with quiet_transformers():
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
            f"the weights of {name!r} are a pickle that cannot be read as tensors alone: it would run code, or is "
            "damaged; do not trust it, or ask its author for model.safetensors"
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
            labels = [config.id2label[index] for index in range(config.num_labels)]
            return _initialize(config, labels, None, False).state_dict()
        return kind(copy.deepcopy(config)).state_dict()


def _initialize(
    config: "PreTrainedConfig", labels: Sequence[str], image_size: int | None, trust_remote_code: bool
) -> "PreTrainedModel":
    """Draw random weights with the initialization of the library that the architecture comes from."""
    if config.model_type != "timm_wrapper":
        if image_size is not None:
            _set_image_size(config, image_size)
        return model_from_config(config, trust_remote_code)
    from hf_tl.backbones.timm import create_timm_backbone

    model, _ = create_timm_backbone(
        config.architecture, labels, pretrained=False, model_args=config.model_args, image_size=image_size
    )
    size = config.pretrained_cfg["input_size"] if image_size is None else model.config.pretrained_cfg["input_size"]
    model.config.pretrained_cfg = {**config.pretrained_cfg, "input_size": size}
    return model


def model_from_config(config: "PreTrainedConfig", trust_remote_code: bool = False) -> "PreTrainedModel":
    """Build the image classifier of a config, in float32, with random weights.

    Raises:
        ModelError: A required package is missing, or the config is not that of an image classifier.
    """
    from transformers import AutoModelForImageClassification

    try:
        return AutoModelForImageClassification.from_config(
            config, dtype=torch.float32, trust_remote_code=trust_remote_code
        )
    except (ImportError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"transformers cannot build an image classifier of type {config.model_type}: {reason}"
        ) from error


def _set_image_size(config: "PreTrainedConfig", image_size: int) -> bool:
    """Write an image size into a config, in place; return whether the config has one."""
    vision = getattr(config, "vision_config", config)
    if not hasattr(vision, "image_size"):
        return False
    vision.image_size = [image_size] * 2 if isinstance(vision.image_size, list | tuple) else image_size
    return True


def _with_image_size(model: "PreTrainedModel", image_size: int) -> "PreTrainedModel":
    """Return the model for another image size; its own method interpolates position embeddings.

    Raises:
        ModelError: Other weights depend on the image size.
    """
    if model.config.model_type == "timm_wrapper":
        from hf_tl.backbones.timm import set_image_size

        set_image_size(model, image_size)
        return model
    config = copy.deepcopy(model.config)
    if not _set_image_size(config, image_size):
        return model
    resized = type(model)(config)
    weights = model.state_dict()
    for name, expected in resized.state_dict().items():
        if weights[name].shape != expected.shape:
            weights[name] = _interpolate(model, name, expected, image_size)
    resized.load_state_dict(weights)
    return resized


def _interpolate(model: "PreTrainedModel", name: str, expected: torch.Tensor, image_size: int) -> torch.Tensor:
    """Interpolate the position embeddings `name` with `interpolate_pos_encoding` of the module that holds them.

    The method gets NaN tokens, which matter only for their shape. If it uses their values, the result is not finite and
    is rejected.
    """
    modules, path, width = dict(model.named_modules()), name, expected.shape[-1]
    while path and not hasattr(modules.get(path), "interpolate_pos_encoding"):
        path = path.rpartition(".")[0]
    tokens = result = expected.new_full((1, expected.numel() // width, width), torch.nan)
    if path:
        with contextlib.suppress(RuntimeError, TypeError):  # the method has another signature
            result = modules[path].interpolate_pos_encoding(tokens, image_size, image_size)
    if result.numel() != expected.numel() or not result.isfinite().all():
        raise ModelError(
            f"{type(model).__name__} cannot take --image_size {image_size}: the shape of {name} depends on the size; "
            "leave it out, or name another model"
        )
    return result.detach().reshape(expected.shape)


def reset_head(model: "PreTrainedModel") -> None:
    """Draw new weights for the head; all other weights are unchanged."""
    modules = dict(model.named_modules())
    for name in list_stages(model)[-1].module_names:
        if hasattr(modules[name], "reset_parameters"):
            modules[name].reset_parameters()


@dataclass(frozen=True)
class ProcessorPipeline:
    """transformers image processor as a transform of one image."""

    processor: "BaseImageProcessor"

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Convert an RGB image to a tensor of shape (channels, height, width)."""
        return self.processor(image, return_tensors="pt")["pixel_values"][0]

    def without_resizing(self) -> "ProcessorPipeline":
        """Return a copy without the steps that change the size of an image."""
        processor = copy.deepcopy(self.processor)
        for step in ("do_resize", "do_center_crop", "do_pad"):
            if getattr(processor, step, None):
                setattr(processor, step, False)
        return ProcessorPipeline(processor)

    def __repr__(self) -> str:
        return " ".join(str(self.processor.to_dict()).split())


def processor_preprocessing(processor: "BaseImageProcessor") -> Preprocessing:
    """Read the preprocessing from a transformers image processor.

    Raises:
        ModelError: The processor's output is not `pixel_values` alone, or not a batch of images.
    """
    evaluation = ProcessorPipeline(processor)
    inputs = processor(Image.new("RGB", (64, 64)), return_tensors="pt")
    pixel_values = inputs.get("pixel_values")
    if set(inputs) != {"pixel_values"} or pixel_values.ndim != 4 or not pixel_values.is_floating_point():
        shape = "" if pixel_values is None else f" of the shape {tuple(pixel_values.shape)}, {pixel_values.dtype}"
        raise ModelError(
            "expected an image processor that gives pixel_values of the shape (images, channels, height, width), "
            f"float32; found {type(processor).__name__}, which gives {name_some(inputs)}{shape}; choose another model"
        )
    channels, height, width = pixel_values.shape[1:]
    settings: dict[str, Any] = processor.to_dict()
    resample = settings.get("resample")
    return Preprocessing(
        input_size=(channels, height, width),
        interpolation=Image.Resampling(resample).name.lower() if resample is not None else "bilinear",
        evaluation=evaluation,
        processor=processor,
        unresized=evaluation.without_resizing(),
        evaluation_settings={key: settings[key] for key in ("size", "crop_size", "crop_pct") if settings.get(key)},
    )


def load_processor(
    name: str, image_size: int | None = None, revision: str | None = None, trust_remote_code: bool = False
) -> "BaseImageProcessor":
    """Load the image processor of a checkpoint, optionally for another image size.

    Raises:
        ModelError: The checkpoint has none.
    """
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        check_needs_no_code(name, error)
        raise ModelError(f"{name!r} has no image processor (preprocessor_config.json): {error}") from error
    if image_size is not None:
        square = {"height": image_size, "width": image_size}
        processor.size = {"shortest_edge": image_size} if "shortest_edge" in dict(processor.size) else square
        if getattr(processor, "crop_size", None):
            processor.crop_size = square
    return processor


def load_config(name: str, revision: str | None, trust_remote_code: bool) -> "PreTrainedConfig":
    """Load the config of a Hub id or a local directory.

    Raises:
        ModelError: There is none, or the checkpoint fails the safety checks of `hf_tl.backbones.repository`.
    """
    import timm
    from transformers import AutoConfig

    import hf_tl.classics  # noqa: F401  registers with timm the architectures that such a checkpoint may name

    check_checkpoint(name, revision)
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        check_needs_no_code(name, error)
        hint = f"; did you mean timm:{name}?" if timm.is_model(name.partition(".")[0]) else ""
        raise ModelError(
            f"no model {name!r}: {error}\n--model takes a Hub id (user/name), a local directory with config.json, "
            f"or timm:ARCHITECTURE{hint}"
        ) from error
    if not trust_remote_code:
        check_config(config.to_dict(), name)
    if config.model_type == "timm_wrapper":
        # timm's own push leaves num_classes in model_args, which would then be passed twice
        model_args = getattr(config, "model_args", None) or {}
        config.model_args = {key: value for key, value in model_args.items() if key != "num_classes"} or None
    return config


def _has_head(model: "PreTrainedModel", report: dict[str, Any], name: str) -> bool:
    """Check that only the head's weights are new; return whether the checkpoint contains them too."""
    head = set(list_stages(model)[-1].parameter_names)
    new = {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}
    if foreign := sorted(new - head):
        raise ModelError(f"the weights of {name!r} do not fit {type(model).__name__}: {name_some(foreign)} missing")
    return not new
