"""Export formats: writing a file that `hf_tl.runtime` runs."""

import io
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hf_tl.abstention.in_torch import LogitsAndScore
from hf_tl.abstention.scores import Score
from hf_tl.errors import ConfigError, SaveError
from hf_tl.runtime.runners import INPUT, OUTPUT, RUNTIMES, SCORE, Runtime

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SOURCE_PLACES = ".debug_pkl"
"""Suffix of the files in a TorchScript archive that record the source line of each operation."""


@dataclass(frozen=True)
class Format:
    """Export format."""

    write: Callable[..., dict[str, Any]]
    """Function of a network in inference mode, an example batch and a file path; returns facts for `export.json`. That
    of ONNX also takes `opset`."""
    runtime: Runtime
    """Name of the file, and the function that opens it."""
    packages: tuple[str, ...] = ()
    """Packages that write it, from the extra named like the format."""
    is_deprecated: bool = False

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]


class Logits(nn.Module):
    """transformers classifier as a function from pixels to logits."""

    def __init__(self, model: "PreTrainedModel") -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Compute logits (batch, classes)."""
        return self.model(pixel_values=pixel_values).logits


def check_format(name: str) -> Format:
    """Return a format after checking that its packages are installed.

    Raises:
        ConfigError: There is no such format, or a package is missing.
    """
    if name not in FORMATS:
        raise ConfigError(f"--format takes one of {', '.join(FORMATS)}, found {name!r}")
    format_ = FORMATS[name]
    if missing := format_.missing:
        raise ConfigError(f'--format {name} needs {", ".join(missing)}: pip install "hf-tl[{name}]"')
    return format_


def write_model(
    name: str,
    model: "PreTrainedModel",
    input_size: tuple[int, int, int],
    folder: Path,
    score: Score | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Write a model in a format, for batches of any size, and return facts for `export.json`.

    Args:
        name: Name of the format.
        model: Model on the CPU, in inference mode.
        input_size: Channels, height and width.
        folder: Folder of the file.
        score: Out-of-distribution score to be a second output (default: none).
        settings: Settings of the format: `opset` of ONNX.

    Raises:
        SaveError: The format cannot express the network.
    """
    black = torch.zeros(1, *input_size)
    network = (Logits(model) if score is None else LogitsAndScore(model, score, black)).eval().requires_grad_(False)
    # two images, because torch specializes a size of one; black, because the example may be stored in the file
    example = torch.zeros(2, *input_size)
    with (
        explained(f"{type(model).__name__} cannot be written as {name}", "try another --format"),
        quiet_logs(),
        torch.no_grad(),
        warnings.catch_warnings(),
    ):
        # the command reports that TorchScript is deprecated; the issues that tracing warns of are verified afterwards
        warnings.simplefilter("ignore")
        return FORMATS[name].write(network, example, folder / FORMATS[name].runtime.file, **settings)


@contextmanager
def explained(what: str, advice: str) -> Iterator[None]:
    """Convert library errors about a network to an error message for the user.

    Raises:
        SaveError: The body raised one of the exceptions of exporters and runtimes.
    """
    try:
        yield
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, LookupError) as error:
        reason = " ".join(str(error).split())
        raise SaveError(f"{what}: {reason:.500}; nothing was exported, {advice}") from error


def _write_onnx(network: nn.Module, example: Tensor, file: Path, opset: int | None = None) -> dict[str, Any]:
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        dynamic_shapes=_any_batch(),
        input_names=[INPUT],
        output_names=outputs_of(network),
        opset_version=opset,
        verbose=False,
    )
    assert program is not None  # always true with dynamo
    written = program.model.opset_imports[""]
    if opset not in (None, written):  # torch goes on with a newer one
        raise ValueError(f"--opset {opset} cannot be had, torch writes {written}")
    ClearMetadataAndDocStringPass()(program.model)  # the metadata include source paths of each operation
    program.save(file)
    versions = {name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")}
    ir_version = program.model.ir_version
    needs = {"onnx": least_onnx(written, ir_version)}
    return {"opset": written, "ir_version": ir_version, "needs": needs, "versions": versions}


def least_onnx(opset: int, ir_version: int) -> str:
    """Return the oldest release of ONNX that a runtime must support for a file.

    >>> least_onnx(18, 10)
    '1.16.0'
    """
    from onnx.helper import VERSION_TABLE

    return next(str(release) for release, ir, operators, *_ in VERSION_TABLE if ir >= ir_version and operators >= opset)


def _write_torchscript(network: nn.Module, example: Tensor, file: Path) -> dict[str, Any]:
    whole = io.BytesIO()  # torch hides the cause when the disk is full
    torch.jit.save(torch.jit.trace(network, (example,), check_trace=False), whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            if not entry.filename.endswith(SOURCE_PLACES):
                target.writestr(entry.filename, source.read(entry))
    return {"versions": {"torch": version("torch")}}


def _write_torch_export(network: nn.Module, example: Tensor, file: Path) -> dict[str, Any]:
    program = torch.export.export(network, (example,), dynamic_shapes=_any_batch(), strict=False)  # default since 2.7
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)  # contains source paths
    content = io.BytesIO()  # torch hides the cause when the disk is full
    torch.export.save(program, content)
    file.write_bytes(content.getbuffer())
    return {"versions": {"torch": version("torch")}}


def _write_openvino(network: nn.Module, example: Tensor, file: Path) -> dict[str, Any]:
    from openvino import save_model
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    program = torch.export.export(network, (example,), dynamic_shapes=_any_batch(), strict=False)
    frontend = FrontEndManager().load_by_framework("pytorch")  # openvino.convert_model would send statistics
    decoder = TorchFXPythonDecoder.from_exported_program(program)  # must live as long as the model is converted
    model = frontend.convert(frontend.load(decoder))
    model.reshape([-1, *example.shape[1:]])
    for output, name in zip(model.outputs, outputs_of(network), strict=True):
        output.tensor.set_names({name})
    save_model(model, file, compress_to_fp16=False)
    return {"versions": {name: version(name) for name in ("torch", "openvino")}}


def _write_executorch(network: nn.Module, example: Tensor, file: Path) -> dict[str, Any]:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    # for one image, as phones use it: ExecuTorch plans the memory of the largest batch
    program = torch.export.export(network, (example[:1],), strict=False)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    file.write_bytes(lowered.buffer)
    return {"versions": {name: version(name) for name in ("torch", "executorch")}}


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Hide what libraries log below errors."""
    hidden = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(hidden)


def outputs_of(network: nn.Module) -> list[str]:
    """Return the names of the outputs of a network."""
    return [OUTPUT, *([SCORE] if isinstance(network, LogitsAndScore) else [])]


def _any_batch() -> dict[str, dict[int, Any]]:
    # torch 2.6 expects a largest size
    return {INPUT: {0: torch.export.Dim("batch", min=1, max=2**31 - 1)}}


FORMATS = {
    "onnx": Format(_write_onnx, RUNTIMES["onnx"], packages=("onnx", "onnxscript", "onnxruntime")),
    "openvino": Format(_write_openvino, RUNTIMES["openvino"], packages=("openvino",)),
    "torchscript": Format(_write_torchscript, RUNTIMES["torchscript"], is_deprecated=True),
    "torch_export": Format(_write_torch_export, RUNTIMES["torch_export"]),
    "executorch": Format(_write_executorch, RUNTIMES["executorch"], packages=("executorch",)),
}
