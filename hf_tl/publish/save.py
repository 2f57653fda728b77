"""Saving of a model: trained weights are written as soon as training ends, because later steps may fail.

The timm config that transformers writes loses new label names, keeps `model_args: null`, which crashes timm, and
prefixes keys that timm cannot load; see `_timm_config`.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hf_tl.abstention.detector import FILE as ABSTENTION_FILE
from hf_tl.backbones.libraries.class_names import class_names
from hf_tl.backbones.libraries.preprocessing import Preprocessing
from hf_tl.backbones.stages.adapted import is_adapter
from hf_tl.backbones.weights.saved_model import weight_files, weights_digest
from hf_tl.card.card import render_card
from hf_tl.card.figures.draw import FIGURES, draw_figures
from hf_tl.card.figures.mistakes import Example
from hf_tl.checkpoints.checkpoint import FOLDER as CHECKPOINTS
from hf_tl.errors import PublishError, SaveError, name_some
from hf_tl.lora.adapter import FILES as ADAPTER_FILES
from hf_tl.lora.adapter import Adapter
from hf_tl.lora.layers import plain_tensors
from hf_tl.publish.checks import CARD_FILE
from hf_tl.publish.record import config_record
from hf_tl.record import RECORD_FILE, LearnedFrom, RunRecord, read_record, write_record
from hf_tl.reporting.console import quiet_transformers
from hf_tl.runtime.origin import FILE as EXPORT_FILE
from hf_tl.storage.documents import read_json
from hf_tl.storage.folders import partial_folder, replace_files
from hf_tl.storage.writing import writing

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
LOCAL_KEYS = ("_name_or_path", "_commit_hash")
LOCAL_PRETRAINED_KEYS = ("file", "source")
"""Config keys with the path of a timm checkpoint on this machine; they are not published."""
TOLERANCE = 1e-4
"""Largest difference between logits before saving and after loading, relative to the largest logit."""


def commit_model(
    model: "PreTrainedModel",
    preprocessing: Preprocessing,
    record: RunRecord,
    learned: LearnedFrom,
    output_dir: str | Path,
    tensors: "Mapping[str, Tensor] | None" = None,
    adapter: Adapter | None = None,
) -> RunRecord:
    """Write the weights with all files needed to load them, and their record.

    Each file replaces an older one by a rename, the record last: a process killed at any moment leaves a model that
    loads. Only where the folder holds another network, a process killed between the renames leaves none.

    Args:
        model: Model on any device.
        preprocessing: Preprocessing of `model`.
        record: Record of the run so far.
        learned: Training images of the weights; stored beside the record, and not published.
        output_dir: Folder to save in; created if it does not exist.
        tensors: Tensors of `model` to write in place of its own.
        adapter: Adapter to write beside the model.

    Returns:
        The record with the digest of the weights.

    Raises:
        SaveError: The disk is full or read-only; the folder is unchanged.
    """
    folder = Path(output_dir)
    model.config.hf_tl = config_record(record)
    with writing(f"the model in {folder}"), partial_folder(folder / "model") as partial:
        _write_checkpoint(model, preprocessing, partial, tensors or {})
        record = replace(record, weights_digest=weights_digest(partial, weight_files(partial)))
        if adapter is not None:
            adapter.write(partial, record.start.base_model)
        learned.save(partial)
        write_record(record, partial)
        # the config of another network must not be read with the new weights
        stale = () if _is_same_network(partial, folder) else (RECORD_FILE, "config.json")
        old = (*WEIGHT_FILES, "preprocessor_config.json", CARD_FILE, *FIGURES, *ADAPTER_FILES, ABSTENTION_FILE)
        replace_files(partial, folder, last=(*WEIGHT_FILES, "config.json", RECORD_FILE), obsolete=old, stale=stale)
    return record


def _is_same_network(first: Path, second: Path) -> bool:
    """Return whether the configs of two folders differ in the record of hf_tl alone."""
    configs = []
    for folder in (first, second):
        try:
            configs.append({**read_json(folder / "config.json"), "hf_tl": None})
        except (OSError, ValueError, TypeError):  # there is none, or it is damaged
            return False
    return bool(configs[0] == configs[1])


def complete_run(record: RunRecord, output_dir: str | Path, examples: Sequence[Example] = ()) -> RunRecord:
    """Write card, figures and the complete record of a saved model, and remove its checkpoints.

    Args:
        record: Record with the results.
        output_dir: Folder of the model.
        examples: Images for the card, with the user's permission.

    Returns:
        The complete record.

    Raises:
        SaveError: The disk is full or read-only; the model is unchanged.
    """
    folder, record = Path(output_dir), replace(record, status="complete")
    with writing(f"the card in {folder}"), partial_folder(folder / "card") as partial:
        _write_card(record, partial, examples)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (partial / "config.json").write_text(_json({**config, "hf_tl": config_record(record)}), encoding="utf-8")
        write_record(record, partial)
        replace_files(partial, folder, last=("config.json", RECORD_FILE), obsolete=FIGURES)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return record


def rewrite_card(output_dir: str | Path) -> Path:
    """Write the card and the figures of a saved model again, from its record.

    A card with other content is kept beside it, as `README.old.md` (`README.old-2.md`, …).

    Args:
        output_dir: Folder of a model that hf_tl saved.

    Returns:
        Path of the card.

    Raises:
        PublishError: The folder holds no record, or a damaged one, or is an export; nothing is changed.
        SaveError: The disk is full or read-only.
    """
    folder = Path(output_dir)
    if (folder / EXPORT_FILE).is_file():
        raise PublishError(
            f"expected the folder of a saved model, found an export in {folder}: name the model's folder"
        )
    record = read_record(folder)
    card = folder / CARD_FILE
    with writing(f"the card in {folder}"), partial_folder(folder / "card") as partial:
        _write_card(record, partial)
        if card.is_file() and card.read_bytes() != (partial / CARD_FILE).read_bytes():
            os.replace(card, _free_name(folder))
        replace_files(partial, folder)
    return card


def write_beside(folder: Path, write: Callable[[Path], None], record: RunRecord | None) -> None:
    """Write files beside a saved model, with its record and its card, each in place of an older one by a rename.

    Args:
        folder: Folder of the model.
        write: Function that writes the files into a folder.
        record: New record of the model; None for a model without one, which gets no card.

    Raises:
        SaveError: The disk is full or read-only; the model is unchanged.
    """
    with writing(f"files beside the model in {folder}"), partial_folder(folder / "beside") as partial:
        write(partial)
        if record is not None:
            _write_card(record, partial)
            write_record(record, partial)
        replace_files(partial, folder, last=(RECORD_FILE,))


def _free_name(folder: Path) -> Path:
    number = 1
    while (file := folder / f"README.old{'' if number == 1 else f'-{number}'}.md").exists():
        number += 1
    return file


def _write_card(record: RunRecord, folder: Path, examples: Sequence[Example] = ()) -> None:
    card = render_card(record)
    draw_figures(record, folder, examples)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


def check_reload(model: "PreTrainedModel", preprocessing: Preprocessing, folder: Path) -> None:
    """Load a saved model with plain transformers, and with timm for a timm backbone, and compare it with `model`.

    Both run on the device of `model`, in float32 without TF32 or bfloat16 shortcuts.

    Raises:
        SaveError: A weight, a label, the preprocessing or the logits differ.
    """
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    code: dict[str, Any] = {"trust_remote_code": True} if _runs_own_code(model) else {}
    with quiet_transformers():
        loaded, report = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True, **code)
        processor = AutoImageProcessor.from_pretrained(folder, **code)
    saved, expected = loaded.state_dict(), model.state_dict()
    changed = {name for name in expected if name not in saved or not torch.equal(saved[name], expected[name].cpu())}
    changed |= {*report["missing_keys"], *report["unexpected_keys"]}
    if changed:
        raise SaveError(f"the saved weights are not those in memory: {name_some(sorted(changed))}")
    if (names := class_names(loaded.config)) != (labels := class_names(model.config)):
        raise SaveError(f"the saved labels are {name_some(names)}; expected {name_some(labels)}")
    image = _noise(preprocessing.input_size)
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    if not torch.equal(pixels[0], preprocessing.evaluation(image)):
        raise SaveError("the saved image processor gives other pixels than the evaluation transform")
    pixels = pixels.to(model.device)
    with full_precision():
        reference = _logits(model, pixels)
        _check_logits(_logits(loaded.to(model.device), pixels), reference, "transformers")
        if model.config.model_type == "timm_wrapper":
            import timm

            network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval().to(model.device)
            with torch.inference_mode():
                _check_logits(network(pixels), reference, "timm")
            if list(network.pretrained_cfg["label_names"]) != labels:
                raise SaveError(f"timm reads other labels: {name_some(network.pretrained_cfg['label_names'])}")


def _runs_own_code(model: "nn.Module") -> bool:
    """Return whether the model's class is code of its repository, which the user allowed to run."""
    return type(model).__module__.startswith("transformers_modules.")


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 products in float32: no TF32 on GPUs, no bfloat16 on CPUs."""
    switches = _precision_switches(torch.backends)
    before = [getattr(owner, name) for owner, name, _ in switches]
    try:
        for owner, name, precise in switches:
            setattr(owner, name, precise)
        yield
    finally:
        for (owner, name, _), value in zip(switches, before, strict=True):
            setattr(owner, name, value)


def _precision_switches(backends: Any) -> list[tuple[Any, str, Any]]:
    """Return for each switch of torch its owner, its name, and its value for products in float32."""
    if not hasattr(backends.cudnn, "conv"):  # torch before 2.9, which keeps float32 on CPUs
        return [(backends.cuda.matmul, "allow_tf32", False), (backends.cudnn, "allow_tf32", False)]
    owners = (
        backends.cuda.matmul, backends.cudnn, backends.cudnn.conv, backends.mkldnn, backends.mkldnn.matmul,
        backends.mkldnn.conv,
    )  # fmt: skip
    return [(owner, "fp32_precision", "ieee") for owner in owners]


def _write_checkpoint(
    model: "PreTrainedModel", preprocessing: Preprocessing, folder: Path, tensors: "Mapping[str, Tensor]"
) -> None:
    is_timm = model.config.model_type == "timm_wrapper"
    state = {name: t for name, t in {**plain_tensors(model), **tensors}.items() if not is_adapter(name)}
    if is_timm:
        from safetensors.torch import save_file

        # copies: a safetensors file cannot hold shared tensors (CoaT), and both libraries read every name
        named = {
            name.removeprefix("timm_model."): tensor.detach().cpu().clone().contiguous()
            for name, tensor in state.items()
        }
        save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
        config = _timm_config(model)
    else:
        if _runs_own_code(model) and model._auto_class is None:  # else transformers 5.3 saves it without its code
            type(model).register_for_auto_class("AutoModelForImageClassification")
        with quiet_transformers():
            model.save_pretrained(folder, state_dict=state)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if preprocessing.processor is not None:
            preprocessing.processor.save_pretrained(folder)
    config = {key: value for key, value in config.items() if key not in LOCAL_KEYS}
    (folder / "config.json").write_text(_json(config), encoding="utf-8")


def _timm_config(model: "PreTrainedModel") -> dict[str, Any]:
    """Return a config that both transformers and timm read.

    timm takes the whole file for its `pretrained_cfg` unless it contains one, and fails on `model_args: null`.
    transformers takes the class names from `label_names`, in the order of the logits.
    """
    config = model.config.to_dict()
    labels = class_names(model.config)
    settings = dict(config["pretrained_cfg"])
    for key in LOCAL_PRETRAINED_KEYS:
        settings.pop(key, None)
    if not config.get("model_args"):
        config.pop("model_args", None)
    return {
        **config,
        "architectures": [type(model).__name__],
        "dtype": str(model.dtype).removeprefix("torch."),
        "num_classes": len(labels),
        "label_names": labels,
        "pretrained_cfg": settings,
    }


def _noise(input_size: tuple[int, int, int]) -> Any:
    """Draw an image of random pixels, larger than the input, so that the check covers resizing and cropping."""
    import numpy as np
    from PIL import Image

    channels, height, width = input_size
    pixels = np.random.default_rng(0).integers(0, 256, (height + 16, width + 32, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")


def _logits(model: "PreTrainedModel", pixels: torch.Tensor) -> torch.Tensor:
    from hf_tl.backbones.stages.modules import inference

    with inference(model):
        return model(pixel_values=pixels.to(model.device)).logits.float().cpu()


def _check_logits(logits: torch.Tensor, expected: torch.Tensor, library: str) -> None:
    difference = (logits.float() - expected).abs().max().item()
    if not difference <= TOLERANCE * max(1.0, expected.abs().max().item()):
        raise SaveError(f"the saved model gives other logits when {library} loads it (difference {difference:.2g})")


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    """Turn sets and tuples into lists, the only values of a config that JSON lacks."""
    if isinstance(value, set | frozenset | tuple):
        return sorted(value)
    raise TypeError(f"a record holds plain values only, found {type(value).__name__}")
