"""What is measured of the data and of each backbone, before anything is recommended."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_tl.advisor.observation import observe
from hf_tl.advisor.probes import LearningCurve, Probe, learning_curve, linear_probe, nearest_neighbours
from hf_tl.advisor.sample import Sample
from hf_tl.advisor.similarity import COMPARED, Similarity, compare_with_untrained
from hf_tl.advisor.transferability import h_score, leep, logme, nce
from hf_tl.backbones.provenance import provenance_of
from hf_tl.evaluation.paired import difference_p_value

if TYPE_CHECKING:
    from hf_tl.backbones.candidates import Backbone
    from hf_tl.data.datasets import ImageData
    from hf_tl.features.feature_store import FeatureStore

SIGNIFICANT = 0.01
"""Of the tests whether anything can be learned, and whether an earlier stage serves better, before the correction for
their number (Bonferroni)."""


@dataclass(frozen=True)
class DepthEvidence:
    """How well the features at the end of a stage serve."""

    stage: str
    values: int
    """Of an image."""
    linear: Probe
    strength: float
    """Of the linear probe's L2 penalty."""
    neighbours: Probe
    logme: float
    h_score: float

    def to_record(self) -> dict[str, Any]:
        """Write it as plain values."""
        return {
            "stage": self.stage,
            "values": self.values,
            "linear_probe": self.linear.accuracy.to_record(),
            "nearest_neighbours": self.neighbours.accuracy.to_record(),
            "logme": self.logme,
            "h_score": self.h_score,
        }


@dataclass(frozen=True)
class SourceHead:
    """What the classes of the pretraining data tell about the images."""

    classes: int
    confidence: float
    """The mean probability of the most probable class; high where the images look like those of the pretraining."""
    entropy: float
    """The mean entropy of the probabilities: 0 where they are sure, 1 where all classes are as probable."""
    nce: float
    leep: float
    label_entropy: float
    """-H(Y), in nats: what NCE and LEEP are when the source's classes tell nothing."""


@dataclass(frozen=True)
class BackboneEvidence:
    """What is measured of one backbone."""

    name: str
    parameters: int
    input_size: tuple[int, int, int]
    depths: tuple[DepthEvidence, ...]
    """In forward order; the last is what the head is given."""
    similarity: Similarity
    source: SourceHead | None
    """None where the weights have no head of their own."""
    curve: LearningCurve | None
    """Of the linear probe at the last depth; None where there are too few images."""

    @property
    def head(self) -> DepthEvidence:
        """The depth that a head is given."""
        return self.depths[-1]

    @property
    def p_value(self) -> float:
        """How probable results as good as the best depth's are by chance, corrected for the number of depths."""
        return min(1.0, len(self.depths) * min(depth.linear.p_value for depth in self.depths))

    @property
    def best(self) -> DepthEvidence:
        """The depth whose probe is right most often; of equals, the last."""
        return max(reversed(self.depths), key=lambda depth: depth.linear.accuracy.value)

    @property
    def best_p_value(self) -> float:
        """How probable it is by chance that the best depth is better than the last one, corrected for their number."""
        p_value = difference_p_value(self.best.linear.is_right, self.head.linear.is_right)
        return min(1.0, p_value * max(1, len(self.depths) - 1))

    def to_record(self) -> dict[str, Any]:
        """Write it as plain values."""
        return {
            "backbone": self.name,
            "parameters": self.parameters,
            "input_size": list(self.input_size),
            "depths": [depth.to_record() for depth in self.depths],
            "best_depth": self.best.stage,
            "best_p_value": self.best_p_value,
            "p_value": self.p_value,
            "similarity": self.similarity.to_record(),
            "source_head": None if self.source is None else vars(self.source),
            "learning_curve": None if self.curve is None else vars(self.curve),
        }


def ask_source_head(logits: np.ndarray, sample: Sample) -> SourceHead:
    """See what the source head makes of the images.

    Args:
        logits: (images, classes of the source).
        sample: the images.
    """
    log_p = torch.as_tensor(logits).double().log_softmax(1)
    p = log_p.exp()
    shares = np.bincount(sample.labels) / len(sample.labels)
    return SourceHead(
        classes=logits.shape[1],
        confidence=float(p.amax(1).mean()),
        entropy=float(-torch.xlogy(p, p).sum(1).mean() / np.log(logits.shape[1])),
        nce=nce(log_p.argmax(1).numpy(), sample.labels),
        leep=leep(log_p.numpy(), sample.labels),
        label_entropy=float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum()),
    )


def gather_evidence(
    backbone: "Backbone",
    data: "ImageData",
    sample: Sample,
    device: torch.device,
    seed: int,
    store: "FeatureStore | None" = None,
) -> BackboneEvidence:
    """Measure one backbone: a pass over the sample, and one of the same architecture with random weights over a part.

    Args:
        backbone: to load.
        data: where the sample is from.
        sample: the images.
        device: to run on.
        seed: of folds and random weights.
        store: where features are cached, if they are.

    Raises:
        ModelError: the backbone cannot be had.
        TrainingError: it gives no numbers.
    """
    model, preprocessing = backbone.load()
    transform = preprocessing.transforms().eval
    seen = observe(model, sample.images, transform, device, store)
    few = min(COMPARED, len(sample.images))
    untrained = observe(backbone.load(pretrained=False)[0], sample.images.select(range(few)), transform, device)
    labels, classes = sample.labels, len(sample.classes)
    depths = tuple(
        DepthEvidence(
            stage,
            features.shape[1],
            *linear_probe(features, labels, classes, seed),
            nearest_neighbours(features, labels, seed),
            logme(features, labels),
            h_score(features, labels),
        )
        for stage, features in seen.depths.items()
    )
    compared = depths[-1].linear
    if few < len(labels):
        compared, _ = linear_probe(seen.last[:few], labels[:few], classes, seed)
    return BackboneEvidence(
        name=backbone.name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        input_size=preprocessing.input_size,
        depths=depths,
        similarity=compare_with_untrained(compared, untrained, classes, seed),
        source=ask_source_head(seen.logits, sample) if provenance_of(model).origin.head == "kept" else None,
        curve=learning_curve(seen.last, depths[-1].linear, classes, depths[-1].strength, seed=seed),
    )
