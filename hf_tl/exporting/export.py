"""Export of a trained model to a folder for programs without hf_tl: model file, preprocessing, verification."""

import copy
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from hf_tl.abstention.detector import Detector
from hf_tl.backbones.load import preprocessing_of
from hf_tl.backbones.weights.digest import digest
from hf_tl.backbones.weights.provenance import commit_of
from hf_tl.data.columns import IMAGE
from hf_tl.data.decoding.images import as_stored
from hf_tl.data.decoding.opening import decode
from hf_tl.data.image_data import AnyDataset
from hf_tl.errors import ConfigError, name_some
from hf_tl.evaluation.holdout.classifier import AnyModel
from hf_tl.evaluation.holdout.images import Holdout, open_holdout
from hf_tl.evaluation.holdout.loaded import LoadedClassifier
from hf_tl.evaluation.metrics import MULTI_LABEL
from hf_tl.exporting.checks import model_logits, verify, verify_scores, verify_steps
from hf_tl.exporting.formats import Format, check_format, explained, write_model
from hf_tl.exporting.images import evenly, pixels_of
from hf_tl.exporting.preprocessing import describe
from hf_tl.exporting.quantize import (
    check_loss,
    check_quantizer,
    divide,
    int8_file,
    quantize,
)
from hf_tl.exporting.result import ExportResult
from hf_tl.exporting.whole import FILE as WHOLE_FILE
from hf_tl.exporting.whole import check_whole, verify_whole, write_whole
from hf_tl.ranges import COUNT, SHARE, check_argument
from hf_tl.record import RECORD_FILE, write_record
from hf_tl.renamed import OLD_SOURCE, renamed
from hf_tl.runtime.exported import ABSTENTION
from hf_tl.runtime.origin import FILE as REPORT_FILE
from hf_tl.runtime.origin import digests_of
from hf_tl.runtime.preprocessing import FILE as PREPROCESSING_FILE
from hf_tl.runtime.preprocessing import probabilities
from hf_tl.runtime.runners import INPUT, OUTPUT, RUNTIMES, Runtime, size_of
from hf_tl.storage.folders import atomic_folder
from hf_tl.storage.writing import writing

SCHEMA_VERSION = 1
VERIFIED_IMAGES = 64


@renamed(model_name="model", **OLD_SOURCE)
def export(
    model: AnyModel,
    format: str = "onnx",
    output_dir: str | os.PathLike[str] | None = None,
    *,
    dataset: AnyDataset | None = None,
    split: str | None = None,
    int8: bool = False,
    max_int8_loss: float | None = None,
    with_preprocessing: bool = False,
    opset: int | None = None,
    include_training_images: bool = False,
    overwrite_output_dir: bool = False,
    **reading: Any,
) -> ExportResult:
    """Write a trained model to a file that runs without hf_tl, transformers and timm.

    Its only input is `pixel_values` (any number of images, channels, height, width), its output `logits`; a file
    of a calibrated model also gives `ood_score`. Before the export is completed, its own runtime runs the file on real
    images. If its output differs from the model's, nothing is kept.

    Args:
        model: Folder of a saved model, Hub id, `RunResult`, or a loaded model.
        format: `"onnx"`, `"openvino"` or `"executorch"` (need the extras of these names; the last takes one image at a
            time), `"torch_export"` or `"torchscript"`.
        output_dir: New folder (default: a folder named after the format, in the model's own).
        dataset: Images to verify the export on: a name, a folder, a table, `datasets.Dataset`, `DatasetDict`, or the
            result of `hf_tl.load_data` (default: the data that the model was trained on, if it is a Hub dataset or
            `digits`). All images of a dataset without splits are used.
        split: Split of a dataset with splits (default: test, or validation).
        int8: Whether to also write `model_int8.onnx` or `model_int8.xml`, calibrated on training images (of a dataset
            without them, on half of the images) and evaluated on the others.
        max_int8_loss: Largest share of the images by which int8 may lower the accuracy, for example 0.01 (default: any
            loss is written and reported).
        with_preprocessing: Whether to also write `model_with_preprocessing.onnx`, which takes an image of any size
            (uint8, height, width, 3) and gives the probability of each class; the class names are in its metadata.
        opset: Version of ONNX's operators (default: that of torch).
        include_training_images: Whether to evaluate int8 on training images of the model too, and count them.
        overwrite_output_dir: Whether to replace an existing export.
        reading: Other arguments of `load_data` about how to read the dataset, for example `label_column`.

    Returns:
        Folder, usable as a path, with the model file, `preprocessing.json` (preprocessing steps and classes),
        `export.json` (verification and evaluation results), which is its `record`, and, of a model that hf_tl trained,
        `run.json` (record of the training).

    Raises:
        ConfigError: A package is missing, the folder is not empty, or the dataset must be named.
        ModelError: There is no such model, its preprocessing cannot be expressed, or what was calibrated is damaged.
        DataError: The images cannot be used.
        SaveError: The network cannot be written in this format, the written file gives other outputs than the model,
            int8 loses more than `max_int8_loss`, or the disk is full or read-only.

    >>> import hf_tl
    >>> exported = hf_tl.export("photos-model", "torch_export", "exported", dataset="photos")
    >>> sorted(os.listdir(exported))
    ['export.json', 'model.pt2', 'preprocessing.json', 'run.json']
    """
    chosen = check_format(format)
    _check_options(format, int8, max_int8_loss, with_preprocessing, opset)
    folder = folder_of(model, format, output_dir)
    check_folder(folder, overwrite=overwrite_output_dir)
    classifier = load_on_cpu(model)
    preprocessing = preprocessing_of(classifier.model, classifier.transforms)
    scores = "sigmoid" if classifier.problem is MULTI_LABEL else "softmax"
    steps = {**describe(preprocessing), "scores": scores, "labels": list(classifier.labels)}
    detector = _detector_of(classifier)
    if detector is not None:
        steps[ABSTENTION] = detector.limits.to_json()
    if with_preprocessing:
        check_whole(steps)
    holdout = open_holdout(dataset, {"the model": classifier}, split, reading, needs_labels=int8)
    quantized = divide(holdout, include_training_images) if int8 else None
    with _new_folder(folder) as partial:
        report = _describe_model(classifier, holdout)
        report |= {"format": format, "file": chosen.runtime.file, "input": INPUT, "output": OUTPUT}
        settings: dict[str, Any] = {} if opset is None else {"opset": opset}
        settings["score"] = None if detector is None else detector.score
        report |= write_model(format, classifier.model, preprocessing.input_size, partial, **settings)
        report["bytes"] = size_of(partial / chosen.runtime.file)
        report["verified"] = _verify(chosen, format, partial, classifier, holdout, steps, detector)
        if quantized is not None:
            report["int8"] = quantize(format, partial, classifier, *quantized)
            check_loss(report["int8"][classifier.problem.accuracy], max_int8_loss)
        if with_preprocessing:
            report["with_preprocessing"] = _write_whole(partial, classifier, holdout, steps)
        report["files"] = digests_of(*(partial / name for name in _model_files(chosen.runtime)))
        _write_json(partial / PREPROCESSING_FILE, steps)
        _write_json(partial / REPORT_FILE, report)
        if classifier.record is not None:
            write_record(classifier.record, partial)
    return ExportResult(folder, report)


def load_on_cpu(model: AnyModel) -> LoadedClassifier:
    """Load a model, or copy one that is in memory of a GPU, to that of the CPU."""
    classifier = LoadedClassifier.load(model)
    if classifier.model.device.type != "cpu":
        classifier = replace(classifier, model=copy.deepcopy(classifier.model).cpu())
    return classifier


def _describe_model(classifier: LoadedClassifier, holdout: Holdout) -> dict[str, Any]:
    """Describe model and images without paths; the digest is that of the model's `run.json`."""
    network = classifier.describe()
    weights = {name.removeprefix("timm_model."): tensor for name, tensor in classifier.model.state_dict().items()}
    source = classifier.source
    is_on_hub = source is not None and not Path(source).exists()
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "model": {
            "name": source if is_on_hub else None,
            "revision": commit_of(source) if source is not None else None,
            "class": type(classifier.model).__name__,
            "architecture": network["architecture"],
            "parameters": network["parameters"],
            "problem_type": classifier.problem.name,
            "weights_digest": digest(weights),
        },
        "data": {
            "name": holdout.data.name,
            "revision": holdout.data.revision,
            "fingerprint": holdout.data.fingerprint,
            "notes": list(holdout.notes),
        },
    }


def _detector_of(classifier: LoadedClassifier) -> Detector | None:
    """Return the detector of a calibrated model; None for others."""
    if classifier.source is None or classifier.record is None or classifier.record.abstention is None:
        return None
    return Detector.load(classifier.source, classifier.weights_digest, len(classifier.labels))


def _verify(
    chosen: Format,
    name: str,
    folder: Path,
    classifier: LoadedClassifier,
    holdout: Holdout,
    steps: Mapping[str, Any],
    detector: Detector | None,
) -> dict[str, Any]:
    images = evenly(holdout.images, VERIFIED_IMAGES)
    pixels = np.concatenate(list(pixels_of(images, classifier.transforms.eval)))
    with explained(f"the {name} file cannot be loaded", "try another --format"):
        run = chosen.runtime.open(folder / chosen.runtime.file)
    report = {"split": holdout.split, "images": len(images), **verify(run, classifier.model, pixels, name)}
    if detector is not None:
        report["ood_scores"] = verify_scores(run, classifier.model, detector, pixels)
    decoded = [decode(image) for image in as_stored(images)[IMAGE]]
    return {**report, "without_hf_tl": verify_steps(steps, decoded, pixels, run, classifier.model)}


def _check_options(
    format_: str, int8: bool, max_int8_loss: float | None, with_preprocessing: bool, opset: int | None
) -> None:
    """Check that a format has what is asked of it.

    Raises:
        ConfigError: It has not.
    """
    check_argument("max_int8_loss", max_int8_loss, SHARE)
    check_argument("opset", opset, COUNT)
    if int8:
        check_quantizer(format_)
    elif max_int8_loss is not None:
        raise ConfigError("--max_int8_loss limits what --int8 may lose: add --int8, or leave it out")
    if opset is not None and format_ != "onnx":
        raise ConfigError(f"--opset is for --format onnx, found --format {format_}: leave it out")
    if with_preprocessing and format_ != "onnx":
        raise ConfigError(
            f"--with_preprocessing needs --format onnx, which has an operator that resizes as Pillow does; found "
            f"--format {format_}: leave out --with_preprocessing, and use preprocessing.json"
        )


def _write_whole(
    folder: Path, classifier: LoadedClassifier, holdout: Holdout, steps: Mapping[str, Any]
) -> dict[str, Any]:
    images = evenly(holdout.images, VERIFIED_IMAGES)
    pixels = np.concatenate(list(pixels_of(images, classifier.transforms.eval)))
    expected = probabilities(steps["scores"], model_logits(classifier.model, pixels))
    file = write_whole(folder / RUNTIMES["onnx"].file, steps)
    decoded = [decode(image) for image in as_stored(images)[IMAGE]]
    verified = verify_whole(file, decoded, pixels, expected, steps["std"])
    return {"file": file.name, "bytes": size_of(file), **verified}


def _model_files(runtime: Runtime) -> list[str]:
    """Return the names of the files of models that an export may write for a runtime, without those of weights."""
    return [runtime.file, int8_file(Path(runtime.file)).name, *([WHOLE_FILE] if runtime is RUNTIMES["onnx"] else [])]


def folder_of(model: AnyModel, format_: str, output_dir: str | os.PathLike[str] | None) -> Path:
    """Return the folder of an export.

    Raises:
        ConfigError: It must be named.
    """
    if output_dir is not None:
        return Path(os.path.realpath(output_dir))
    if not isinstance(model, str | os.PathLike):
        raise ConfigError("a model in memory has no folder: name the folder of the export with --output_dir")
    source = os.fspath(model)
    if not Path(source).is_dir():
        raise ConfigError(
            f"there is no folder {source!r}; for a model of the Hub, name the folder of the export with --output_dir"
        )
    return Path(os.path.realpath(source)) / format_


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Check, before any work, that an export may be written to a folder.

    Raises:
        ConfigError: The folder holds files of no export, or an export that must not be overwritten.
    """
    if folder.is_file():
        raise ConfigError(f"--output_dir {folder} is a file; name a folder")
    held = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    models = [(runtime, Path(name)) for runtime in RUNTIMES.values() for name in _model_files(runtime)]
    ours = {part.name for runtime, file in models for part in runtime.parts(file)}
    ours |= {REPORT_FILE, PREPROCESSING_FILE, RECORD_FILE}
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
    with writing(folder, advice="nothing was exported"), atomic_folder(folder, replace=True) as partial:
        yield partial


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
