"""Logits of a teacher for the images of a phase: cached beside its features, or computed for each batch."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hf_tl.data.decoding.images import Transforms
from hf_tl.distillation.teacher import Teacher
from hf_tl.features.description import Layout
from hf_tl.features.feature_pass import FeaturePass, FeatureSet, Prefix, list_feature_sets, network_settings, parts_of
from hf_tl.features.inputs import FeatureViews, PhaseInputs
from hf_tl.processes.precision import FLOAT32
from hf_tl.record.parts import PrecisionRecord

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset

    from hf_tl.config import TrainingConfig
    from hf_tl.data.streaming.streams import StreamedImages
    from hf_tl.features.features import Features
    from hf_tl.phase import Phase


class TeacherPass(FeaturePass):
    """Pass of a teacher over the views of a student: its "features" are the logits.

    Args:
        accelerator: Accelerator; its processes share the images.
        teacher: Teacher.
        config: Batch sizes.
    """

    title = "Logits of the teacher"

    def __init__(self, accelerator: "Accelerator", teacher: Teacher, config: "TrainingConfig") -> None:
        self.accelerator, self.teacher, self.config = accelerator, teacher, config
        self.precision = PrecisionRecord(FLOAT32)

    @property
    def layouts(self) -> list[Layout]:
        """Storage layout of the logits."""
        return [Layout((len(self.teacher.labels),), torch.float32)]

    @property
    def place(self) -> str:
        """Part of the network that the images pass."""
        return f"through the teacher {self.teacher.classifier.name}"

    def made_of(self, feature_set: FeatureSet, order: str) -> dict[str, Any]:
        """Return everything that the logits of a set depend on."""
        teacher = self.teacher
        return {
            **parts_of(feature_set, order, teacher.identity()),
            "teacher": [type(teacher.classifier.model).__name__, network_settings(teacher.classifier.model)],
            "labels": list(teacher.labels),
            "conversion": repr(teacher.view),
        }

    @contextlib.contextmanager
    def prefix(self, pixel_values: Tensor) -> Iterator[Prefix]:
        """Return the function from the inputs of the student to the logits."""
        yield lambda pixel_values: [self.teacher.logits(pixel_values)]

    def _compiled(self, prefix: Prefix, batch: Tensor, is_main: bool) -> Prefix:
        return prefix


def taught(
    inputs: PhaseInputs,
    teacher: Teacher | None,
    phase: "Phase",
    transforms: Transforms,
    images: "Dataset | StreamedImages",
    features: "Features",
) -> PhaseInputs | None:
    """Add the logits of a teacher to the inputs of a phase.

    Args:
        inputs: Images, on whose pixels the teacher runs in each step; or features, beside which its logits are cached.
        teacher: Teacher, if there is one.
        phase: Phase.
        transforms: Transforms of its images.
        images: Training images.
        features: Features of the training, with their cache.

    Returns:
        The inputs; None if the logits cannot be cached.
    """
    if teacher is None or not phase.distillation_weight:
        return inputs
    if not isinstance(inputs.train, FeatureViews):
        return dataclasses.replace(inputs, taught=lambda batch: teacher.logits(batch["pixel_values"]))
    entries, config = features.entries, features.config
    passes = TeacherPass(features.accelerator, teacher, config)
    sets = list_feature_sets(config, phase, transforms, images, None)
    if not all(entries.is_cached(passes, part) for part in sets):
        count = sum(len(part.stored) for part in sets)
        size = count * passes.bytes_per_image / 1e6
        entries.say(f"Caching logits of the teacher for {count:,} images ({size:,.1f} MB)")
    rows = [entries.rows(passes, part) for part in sets]
    if any(each is None for each in rows):
        return None
    views = FeatureViews(inputs.train.views, inputs.train.labels, [each for each in rows if each is not None])
    return dataclasses.replace(inputs, train=views, taught=_cached)


def _cached(batch: Mapping[str, Any]) -> Tensor:
    """Return the logits that `FeatureViews` read with the features of a batch."""
    logits: Tensor = batch["taught"]
    return logits
