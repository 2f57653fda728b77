"""One forward pass of a network over the sample, cached on disk."""

import contextlib
import functools
import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hf_tl.advisor.measuring.depths import Depths
from hf_tl.backbones.prefix.folding import folded_where_equal
from hf_tl.backbones.stages.freezing import freeze
from hf_tl.backbones.stages.modules import inference
from hf_tl.backbones.weights.digest import digest
from hf_tl.data.decoding.images import ImageTransform
from hf_tl.data.decoding.pixels import pixel_batches
from hf_tl.data.decoding.stored import digest_image
from hf_tl.data.fingerprint import digest_in_order, map_images
from hf_tl.errors import TrainingError, name_some
from hf_tl.features.description import Layout
from hf_tl.features.feature_store import FeatureRows, FeatureStore, key_of
from hf_tl.reporting.console import progress_bar, say

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

BATCH = 64
NOT_COMPUTED = ("_name_or_path", "hf_tl", "transformers_version")
"""Config keys that do not change the features."""


@dataclass(frozen=True)
class Observation:
    """Features and logits of a network for a list of images."""

    depths: dict[str, np.ndarray]
    """Features at the end of each backbone stage, of shape (images, values), in forward order."""
    logits: np.ndarray
    """Logits of shape (images, classes of the pretrained head)."""
    is_cached: bool = False
    """Whether an earlier run computed them."""

    @property
    def last(self) -> np.ndarray:
        """Return the head's input, of shape (images, values)."""
        return list(self.depths.values())[-1]


def observe(
    model: "PreTrainedModel",
    images: "Dataset",
    transform: ImageTransform,
    device: torch.device,
    store: FeatureStore | None = None,
) -> Observation:
    """Compute the features and logits of images, or read them from the cache.

    Args:
        model: Classifier; it is frozen and put into inference mode.
        images: Images to run the network on.
        transform: Deterministic transform.
        device: Device of the forward pass.
        store: Feature cache; None for no caching. A cache that cannot be written to is ignored.

    Raises:
        TrainingError: Features or logits are not finite.
    """
    model.to(device).eval()
    depths = Depths(model)
    made_of = {} if store is None else _made_of(model, images, transform)
    key = key_of(made_of)
    cached = None if store is None else store.find(key)[0]
    if cached is not None:
        say(None, f"Using features of {len(images):,} images at {len(depths.names)} depths from the cache")
        tensors = cached.read(range(len(images)))
    else:
        tensors = _compute(model, depths, images, transform, device)
        if store is not None:
            with contextlib.suppress(OSError):  # without the cache entry, the next run computes the features again
                _write(store, key, tensors, made_of)
    *features, logits = (tensor.numpy() for tensor in tensors)
    return Observation(dict(zip(depths.names, features, strict=True)), logits, cached is not None)


def _compute(
    model: "PreTrainedModel", depths: Depths, images: "Dataset", transform: ImageTransform, device: torch.device
) -> list[Tensor]:
    freeze(model, 1)
    batches: list[list[Tensor]] = []
    with (
        inference(model),
        contextlib.ExitStack() as stack,
        progress_bar(total=len(images), desc="Computing features", unit="image") as bar,
    ):
        for pixel_values in pixel_batches(images, transform, range(len(images)), BATCH, device):
            if not batches:
                check = functools.partial(_features, depths, pixel_values[:2])
                stack.enter_context(folded_where_equal(model, check))
            features, logits = depths.read(pixel_values)
            batches.append([tensor.float().cpu() for tensor in (*features, logits)])
            bar.update(len(pixel_values))
    tensors = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    is_finite = torch.stack([tensor.isfinite().all(1) for tensor in tensors]).all(0)
    if not is_finite.all():
        rows = (~is_finite).nonzero()[:, 0].tolist()
        raise TrainingError(
            f"expected finite features and logits of {type(model).__name__}, found NaN or infinity for {len(rows)} of "
            f"{len(images)} images (rows of the sample: {name_some(rows)}); choose other weights"
        )
    return tensors


def _features(depths: Depths, pixel_values: Tensor) -> list[Tensor]:
    return depths.read(pixel_values)[0]


def _made_of(model: "PreTrainedModel", images: "Dataset", transform: ImageTransform) -> dict[str, Any]:
    """Return everything that the features depend on."""
    settings = json.loads(model.config.to_json_string(use_diff=False))
    return {
        "depths": 1,
        "tensors": digest(model.state_dict()),
        "network": [type(model).__name__, {name: settings[name] for name in settings if name not in NOT_COMPUTED}],
        "images": digest_in_order(map_images(images, "the sample", digest_image)),
        "transform": transform.describe(),
        "device": next(model.parameters()).device.type,
        "versions": {name: version(name) for name in ("torch", "torchvision", "transformers", "timm", "pillow")},
    }


def _write(store: FeatureStore, key: str, tensors: list[Tensor], made_of: dict[str, Any]) -> None:
    """Write the features as a cache entry, which `hf-tl cache` lists.

    Raises:
        OSError: The disk is full or read-only.
    """
    layouts = [Layout(tuple(tensor.shape[1:]), tensor.dtype) for tensor in tensors]
    with store.lock(key):
        partial = store.begin(key, layouts, len(tensors[0]))
        try:
            rows = FeatureRows(partial, layouts, len(tensors[0]), writable=True)
            rows.write(0, tensors)
            store.commit(key, f"evidence, {len(tensors[0]):,} images at {len(tensors) - 1} depths", rows, made_of)
        finally:
            store.discard(key)
