"""Export in every format, and the speed of the files on this machine."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_tl.backbones.stages.modules import inference
from hf_tl.errors import ConfigError, SaveError
from hf_tl.evaluation.holdout.classifier import AnyModel
from hf_tl.evaluation.measure import image_logits
from hf_tl.exporting.export import check_folder, export, folder_of, load_on_cpu
from hf_tl.exporting.formats import FORMATS, check_format
from hf_tl.exporting.images import BATCH
from hf_tl.exporting.quantize import METHODS, check_quantizer
from hf_tl.exporting.result import ExportResult, int8_difference
from hf_tl.exporting.speed import Run, median_seconds
from hf_tl.processes.cores import cpu_cores
from hf_tl.reporting.numbers import counted
from hf_tl.reporting.shown import Shown
from hf_tl.runtime.exported import ExportedModel
from hf_tl.storage.writing import cause_of

TURNS = 10
"""Number of timed runs of each file."""
ONLY_ONNX = ("opset", "with_preprocessing")
ONLY_INT8 = ("int8", "max_int8_loss")


@dataclass(frozen=True)
class Speed:
    """Images per second of a file on all cores of this machine, without decoding and preprocessing."""

    name: str
    """Format, with `int8` for a quantized file; `torch` for the model itself."""
    file: Path | None
    """Exported file; None for the model itself."""
    single: float
    """Images per second, one by one."""
    batched: float
    """Images per second, in batches of `hf_tl.exporting.images.BATCH`."""
    loss: str = ""
    """Difference of accuracy that quantization makes, with its interval."""


@dataclass(frozen=True, repr=False)
class EveryFormat(Shown):
    """Exports of a model in every format that could be written and verified."""

    results: tuple[ExportResult, ...]
    left_out: Mapping[str, str]
    """Reason why a format was left out."""
    speeds: tuple[Speed, ...]

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def facts(self) -> Iterator[tuple[str, str]]:
        """Yield the fastest files, and the formats that were left out."""
        for title, speeds in (("Fastest", self._of("float32")), ("int8", self._of("int8"))):
            if speeds:
                yield title, _fastest(speeds)
        if self.left_out:
            yield "Left out", "; ".join(f"{name}: {reason}" for name, reason in self.left_out.items())

    def cells(self) -> list[list[str]]:
        """Return the images per second of each file."""
        rows = [[each.name, f"{each.single:.1f}", f"{each.batched:.1f}", each.loss] for each in self.speeds]
        return [["images/s", "one by one", f"in batches of {BATCH}", "int8 against float32"], *rows]

    def _of(self, precision: str) -> list[Speed]:
        is_int8 = precision == "int8"
        return [each for each in self.speeds if each.file is not None and each.name.endswith(" int8") == is_int8]

    def _lines(self) -> Iterator[str]:
        for result in self.results:
            yield f"{result}\n"
        yield f"Speed on {cpu_cores()} cores, the files by turns"
        for name, single, batched, loss in self.cells():
            yield f"  {name:<18}{single:>12}{batched:>18}  {loss}".rstrip()
        yield from (f"{title:<10}{text}" for title, text in self.facts())


def _fastest(speeds: list[Speed]) -> str:
    single, batched = max(speeds, key=lambda each: each.single), max(speeds, key=lambda each: each.batched)
    if single is batched:
        return f"{single.file}"
    return f"{single.file} for single images, {batched.file} for batches"


def export_every_format(
    model: AnyModel, output_dir: str | os.PathLike[str] | None = None, *, int8: bool = False, **settings: Any
) -> EveryFormat:
    """Write a trained model in every format that is not deprecated, and measure the speed of the files side by side.

    Args:
        model: As in `hf_tl.export`.
        output_dir: Folder of a folder for each format (default: the model's own).
        int8: Whether to also quantize, where a format can be.
        settings: Other arguments of `hf_tl.export`; those of some formats apply to these alone.

    Raises:
        ConfigError: As in `hf_tl.export`.
        ModelError: As in `hf_tl.export`.
        DataError: As in `hf_tl.export`.
        SaveError: No format can be written, or the disk is full or read-only.
    """
    left_out: dict[str, str] = {}
    folders: dict[str, Path] = {}
    for name, format_ in FORMATS.items():
        if format_.is_deprecated:
            continue
        folder = folder_of(model, name, None if output_dir is None else Path(output_dir) / name)
        check_folder(folder, overwrite=bool(settings.get("overwrite_output_dir")))
        try:
            check_format(name)
            if int8 and name in METHODS:
                check_quantizer(name)
        except ConfigError as error:
            left_out[name] = str(error)
        else:
            folders[name] = folder
    results = []
    for name, folder in folders.items():
        others = {key for key in ONLY_ONNX if name != "onnx"} | {key for key in ONLY_INT8 if name not in METHODS}
        own = {key: value for key, value in {**settings, "int8": int8}.items() if key not in others}
        try:
            results.append(export(model, name, folder, **own))
        except SaveError as error:
            if error.__cause__ is not None and cause_of(error.__cause__) is not None:
                raise  # the disk fails for all formats
            left_out[name] = str(error)
    if not results:
        raise SaveError("no format can be written: " + "; ".join(left_out.values()))
    return EveryFormat(tuple(results), left_out, _measure(model, results))


def _measure(model: AnyModel, results: list[ExportResult]) -> tuple[Speed, ...]:
    loaded = load_on_cpu(model).model

    def in_torch(pixels: np.ndarray) -> object:
        with inference(loaded):
            return image_logits(loaded, {"pixel_values": torch.from_numpy(pixels)})

    opened: dict[str, ExportedModel] = {}
    losses: dict[str, str] = {}
    for result in results:
        name = str(result.record["format"])
        opened[name] = ExportedModel.open(result.file)
        if (int8 := result.record.get("int8")) is not None:
            opened[f"{name} int8"] = ExportedModel.open(result / int8["file"])
            losses[f"{name} int8"] = int8_difference(int8, result.record["model"]["problem_type"])
    runs: dict[str, Run] = {"torch": in_torch, **{name: exported.logits for name, exported in opened.items()}}
    some = next(iter(opened.values()))
    single, batched = (
        median_seconds(runs, some.black(count), TURNS, title=f"Timing {counted(count, 'image')}")
        for count in (1, BATCH)
    )
    return tuple(
        Speed(
            name,
            opened[name].file if name in opened else None,
            1 / single[name],
            BATCH / batched[name],
            losses.get(name, ""),
        )
        for name in runs
    )
