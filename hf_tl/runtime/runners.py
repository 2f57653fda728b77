"""Exported files, run by their own runtimes."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_tl.errors import ConfigError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from torch import Tensor

INPUT, OUTPUT = "pixel_values", "logits"
Runner = Callable[[np.ndarray], np.ndarray]
"""Function from `pixel_values` (batch, channels, height, width), float32, to `logits` (batch, classes)."""


@dataclass(frozen=True)
class Runtime:
    """Runtime of a format."""

    name: str
    file: str
    """Name of the exported file."""
    open: Callable[[Path], Runner]
    package: str
    """Package of the runtime."""
    advice: str
    """Command that installs it."""

    def check_installed(self, file: Path) -> None:
        """Check that the runtime of a file is installed.

        Raises:
            ConfigError: It is not.
        """
        if find_spec(self.package) is None:
            raise ConfigError(f"{file} runs with the package {self.package}, which is not installed: {self.advice}")


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
    """Return a session as a function from `pixel_values` to `logits`."""
    return lambda pixels: run_session(session, INPUT, pixels, OUTPUT)


def run_session(session: "InferenceSession", input_: str, value: np.ndarray, output: str) -> np.ndarray:
    """Run a session with one input for one output.

    Raises:
        RuntimeError: ONNX Runtime cannot run it.
    """
    with _failures():
        return np.asarray(session.run([output], {input_: value})[0])


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


def _torch_runner(module: Callable[["Tensor"], "Tensor"]) -> Runner:
    import torch

    def run(pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(pixels)).numpy()

    return run


RUNTIMES = {
    "onnx": Runtime("ONNX Runtime", "model.onnx", open_onnx, "onnxruntime", 'pip install "hf-tl[runtime]"'),
    "torchscript": Runtime("TorchScript", "model.pt", open_torchscript, "torch", "pip install torch"),
    "torch_export": Runtime("torch.export", "model.pt2", open_torch_export, "torch", "pip install torch"),
}
"""Runtimes by the name of their format."""
