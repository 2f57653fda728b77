"""Evidence of a recommendation: measurements of each backbone on the sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_tl.advisor.measuring.observation import Observation, observe
from hf_tl.advisor.measuring.probes import (
    LearningCurve,
    Probe,
    learning_curve,
    linear_probe,
    nearest_neighbors,
    probe_p_value,
)
from hf_tl.advisor.measuring.sample import Sample
from hf_tl.advisor.measuring.series import Gap, Series, compare_folds, series_of
from hf_tl.advisor.measuring.similarity import COMPARED, Similarity, compare_with_untrained
from hf_tl.advisor.measuring.transferability import h_score, leep, logme, nce
from hf_tl.backbones.stages.family import family_of
from hf_tl.backbones.weights.provenance import provenance_of
from hf_tl.errors import ModelError, TrainingError
from hf_tl.recipes.families import HIERARCHICAL, Family

if TYPE_CHECKING:
    from hf_tl.backbones.candidates import Backbone
    from hf_tl.features.feature_store import FeatureStore

SIGNIFICANT = 0.01
"""Significance level, before the Bonferroni correction, of the tests whether anything can be learned and whether an
earlier stage is better."""


@dataclass(frozen=True)
class DepthEvidence:
    """Quality of the features at the end of a stage."""

    stage: str
    values: int
    """Dimension of the features."""
    linear: Probe
    strength: float
    """L2 penalty of the linear probe."""
    neighbors: Probe
    logme: float
    h_score: float

    def to_record(self) -> dict[str, Any]:
        """Return the evidence as plain values."""
        return {
            "stage": self.stage,
            "values": self.values,
            "linear_probe": self.linear.accuracy.to_record(),
            "nearest_neighbors": self.neighbors.accuracy.to_record(),
            "logme": self.logme,
            "h_score": self.h_score,
        }


@dataclass(frozen=True)
class SourceHead:
    """Predictions of the pretrained head on the images."""

    classes: int
    confidence: float
    """Mean probability of the most probable class; high for images like those of the pretraining."""
    entropy: float
    """Mean normalized entropy of the probabilities: 0 for certain predictions, 1 for uniform ones."""
    nce: float
    leep: float
    label_entropy: float
    """Entropy of the labels -H(Y), in nats: NCE and LEEP of an uninformative head."""


@dataclass(frozen=True)
class BackboneEvidence:
    """Measurements of one backbone."""

    name: str
    parameters: int
    input_size: tuple[int, int, int]
    depths: tuple[DepthEvidence, ...]
    """Evidence of each depth, in forward order; the last depth is the head's input."""
    similarity: Similarity
    source: SourceHead | None
    """Evidence of the pretrained head; None for weights without one."""
    curve: LearningCurve | None
    """Learning curve of the linear probe at the last depth; None for too few images."""
    gap: Gap | None = None
    """Accuracy at the last depth in random folds and where whole series are held out; None without series."""
    reuses_features: bool = False
    """Whether the features were in the cache, computed by an earlier run."""
    family: Family = HIERARCHICAL
    """Family of the backbone, which the recipe follows."""

    @property
    def head(self) -> DepthEvidence:
        """Return the evidence of the head's input."""
        return self.depths[-1]

    @property
    def p_value(self) -> float:
        """Return the p-value of the best depth against chance, with Bonferroni correction."""
        return min(1.0, len(self.depths) * min(depth.linear.p_value for depth in self.depths))

    @property
    def best(self) -> DepthEvidence:
        """Return the depth with the highest linear probe accuracy; the last one of equals."""
        return max(reversed(self.depths), key=lambda depth: depth.linear.accuracy.value)

    @property
    def best_p_value(self) -> float:
        """Return the p-value of the best depth against the last one, with Bonferroni correction."""
        p_value = probe_p_value(self.best.linear, self.head.linear)
        return min(1.0, p_value * max(1, len(self.depths) - 1))

    def to_record(self) -> dict[str, Any]:
        """Return the measurements as plain values."""
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
            "learning_curve": None if self.curve is None else self.curve.to_record(),
            "series": None if self.gap is None else self.gap.to_record(),
        }


def measure_source_head(logits: np.ndarray, sample: Sample) -> SourceHead:
    """Compute confidence, entropy, NCE and LEEP of the pretrained head on the sample.

    Args:
        logits: Logits of shape (images, classes of the pretrained head).
        sample: Sample that the logits belong to.
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


@dataclass(frozen=True)
class Observed:
    """A backbone and what it computes of the sample."""

    name: str
    parameters: int
    input_size: tuple[int, int, int]
    family: Family
    keeps_head: bool
    """Whether the weights have a pretrained head."""
    pretrained: Observation
    untrained: Observation
    """Features of the same architecture with random weights, of the first images."""


def observe_backbone(
    backbone: "Backbone", sample: Sample, device: torch.device, store: "FeatureStore | None" = None
) -> Observed:
    """Run one backbone on the sample, and the same architecture with random weights on a part of it.

    Args:
        backbone: Backbone to load.
        sample: Images and labels.
        device: Device of the forward passes.
        store: Feature cache; None for no caching.

    Raises:
        ModelError: The backbone cannot be loaded.
        TrainingError: Its features or logits are not finite.
    """
    model, preprocessing = backbone.load()
    transform = preprocessing.transforms().eval
    first_images = sample.images.select(range(min(COMPARED, len(sample.images))))
    return Observed(
        name=backbone.name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        input_size=preprocessing.input_size,
        family=family_of(model),
        keeps_head=provenance_of(model).origin.head == "kept",
        pretrained=observe(model, sample.images, transform, device, store),
        untrained=observe(backbone.load(pretrained=False)[0], first_images, transform, device),
    )


def gather_evidence(observed: Observed, sample: Sample, series: Series | None, seed: int) -> BackboneEvidence:
    """Measure the features of one backbone; all cross-validation holds out whole series.

    Args:
        observed: Features of the backbone.
        sample: Images and labels.
        series: Series of the images; None if they are independent.
        seed: Random seed of the folds.

    Raises:
        TrainingError: The loss of a linear probe is not finite.
    """
    pretrained, labels, classes = observed.pretrained, sample.labels, len(sample.classes)
    groups = None if series is None else series.groups
    depths = tuple(
        DepthEvidence(
            stage,
            features.shape[1],
            *linear_probe(features, labels, classes, seed, groups),
            nearest_neighbors(features, labels, seed, groups),
            logme(features, labels),
            h_score(features, labels),
        )
        for stage, features in pretrained.depths.items()
    )
    compared, first = depths[-1].linear, slice(len(observed.untrained.last))
    if len(observed.untrained.last) < len(labels):
        first_groups = None if groups is None else groups[first]
        compared, _ = linear_probe(pretrained.last[first], labels[first], classes, seed, first_groups)
    gap = None
    if series is not None:
        gap = compare_folds(series, linear_probe(pretrained.last, labels, classes, seed)[0], depths[-1].linear)
    probe, strength = depths[-1].linear, depths[-1].strength
    return BackboneEvidence(
        name=observed.name,
        parameters=observed.parameters,
        input_size=observed.input_size,
        depths=depths,
        similarity=compare_with_untrained(compared, observed.untrained, classes, seed),
        source=measure_source_head(pretrained.logits, sample) if observed.keeps_head else None,
        curve=learning_curve(pretrained.last, probe, classes, strength, seed=seed),
        gap=gap,
        reuses_features=pretrained.is_cached,
        family=observed.family,
    )


def measure_backbones(
    backbones: "Sequence[Backbone]",
    sample: Sample,
    device: torch.device,
    seed: int,
    unreadable: Mapping[str, str],
    store: "FeatureStore | None",
) -> "tuple[dict[Backbone, BackboneEvidence], dict[str, str]]":
    """Gather the evidence of all backbones that load, and the errors of the others, by name.

    Args:
        backbones: Backbones to load.
        sample: Images and labels.
        device: Device of the forward passes.
        seed: Random seed of the folds and the random weights.
        unreadable: Errors of further backbones, by name.
        store: Feature cache; None for no caching.

    Raises:
        ModelError: No backbone loads.
    """
    observed: dict[Backbone, Observed] = {}
    evidence: dict[Backbone, BackboneEvidence] = {}
    unavailable = dict(unreadable)
    for backbone in backbones:
        torch.manual_seed(seed)  # random weights independent of earlier backbones
        try:
            observed[backbone] = observe_backbone(backbone, sample, device, store)
        except (ModelError, TrainingError) as error:
            unavailable[backbone.name] = str(error)
    # all backbones in the same folds, which the features of the first one decide where the data name no groups
    features = next(iter(observed.values())).pretrained.last if observed else None
    series = None if features is None else series_of(features, sample.labels, sample.groups, sample.pairs)
    for backbone, features_of in observed.items():
        try:
            evidence[backbone] = gather_evidence(features_of, sample, series, seed)
        except TrainingError as error:
            unavailable[backbone.name] = str(error)
    if not evidence:
        raise ModelError("no backbone can be measured: " + "; ".join(unavailable.values()))
    return evidence, unavailable
