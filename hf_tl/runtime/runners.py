"""Exported files, run by their own runtimes."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_tl.errors import ConfigError

if TYPE_CHECKING:
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
    from onnxruntime import InferenceSession, SessionOptions
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    # these are not subclasses of RuntimeError
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    failures = tuple(getattr(state, name) for name in names)

    options = SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except failures as error:
        raise RuntimeError(str(error)) from error

    def run(pixels: np.ndarray) -> np.ndarray:
        try:
            return session.run([OUTPUT], {INPUT: pixels})[0]
        except failures as error:
            raise RuntimeError(str(error)) from error

    return run


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
