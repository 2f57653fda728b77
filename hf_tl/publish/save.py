"""Saving: a plain checkpoint that loads in transformers, timm and hf_tl, and proves it before it is called saved.

What transformers writes for a timm model loses new label names, keeps `model_args: null`, on which timm dies, and
prefixes keys that timm cannot load; see `_timm_config`.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from hf_tl.backbones.preprocessing import Preprocessing
from hf_tl.card.card import render_card
from hf_tl.card.examples import Example
from hf_tl.card.figures import FIGURES, draw_figures
from hf_tl.checkpoints.checkpoint import FOLDER as CHECKPOINTS
from hf_tl.errors import ConfigError, SaveError, name_some
from hf_tl.publish.checks import CARD_FILE, weight_files, weights_digest
from hf_tl.publish.record import config_record
from hf_tl.record import RECORD_FILE, RunRecord, read_record, write_record

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODEL_FILES = (
    "config.json", "model.safetensors", "model.safetensors.index.json", "preprocessor_config.json", CARD_FILE,
    *FIGURES,
)  # fmt: skip
"""What an earlier run may have left: the image processor of another model would be taken for this one's."""
LOCAL_KEYS = ("_name_or_path", "_commit_hash")
LOCAL_PRETRAINED_KEYS = ("file", "source")
"""Where a timm checkpoint was read from on this machine; not to be published."""
TOLERANCE = 1e-4
"""Between logits before saving and after loading, relative to the largest."""


def save_run(
    model: "PreTrainedModel",
    preprocessing: Preprocessing,
    record: RunRecord,
    output_dir: str | Path,
    examples: Sequence[Example] = (),
) -> Path:
    """Save a trained model with its record, card and figures.

    All files are written into a folder inside `output_dir`, the model is loaded again from there with plain
    transformers (and with timm for a timm backbone) and compared, and only then are the files moved into
    `output_dir`, the record last.

    Args:
        model: on any device; it is not changed, but for the record in its config.
        preprocessing: that of `model`.
        record: see `hf_tl.publish.record`.
        output_dir: made where it does not exist.
        examples: images for the card, which the user allowed.

    Returns:
        The folder.

    Raises:
        SaveError: the disk is full or read-only, or the saved model is not the one in memory.
    """
    folder = Path(output_dir)
    model.config.hf_tl = config_record(record)
    with _committed(folder) as partial:
        _write_checkpoint(model, preprocessing, partial)
        check_reload(model, preprocessing, partial)
        _write_card(record, partial, examples)
        write_record(record.of_weights(weights_digest(partial, weight_files(partial))), partial)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)  # of a run that is finished now
    return folder


def rewrite_card(output_dir: str | Path) -> Path:
    """Write the card and the figures of a saved model again, from its record.

    A card that says anything else is kept beside it, as `README.old.md` (`README.old-2.md`, …).

    Args:
        output_dir: a folder that hf_tl saved a model in.

    Returns:
        The file of the card.

    Raises:
        PublishError: the folder holds no record, or one that a card cannot be written from; nothing is changed then.
        SaveError: the disk is full or read-only.
    """
    folder = Path(output_dir)
    record = read_record(folder)
    card = folder / CARD_FILE
    try:
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
            _write_card(record, Path(partial))
            if card.is_file() and card.read_bytes() != (Path(partial) / CARD_FILE).read_bytes():
                os.replace(card, _free_name(folder))
            for file in Path(partial).iterdir():
                os.replace(file, folder / file.name)
    except OSError as error:
        raise SaveError(f"the card in {folder} could not be written: {error.strerror or error}") from error
    return card


def _free_name(folder: Path) -> Path:
    number = 1
    while (file := folder / f"README.old{'' if number == 1 else f'-{number}'}.md").exists():
        number += 1
    return file


def _write_card(record: RunRecord, folder: Path, examples: Sequence[Example] = ()) -> None:
    card = render_card(record)
    draw_figures(record, folder, examples)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


def check_output_dir(output_dir: str | Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Check, before any work, that a run may be saved in `output_dir`.

    Args:
        output_dir: it need not exist.
        overwrite: whether a run that it holds may be replaced.
        resume: whether a run that it holds is to be finished.

    Raises:
        ConfigError: it holds another run or model, is a file, or cannot be written to.
    """
    folder = Path(output_dir)
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise ConfigError(f"--output_dir {folder} cannot be made: {nearest} is a file; name a folder")
    held = [name for name in (RECORD_FILE, "config.json", "model.safetensors") if (folder / name).exists()]
    if held and not overwrite:
        raise ConfigError(
            f"--output_dir {folder} holds another run, which is finished ({name_some(held)}); name another folder, or "
            "replace it with --overwrite_output_dir"
        )
    if (folder / CHECKPOINTS).exists() and not (overwrite or resume):
        raise ConfigError(
            f"--output_dir {folder} holds a run that is not finished; go on with --resume_from_checkpoint auto, name "
            "another folder, or start anew with --overwrite_output_dir"
        )
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise ConfigError(f"--output_dir {folder} cannot be written to: {error.strerror}") from error


def check_reload(model: "PreTrainedModel", preprocessing: Preprocessing, folder: Path) -> None:
    """Load a saved model with plain transformers, and with timm for a timm backbone, and compare it with `model`.

    Raises:
        SaveError: a weight, a label, the preprocessing or the logits differ.
    """
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    with _quiet():
        loaded, report = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
        loaded.eval()
        processor = AutoImageProcessor.from_pretrained(folder)
    saved, expected = loaded.state_dict(), model.state_dict()
    changed = {name for name in expected if name not in saved or not torch.equal(saved[name], expected[name].cpu())}
    changed |= {*report["missing_keys"], *report["unexpected_keys"]}
    if changed:
        raise SaveError(f"the saved weights are not those in memory: {name_some(sorted(changed))}")
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    if (names := [loaded.config.id2label[index] for index in range(len(labels))]) != labels:
        raise SaveError(f"the saved labels are {name_some(names)}; expected {name_some(labels)}")
    image = _noise(preprocessing.input_size)
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    if not torch.equal(pixels[0], preprocessing.evaluation(image)):
        raise SaveError("the saved image processor gives other pixels than the evaluation transform")
    with torch.inference_mode():
        reference = _logits(model, pixels)
        _check_logits(loaded(pixel_values=pixels).logits, reference, "transformers")
        if model.config.model_type == "timm_wrapper":
            import timm

            network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
            _check_logits(network(pixels), reference, "timm")
            if list(network.pretrained_cfg["label_names"]) != labels:
                raise SaveError(f"timm reads other labels: {name_some(network.pretrained_cfg['label_names'])}")


def _write_checkpoint(model: "PreTrainedModel", preprocessing: Preprocessing, folder: Path) -> None:
    is_timm = model.config.model_type == "timm_wrapper"
    if is_timm:
        from safetensors.torch import save_file

        state = model.timm_model.state_dict()
        # copies, because a safetensors file cannot hold what modules share (CoaT), and both libraries read every name
        weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        config = _timm_config(model)
    else:
        model.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if preprocessing.processor is not None:
            preprocessing.processor.save_pretrained(folder)
    config = {key: value for key, value in config.items() if key not in LOCAL_KEYS}
    (folder / "config.json").write_text(_json(config), encoding="utf-8")


def _timm_config(model: "PreTrainedModel") -> dict[str, Any]:
    """Write what both transformers and timm read.

    timm takes the whole file for its `pretrained_cfg` unless that is there as a sub-dictionary, and fails on
    `model_args: null`; transformers takes the names of the classes from `label_names`, in the order of the logits.
    """
    config = model.config.to_dict()
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
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


@contextmanager
def _committed(folder: Path) -> Iterator[Path]:
    """Give a folder to write to, and move its files into `folder` when all are there, the record last."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    except OSError as error:
        raise SaveError(f"{folder} cannot be written to: {error.strerror}; nothing was saved") from error
    try:
        yield partial
        for name in (RECORD_FILE, *MODEL_FILES):
            (folder / name).unlink(missing_ok=True)
        for file in sorted(partial.iterdir(), key=lambda path: path.name == RECORD_FILE):
            os.replace(file, folder / file.name)
    except (OSError, SafetensorError) as error:
        cause = getattr(error, "strerror", None) or error
        raise SaveError(f"{folder} could not be written: {cause}; the run was not saved") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' bars and warnings out of a check that the user did not ask for; its errors are raised."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _noise(input_size: tuple[int, int, int]) -> Any:
    """Draw an image of random pixels, larger than the input, so that resizing and cropping are compared too."""
    import numpy as np
    from PIL import Image

    channels, height, width = input_size
    pixels = np.random.default_rng(0).integers(0, 256, (height + 16, width + 32, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")


def _logits(model: "PreTrainedModel", pixels: torch.Tensor) -> torch.Tensor:
    from hf_tl.evaluation.measure import inference

    with inference(model):
        return model(pixel_values=pixels.to(model.device)).logits.float().cpu()


def _check_logits(found: torch.Tensor, expected: torch.Tensor, library: str) -> None:
    difference = (found.float() - expected).abs().max().item()
    if not difference <= TOLERANCE * max(1.0, expected.abs().max().item()):
        raise SaveError(f"the saved model gives other logits when {library} loads it (difference {difference:.2g})")


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    """Turn what JSON does not know (tuples inside configs are known; types and paths are not wanted) into a list."""
    if isinstance(value, set | frozenset | tuple):
        return sorted(value)
    raise TypeError(f"a record holds plain values only, found {type(value).__name__}")
