"""Quantization of an exported file to 8-bit weights and activations, for CPUs, and its cost in accuracy."""

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_tl.data.columns import LABEL
from hf_tl.data.learned import Leakage
from hf_tl.errors import ConfigError, DataError, SaveError
from hf_tl.evaluation.holdout.images import Holdout
from hf_tl.evaluation.holdout.loaded import LoadedClassifier
from hf_tl.evaluation.intervals import wilson_interval
from hf_tl.evaluation.metrics import ProblemType
from hf_tl.evaluation.paired import paired_interval
from hf_tl.exporting.formats import explained, quiet_logs
from hf_tl.exporting.images import evenly, evenly_spaced, pixels_of
from hf_tl.exporting.speed import median_seconds
from hf_tl.processes.cores import cpu_cores
from hf_tl.reporting.console import progress_bar
from hf_tl.runtime.runners import INPUT, OUTPUT, RUNTIMES, Runtime, size_of
from hf_tl.runtime.signal_stack import kept_signal_stack

if TYPE_CHECKING:
    from datasets import Dataset
    from tqdm import tqdm

STEM = "model_int8"
CALIBRATION_IMAGES = 256
SPEED_RUNS = 30
"""Number of timed runs on single images, of which the median is reported."""


@dataclass(frozen=True)
class Method:
    """Method of quantization."""

    write: Callable[[Path, Path, Iterator[np.ndarray], "tqdm"], None]
    """Function of the file in float32, the file to write, batches of images that calibrate it, and a progress bar."""
    package: str
    description: str


def check_quantizer(format_: str) -> None:
    """Check that files of a format can be quantized here.

    Raises:
        ConfigError: They cannot, or a package is missing.
    """
    if format_ not in METHODS:
        raise ConfigError(
            f"--int8 needs --format {' or '.join(METHODS)}, whose runtimes have int8 kernels for CPUs; found --format "
            f"{format_}: leave out --int8, or quantize with the package torchao"
        )
    if find_spec(package := METHODS[format_].package) is None:
        raise ConfigError(f'--int8 with --format {format_} needs {package}: pip install "hf-tl[{format_}]"')


def int8_file(file: Path) -> Path:
    """Return the place of the quantized file, beside that in float32."""
    return file.with_stem(STEM)


def write_int8(format_: str, float_file: Path, pixels: Iterator[np.ndarray], images: int) -> Path:
    """Quantize an exported file, and write the result beside it.

    Args:
        format_: Format with a method in `METHODS`.
        float_file: File of the model in float32.
        pixels: Batches of images that calibrate the ranges of activations.
        images: Number of these images.

    Raises:
        SaveError: The network cannot be quantized.
    """
    with (
        progress_bar(total=images, desc="Quantizing", unit="image") as progress,
        explained(f"{RUNTIMES[format_].name} cannot quantize this network", "leave out --int8"),
        quiet_logs(),
    ):
        METHODS[format_].write(float_file, int8_file(float_file), pixels, progress)
    return int8_file(float_file)


def _write_onnx(float_file: Path, file: Path, pixels: Iterator[np.ndarray], progress: "tqdm") -> None:
    # U8S8 is fast on x86: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    import onnx.utils
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            if (batch := next(pixels, None)) is None:
                return None
            progress.update(len(batch))
            return {INPUT: batch}

    prepared = float_file.with_name(".prepared.onnx")
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    try:
        # without the score, which for 8-bit features is another than the model was calibrated with
        onnx.utils.extract_model(float_file, prepared, [INPUT], [OUTPUT], check_model=False)
        quant_pre_process(prepared, prepared)
        quantize_static(prepared, file, Reader(), per_channel=True, **types)
    finally:
        prepared.unlink(missing_ok=True)


def _write_openvino(float_file: Path, file: Path, pixels: Iterator[np.ndarray], progress: "tqdm") -> None:
    os.environ.setdefault("NNCF_CI", "1")  # else nncf sends statistics
    import nncf
    from openvino import Core, save_model

    nncf.set_log_level(logging.ERROR)
    model = Core().read_model(float_file)
    for result in model.get_results()[1:]:  # a score of 8-bit features is another than the model was calibrated with
        model.remove_result(result)
    nodes = model.get_ops()
    has_attention = any(node.get_type_name() == "ScaledDotProductAttention" for node in nodes)
    # nncf fails on tables of constants that are looked up, such as the position biases of Swin (nncf 3.4)
    tables = [node.get_friendly_name() for node in nodes if node.get_type_name() == "Gather" and _is_constant(node)]
    images = [image[np.newaxis] for batch in pixels for image in batch]

    def read(image: np.ndarray) -> np.ndarray:
        progress.update(progress.n < len(images))  # some images are read again to correct biases
        return image

    with kept_signal_stack(), contextlib.redirect_stdout(io.StringIO()):  # nncf writes bars of its own
        quantized = nncf.quantize(
            model,
            nncf.Dataset(images, read),
            subset_size=len(images),
            model_type=nncf.ModelType.TRANSFORMER if has_attention else None,
            ignored_scope=nncf.IgnoredScope(names=tables) if tables else None,
        )
    save_model(quantized, file, compress_to_fp16=False)


def _is_constant(node: Any) -> bool:
    """Return whether the first input of a node of OpenVINO is a constant."""
    return node.input_value(0).get_node().get_type_name() in ("Constant", "Convert")


def divide(holdout: Holdout, include_training_images: bool) -> "tuple[Holdout, Leakage, Dataset, str]":
    """Return the images to measure int8 on, and those to calibrate it on, with the name of their split.

    Without a training split, at most half of the images calibrate, and the others are measured.

    Raises:
        DataError: There is only one image.
    """
    measured, leakage = holdout.measurable(include_training_images=include_training_images)
    if measured.train is not None:
        return measured, leakage, evenly(measured.train, CALIBRATION_IMAGES), "train"
    count = len(measured.images)
    if count < 2:
        raise DataError(
            f"--int8 needs images to calibrate on and others to measure, found {count}: name a dataset with more "
            "images, or leave out --int8"
        )
    rows = evenly_spaced(count, min(CALIBRATION_IMAGES, count // 2))
    others = np.setdiff1d(np.arange(count), rows).tolist()
    data = measured.data.select(measured.split, others)
    return replace(measured, data=data), leakage, measured.images.select(rows), measured.split


def quantize(
    format_: str,
    folder: Path,
    classifier: LoadedClassifier,
    holdout: Holdout,
    leakage: Leakage,
    calibration: "Dataset",
    split: str,
) -> dict[str, Any]:
    """Quantize the exported file in a folder, and measure both files.

    Returns:
        What `measure_int8` measured, with the file and how it was made, for `export.json`.

    Raises:
        SaveError: The network cannot be quantized, or the result does not run.
    """
    transform, runtime = classifier.transforms.eval, RUNTIMES[format_]
    file = write_int8(format_, folder / runtime.file, pixels_of(calibration, transform), len(calibration))
    labels = np.asarray(holdout.images[LABEL][:])
    with explained(f"{runtime.name} cannot run the quantized network", "leave out --int8"):
        pixels = pixels_of(holdout.images, transform)
        measured = measure_int8(runtime, folder / runtime.file, file, pixels, labels, classifier.problem)
    return {
        "file": file.name,
        "bytes": size_of(file),
        "method": METHODS[format_].description,
        "calibration": {"split": split, "images": len(calibration)},
        "split": holdout.split,
        **measured,
        "hardware": f"CPU, {cpu_cores()} cores",
        "leakage": leakage.to_record(),
    }


def measure_int8(
    runtime: Runtime,
    float_file: Path,
    int8_file: Path,
    pixels: Iterator[np.ndarray],
    labels: np.ndarray,
    problem: ProblemType,
) -> dict[str, Any]:
    """Evaluate both files on the same labeled images.

    Args:
        runtime: Runtime of the files.
        float_file: File of the model in float32.
        int8_file: File of the quantized model.
        pixels: Batches of all images.
        labels: Class indices (images,), or zeros and ones (images, classes).
        problem: Problem type.

    Returns:
        For `export.json`: `metrics` of `float32` and `int8`, the accuracy of each with its interval, their paired
        `difference` with its interval, the share of equal predictions, and the time per image.
    """
    runs = {name: runtime.open(file) for name, file in (("float32", float_file), ("int8", int8_file))}
    first = next(pixels)
    all_logits: dict[str, list[np.ndarray]] = {name: [run(first)] for name, run in runs.items()}
    for batch in pixels:
        for name, run in runs.items():
            all_logits[name].append(run(batch))
    logits = {name: np.concatenate(parts) for name, parts in all_logits.items()}
    right = {name: problem.is_right(array, labels) for name, array in logits.items()}
    gained = int((right["int8"] & ~right["float32"]).sum())
    lost = int((right["float32"] & ~right["int8"]).sum())
    same = problem.decide(logits["int8"]) == problem.decide(logits["float32"])
    return {
        "images": len(labels),
        "metrics": {name: problem.compute(array, labels) for name, array in logits.items()},
        problem.accuracy: {
            **{name: _share(int(hits.sum()), len(hits)) for name, hits in right.items()},
            "difference": {
                "value": (gained - lost) / len(labels),
                "interval": list(paired_interval(lost, gained, len(labels))),
            },
        },
        "same_prediction": float(np.mean(same)),
        "milliseconds_per_image": {**_speed(runtime, float_file, int8_file, first[:1]), "batch_size": 1, "threads": 1},
    }


def check_loss(accuracy: Mapping[str, Any], largest: float | None) -> None:
    """Check that int8 does not lower the accuracy by more than a limit.

    Args:
        accuracy: Accuracies as `measure_int8` returns them.
        largest: Limit as a share of the images; None for no limit.

    Raises:
        SaveError: It does.
    """
    difference = accuracy["difference"]
    if largest is not None and -difference["value"] > largest:
        low, high = (100 * bound for bound in difference["interval"])
        raise SaveError(
            f"--max_int8_loss {largest} allows a loss of {100 * largest:.2g} points, found int8 "
            f"{100 * difference['value']:+.1f} points ({low:+.1f} to {high:+.1f}) against float32: nothing was "
            "exported, leave out --int8, or allow more"
        )


def _share(hits: int, images: int) -> dict[str, Any]:
    return {"value": hits / images, "interval": list(wilson_interval(hits, images))}


def _speed(runtime: Runtime, float_file: Path, int8_file: Path, image: np.ndarray) -> dict[str, float]:
    """Time both alternately on one thread, so that other load on the machine slows both."""
    runs = {"float32": runtime.open(float_file, threads=1), "int8": runtime.open(int8_file, threads=1)}
    seconds = median_seconds(runs, image, SPEED_RUNS)
    return {name: round(1000 * value, 3) for name, value in seconds.items()}


METHODS = {
    "onnx": Method(
        _write_onnx,
        "onnxruntime",
        "static, by ONNX Runtime: int8 weights by channel, uint8 activations by calibrated minimum and maximum",
    ),
    "openvino": Method(
        _write_openvino,
        "nncf",
        "static, by nncf: int8 weights by channel, uint8 activations by calibrated ranges, biases corrected",
    ),
}
"""Methods of quantization by format."""
