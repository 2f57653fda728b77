"""Features of images by a pretrained backbone, and embeddings: their principal components."""

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hf_tl.advisor.measuring.depths import Depths
from hf_tl.backbones.prefix.folding import folded_where_equal
from hf_tl.backbones.stages.freezing import freeze
from hf_tl.backbones.stages.modules import inference
from hf_tl.data.decoding.images import ImageTransform
from hf_tl.errors import ModelError
from hf_tl.features.feature_store import FeatureRows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_tl.backbones.candidates import Backbone

COMPONENTS = 256
"""Number of principal components that are kept: memory per image, and time per pair of images."""
CHUNK = 4096
"""Number of images whose features are in memory at a time."""
QUERIES, REFERENCES = 2048, 4096
"""Size of the blocks in which all pairs are compared; memory does not depend on the number of images."""


class Embedder:
    """Frozen backbone that computes features: the head's input.

    Args:
        backbone: Backbone to load.
        device: Device of the forward passes.

    Raises:
        ModelError: The backbone cannot be loaded.
    """

    def __init__(self, backbone: "Backbone", device: torch.device) -> None:
        model, preprocessing = backbone.load()
        self.model: PreTrainedModel = model.to(device).eval()  # type: ignore[arg-type]
        freeze(self.model, 1)
        self.transform: ImageTransform = preprocessing.transforms().eval
        self.device = device
        self._depths = Depths(self.model)

    @contextlib.contextmanager
    def ready(self, pixel_values: Tensor) -> Iterator[None]:
        """Prepare the network for a pass while the context is open; `pixel_values` are some of the images."""
        with (
            inference(self.model),
            folded_where_equal(self.model, functools.partial(self._read, pixel_values[:2].to(self.device))),
        ):
            yield

    def features(self, pixel_values: Tensor) -> Tensor:
        """Return the features (images, values) of a batch.

        Raises:
            ModelError: A feature is not finite.
        """
        pixel_values = pixel_values.to(self.device).contiguous(memory_format=torch.channels_last)
        features = self._read(pixel_values)[-1].float().cpu()
        if not features.isfinite().all():
            raise ModelError("the backbone gives features that are not finite for some images; choose other weights")
        return features

    def _read(self, pixel_values: Tensor) -> list[Tensor]:
        return self._depths.read(pixel_values)[0]


def embed(features: FeatureRows, sample: np.ndarray, rows: np.ndarray) -> Tensor:
    """Project features to their principal components, and scale them to length 1.

    Args:
        features: Features of all images.
        sample: Rows that the components are fitted to.
        rows: Rows to embed.

    Returns:
        Embeddings (rows, components), float16.
    """
    fitted = features.read(sample.tolist())[0]
    mean = fitted.mean(0)
    centered = fitted.sub_(mean)
    _, axes = torch.linalg.eigh(centered.T @ centered)
    axes = axes.flip(1)[:, :COMPONENTS].contiguous()
    embeddings = torch.empty(len(rows), axes.shape[1], dtype=torch.float16)
    for first in range(0, len(rows), CHUNK):
        chunk = features.read(rows[first : first + CHUNK].tolist())[0]
        embeddings[first : first + CHUNK] = torch.nn.functional.normalize((chunk - mean) @ axes).half()
    return embeddings


def nearest_neighbors(embeddings: Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest neighbors of each image by cosine similarity, in blocks.

    Args:
        embeddings: Embeddings of length 1 (images, values).
        count: Number of neighbors; fewer where there are not so many other images.

    Returns:
        Similarities and places of the neighbors, each (images, count), the nearest first.
    """
    count = min(count, len(embeddings) - 1)
    similarities = np.empty((len(embeddings), count), np.float32)
    neighbors = np.empty((len(embeddings), count), np.int32)
    for first in range(0, len(embeddings), QUERIES):
        queries = embeddings[first : first + QUERIES].float()
        best = torch.full((len(queries), count), -2.0)
        places = torch.zeros((len(queries), count), dtype=torch.long)
        for start in range(0, len(embeddings), REFERENCES):
            similarity = queries @ embeddings[start : start + REFERENCES].float().T
            own = torch.arange(first, first + len(queries)) - start
            is_here = (own >= 0) & (own < similarity.shape[1])
            similarity[is_here.nonzero()[:, 0], own[is_here]] = -2.0
            values, columns = similarity.topk(min(count, similarity.shape[1]))
            best, order = torch.cat([best, values], dim=1).topk(count)
            places = torch.cat([places, columns + start], dim=1).gather(1, order)
        similarities[first : first + QUERIES] = best.numpy()
        neighbors[first : first + QUERIES] = places.numpy()
    return similarities, neighbors
