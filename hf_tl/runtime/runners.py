"""Exported files, run by their own runtimes."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_tl.errors import ConfigError
from hf_tl.runtime.signal_stack import kept_signal_stack

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from torch import Tensor

INPUT, OUTPUT, SCORE = "pixel_values", "logits", "ood_score"


@dataclass(frozen=True)
class Runner:
    """Exported file in its runtime: `pixel_values` (batch, channels, height, width), float32, to its outputs."""

    outputs: Callable[[np.ndarray], Sequence[np.ndarray]]
    """Function that returns `logits` (batch, classes), and of a file that abstains `ood_score` (batch,)."""

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Return the logits."""
        return self.outputs(pixels)[0]


@dataclass(frozen=True)
class Runtime:
    """Runtime of a format."""

    name: str
    file: str
    """Name of the exported file."""
    open: Callable[..., Runner]
    """Function that loads a file; where the runtime is not torch, it takes `threads`."""
    package: str
    """Package of the runtime."""
    advice: str
    """Command that installs it."""
    weights: Callable[[Path], Path] | None = None
    """File of the weights of an exported file, where they may lie in one of their own."""

    def check_installed(self, file: Path) -> None:
        """Check that the runtime of a file is installed.

        Raises:
            ConfigError: It is not.
        """
        if find_spec(self.package) is None:
            raise ConfigError(f"{file} runs with the package {self.package}, which is not installed: {self.advice}")

    def parts(self, file: Path) -> tuple[Path, ...]:
        """Return an exported file and that of its weights, where the format may have one, whether they exist or not."""
        return (file,) if self.weights is None else (file, self.weights(file))


def open_onnx(file: Path, threads: int = 0) -> Runner:
    """Load a file with ONNX Runtime on the CPU; `threads=0` uses all cores.

    Raises:
        RuntimeError: ONNX Runtime cannot load it, or later run it.
    """
    return session_runner(open_session(file, threads))


def open_session(file: Path, threads: int = 0) -> "InferenceSession":
    """Load a file with ONNX Runtime as `open_onnx` does, whatever its inputs and outputs are."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = threads
    with _failures():
        return InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def session_runner(session: "InferenceSession") -> Runner:
    """Return a session as a function from `pixel_values` to its outputs."""
    names = [output.name for output in session.get_outputs()]
    wanted = [name for name in (OUTPUT, SCORE) if name == OUTPUT or name in names]
    return Runner(lambda pixels: run_session(session, INPUT, pixels, wanted))


def run_session(
    session: "InferenceSession", input_: str, value: np.ndarray, outputs: Sequence[str]
) -> list[np.ndarray]:
    """Run a session with one input for some outputs.

    Raises:
        RuntimeError: ONNX Runtime cannot run it.
    """
    with _failures():
        return [np.asarray(result) for result in session.run(list(outputs), {input_: value})]


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Convert exceptions of ONNX Runtime, which are not subclasses of RuntimeError."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    try:
        yield
    except tuple(getattr(state, name) for name in names) as error:
        raise RuntimeError(str(error)) from error


def open_torchscript(file: Path) -> Runner:
    """Load a TorchScript file, whose program runs with the rights of this process."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return _torch_runner(torch.jit.load(str(file)))


def open_torch_export(file: Path) -> Runner:
    """Load a file of torch.export, whose program runs with the rights of this process."""
    import torch

    return _torch_runner(torch.export.load(file).module())


def open_openvino(file: Path, threads: int = 0) -> Runner:
    """Load a file with OpenVINO on the CPU, in float32; `threads=0` uses all cores.

    Raises:
        RuntimeError: OpenVINO cannot load it, or later run it.
    """
    from openvino import Core

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}  # else bfloat16 where it is fast
    with kept_signal_stack():
        compiled = Core().compile_model(str(file), "CPU", settings)
    names = [name for name in (OUTPUT, SCORE) if name == OUTPUT or len(compiled.outputs) > 1]

    def run(pixels: np.ndarray) -> list[np.ndarray]:
        results = compiled({INPUT: pixels})
        return [np.array(results[name]) for name in names]

    return Runner(run)


def open_executorch(file: Path) -> Runner:
    """Load a file with ExecuTorch, which takes one image at a time.

    Raises:
        RuntimeError: ExecuTorch cannot load it, or later run it.
    """
    import torch
    from executorch.runtime import Runtime as Library

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the API of its Python runtime may change
        program = Library.get().load_program(file)
    method = program.load_method("forward")
    if method is None:
        raise RuntimeError(f"{file} has no method `forward`")

    def run(pixels: np.ndarray) -> list[np.ndarray]:
        # the method writes each result over the one before
        results = [
            [result.numpy().copy() for result in method.execute([image])] for image in torch.from_numpy(pixels).split(1)
        ]
        return [np.concatenate(parts) for parts in zip(*results, strict=True)]

    return Runner(run)


def _torch_runner(module: Callable[["Tensor"], Any]) -> Runner:
    import torch

    def run(pixels: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            results = module(torch.from_numpy(pixels))
        return [result.numpy() for result in (results if isinstance(results, tuple) else (results,))]

    return Runner(run)


RUNTIMES = {
    "onnx": Runtime(
        "ONNX Runtime",
        "model.onnx",
        open_onnx,
        "onnxruntime",
        'pip install "hf-tl[runtime]"',
        weights=lambda file: file.with_name(f"{file.name}.data"),
    ),
    "openvino": Runtime(
        "OpenVINO",
        "model.xml",
        open_openvino,
        "openvino",
        'pip install "hf-tl[openvino]"',
        weights=lambda file: file.with_suffix(".bin"),
    ),
    "torchscript": Runtime("TorchScript", "model.pt", open_torchscript, "torch", "pip install torch"),
    "torch_export": Runtime("torch.export", "model.pt2", open_torch_export, "torch", "pip install torch"),
    "executorch": Runtime("ExecuTorch", "model.pte", open_executorch, "executorch", 'pip install "hf-tl[executorch]"'),
}
"""Runtimes by the name of their format."""


def runtime_of(file: Path) -> Runtime:
    """Return the runtime of an exported file, by its suffix."""
    return next(runtime for runtime in RUNTIMES.values() if Path(runtime.file).suffix == file.suffix)


def parts_of(file: Path) -> list[Path]:
    """Return those of the parts of an exported file that exist: the file, and that of its weights."""
    return [part for part in runtime_of(file).parts(file) if part.is_file()]


def size_of(file: Path) -> int:
    """Return the size of a model file in bytes, including external weights."""
    return sum(part.stat().st_size for part in parts_of(file))
