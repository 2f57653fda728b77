"""Quantization of an ONNX file to 8-bit weights and activations, for CPUs, and its cost in accuracy."""

import logging
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hf_tl.evaluation.intervals import wilson_interval
from hf_tl.evaluation.metrics import ProblemType
from hf_tl.evaluation.paired import paired_interval
from hf_tl.exporting.formats import explained
from hf_tl.runtime.runners import INPUT, open_onnx

FILE = "model_int8.onnx"
CALIBRATION_IMAGES = 256
METHOD = "static, by ONNX Runtime: int8 weights by channel, uint8 activations by calibrated minimum and maximum"
SPEED_RUNS = 30
"""Number of timed runs on single images, of which the median is reported."""


def write_int8(float_file: Path, pixels: Iterator[np.ndarray]) -> Path:
    """Quantize an ONNX file, and write the result beside it.

    The format is U8S8, which is fast on x86
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).

    Args:
        float_file: File of the model in float32.
        pixels: Batches of images that calibrate the ranges of activations.

    Raises:
        SaveError: ONNX Runtime cannot quantize the model.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(pixels, None)
            return None if batch is None else {INPUT: batch}

    prepared, file = float_file.with_name(".prepared.onnx"), float_file.with_name(FILE)
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # hide advice to preprocess the file (done above) and a warning for each layer
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    try:
        with explained("ONNX Runtime cannot quantize this network", "leave out --int8"):
            quant_pre_process(float_file, prepared)
            quantize_static(prepared, file, Reader(), per_channel=True, **types)
    finally:
        logger.setLevel(level)
        prepared.unlink(missing_ok=True)
    return file


def measure_int8(
    float_file: Path, int8_file: Path, pixels: Iterator[np.ndarray], labels: np.ndarray, problem: ProblemType
) -> dict[str, Any]:
    """Evaluate both files on the same labeled images.

    Args:
        float_file: File of the model in float32.
        int8_file: File of the quantized model.
        pixels: Batches of all images.
        labels: Class indices (images,), or zeros and ones (images, classes).
        problem: Problem type.

    Returns:
        For `export.json`: `metrics` of `float32` and `int8`, the accuracy of each with its interval, their paired
        `difference` with its interval, the share of equal predictions, and the time per image.
    """
    runs = {name: open_onnx(file) for name, file in (("float32", float_file), ("int8", int8_file))}
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
        "milliseconds_per_image": {**_speed(float_file, int8_file, first[:1]), "batch_size": 1, "threads": 1},
    }


def _share(hits: int, images: int) -> dict[str, Any]:
    return {"value": hits / images, "interval": list(wilson_interval(hits, images))}


def _speed(float_file: Path, int8_file: Path, image: np.ndarray) -> dict[str, float]:
    """Time both alternately on one thread, so that other load on the machine slows both."""
    runs = {"float32": open_onnx(float_file, threads=1), "int8": open_onnx(int8_file, threads=1)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(SPEED_RUNS + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run(image)
            seconds[name].append(time.perf_counter() - start)
    return {name: round(1000 * statistics.median(values[1:]), 3) for name, values in seconds.items()}
