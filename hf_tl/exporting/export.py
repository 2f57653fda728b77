"""Export of a trained model to a folder for programs without hf_tl: model file, preprocessing, verification."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_tl.backbones.load import load, preprocessing_of
from hf_tl.backbones.weights.digest import digest
from hf_tl.backbones.weights.provenance import commit_of, provenance_of, saved_record
from hf_tl.data.columns import IMAGE, LABEL
from hf_tl.data.decoding.images import as_stored, decode
from hf_tl.errors import ConfigError, SaveError, name_some
from hf_tl.evaluation.classes import images_for
from hf_tl.evaluation.leakage import measurable, open_again
from hf_tl.evaluation.metrics import MULTI_LABEL, problem_type_of
from hf_tl.exporting.checks import verify, verify_steps
from hf_tl.exporting.formats import FORMATS, INPUT, OUTPUT, Format, check_format, explained, write_model
from hf_tl.exporting.images import evenly, pixels_of
from hf_tl.exporting.preprocessing import FILE as PREPROCESSING_FILE
from hf_tl.exporting.preprocessing import describe
from hf_tl.exporting.quantize import CALIBRATION_IMAGES, METHOD, measure_int8, write_int8
from hf_tl.exporting.quantize import FILE as INT8_FILE
from hf_tl.processes.accelerator import cpu_cores
from hf_tl.storage.folders import atomic_folder

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from hf_tl.data.datasets import ImageData
    from hf_tl.data.decoding.images import ImageTransform

SCHEMA_VERSION = 1
REPORT_FILE = "export.json"
VERIFIED_IMAGES = 64


def export(
    model_name: str | os.PathLike[str],
    format: str = "onnx",
    output_dir: str | os.PathLike[str] | None = None,
    *,
    dataset: str | None = None,
    int8: bool = False,
    include_training_images: bool = False,
    overwrite_output_dir: bool = False,
    **reading: Any,
) -> Path:
    """Write a trained model to a file that runs without hf_tl, transformers and timm.

    Its only input is `pixel_values` (any number of images, channels, height, width), its output `logits`. Before the
    export is completed, its own runtime runs the file on real images. If its output differs from the model's, nothing
    is kept.

    Args:
        model_name: Folder of a saved model, or a Hub id.
        format: `"onnx"` (needs the extra `onnx`), `"torchscript"` or `"torch_export"`.
        output_dir: New folder (default: a folder named after the format, in the model's own).
        dataset: Value of `--dataset`, whose test split verifies the export (default: the data that the model was
            trained on, if it is a Hub dataset or `digits`).
        int8: Whether to also write `model_int8.onnx`, calibrated on training images and evaluated on the test images.
        include_training_images: Whether to evaluate int8 on training images of the model too, and count them.
        overwrite_output_dir: Whether to replace an existing export.
        reading: Other arguments of `load_data` about how to read the dataset, for example `label_column`.

    Returns:
        Folder with the model file, `preprocessing.json` (preprocessing steps and classes) and `export.json`
        (verification and evaluation results).

    Raises:
        ConfigError: A package is missing, the folder is not empty, or the dataset must be named.
        ModelError: There is no such model, or its preprocessing cannot be expressed.
        DataError: The images cannot be used.
        SaveError: The network cannot be written in this format, the written file gives other outputs than the model, or
            the disk is full or read-only.

    >>> import hf_tl
    >>> folder = hf_tl.export("photos-model", "torch_export", "exported", dataset="photos")
    >>> sorted(file.name for file in folder.iterdir())
    ['export.json', 'model.pt2', 'preprocessing.json']
    """
    chosen, source = check_format(format), os.fspath(model_name)
    if int8 and format != "onnx":
        raise ConfigError(
            f"--int8 needs --format onnx, whose runtime has int8 kernels for CPUs; found --format {format}: leave out "
            "--int8, or quantize with the package torchao"
        )
    folder = _choose_folder(source, format, output_dir)
    _check_folder(folder, overwrite_output_dir)
    model, transforms = load(source)
    preprocessing = preprocessing_of(model, transforms)
    steps = describe(preprocessing)
    learned = provenance_of(model).learned
    data = open_again(saved_record(source), learned, dataset, **reading)
    labeled, leakage = None, None
    if int8:
        held_out, leakages = measurable(
            data, {"the model": learned}, ["test"], include_training_images=include_training_images
        )
        labeled, leakage = images_for(model, held_out, "test"), leakages["test"]
    transform = transforms.eval
    with _new_folder(folder) as partial:
        report = _describe_model(model, source, data)
        report |= {"format": format, "file": chosen.file, "input": INPUT, "output": OUTPUT}
        report |= write_model(format, model, preprocessing.input_size, partial)
        report["bytes"] = _size(partial, chosen.file)
        report["verified"] = _verify(chosen, format, partial, model, data, transform, steps)
        if labeled is not None and leakage is not None:
            report["int8"] = _quantize(partial, model, data, labeled, transform)
            report["int8"]["leakage"] = leakage.to_record()
        scores = "sigmoid" if problem_type_of(model) is MULTI_LABEL else "softmax"
        labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
        _write_json(partial / PREPROCESSING_FILE, {**steps, "scores": scores, "labels": labels})
        _write_json(partial / REPORT_FILE, report)
    return folder


def _describe_model(model: "PreTrainedModel", source: str, data: "ImageData") -> dict[str, Any]:
    """Describe model and images without paths; the digest is that of the model's `run.json`."""
    weights = {name.removeprefix("timm_model."): tensor for name, tensor in model.state_dict().items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "model": {
            "name": None if Path(source).exists() else source,
            "revision": commit_of(source),
            "class": type(model).__name__,
            "problem_type": problem_type_of(model).name,
            "weights_digest": digest(weights),
        },
        "data": {"name": data.name, "revision": data.revision, "fingerprint": data.fingerprint},
    }


def _verify(
    chosen: Format,
    name: str,
    folder: Path,
    model: "PreTrainedModel",
    data: "ImageData",
    transform: "ImageTransform",
    steps: Mapping[str, Any],
) -> dict[str, Any]:
    images = evenly(data.splits["test"], VERIFIED_IMAGES)
    pixels = np.concatenate(list(pixels_of(images, transform)))
    with explained(f"the {name} file cannot be loaded", "try another --format"):
        run = chosen.open(folder / chosen.file)
    report = {"split": "test", "images": len(images), **verify(run, model, pixels, name)}
    decoded = [decode(image) for image in as_stored(images)[IMAGE]]
    return {**report, "without_hf_tl": verify_steps(steps, decoded, pixels, run, model)}


def _quantize(
    folder: Path, model: "PreTrainedModel", data: "ImageData", images: "Dataset", transform: "ImageTransform"
) -> dict[str, Any]:
    calibration = evenly(data.splits["train"], CALIBRATION_IMAGES)
    float_file = folder / FORMATS["onnx"].file
    int8_file = write_int8(float_file, pixels_of(calibration, transform))
    labels = np.asarray(images[LABEL][:])
    with explained("ONNX Runtime cannot run the quantized network", "leave out --int8"):
        measured = measure_int8(float_file, int8_file, pixels_of(images, transform), labels, problem_type_of(model))
    return {
        "file": INT8_FILE,
        "bytes": _size(folder, INT8_FILE),
        "method": METHOD,
        "calibration": {"split": "train", "images": len(calibration)},
        "split": "test",
        **measured,
        "hardware": f"CPU, {cpu_cores()} cores",
    }


def _size(folder: Path, name: str) -> int:
    """Return the size of a model file in bytes, including external weights."""
    return sum(file.stat().st_size for file in folder.glob(f"{name}*"))


def _choose_folder(source: str, format_: str, output_dir: str | os.PathLike[str] | None) -> Path:
    if output_dir is not None:
        return Path(os.path.realpath(output_dir))
    if not Path(source).is_dir():
        raise ConfigError(
            f"there is no folder {source!r}; for a model of the Hub, name the folder of the export with --output_dir"
        )
    return Path(os.path.realpath(source)) / format_


def _check_folder(folder: Path, overwrite: bool) -> None:
    """Check, before any work, that an export may be written to a folder.

    Raises:
        ConfigError: The folder holds files of no export, or an export that must not be overwritten.
    """
    if folder.is_file():
        raise ConfigError(f"--output_dir {folder} is a file; name a folder")
    held = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    ours = {REPORT_FILE, PREPROCESSING_FILE, INT8_FILE}
    ours |= {name for format_ in FORMATS.values() for name in (format_.file, f"{format_.file}.data")}
    if foreign := [name for name in held if name not in ours]:
        raise ConfigError(f"--output_dir {folder} has files of no export ({name_some(foreign)}); name a new folder")
    if held and not overwrite:
        raise ConfigError(
            f"--output_dir {folder} has an export already; name another folder, or replace it with "
            "--overwrite_output_dir"
        )


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, and move it to `folder` when it is complete."""
    try:
        with atomic_folder(folder, replace=True) as partial:
            yield partial
    except OSError as error:
        raise SaveError(f"{folder} cannot be written: {error.strerror or error}; nothing was exported") from error


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
