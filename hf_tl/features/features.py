"""Frozen part of a network in a phase: its output cached for each image, or computed fast in each step.

While a prefix is frozen, its output for an image does not change. Where that saves time, the prefix runs once over the
data, its output is cached on disk, and only the suffix trains on it, epoch after epoch. Elsewhere, as with augmented
images, each step runs the prefix without gradients, folded and in the precision that was measured to be fast.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from hf_tl.backbones.prefix.boundary import Boundary
from hf_tl.backbones.prefix.fast import FastPrefix
from hf_tl.backbones.prefix.search import find_boundary
from hf_tl.config import TrainingConfig
from hf_tl.data.columns import LABEL
from hf_tl.data.decoding.images import ImageTransform, Transforms, stack_labels
from hf_tl.data.streaming.streams import StreamedImages, first_image
from hf_tl.errors import ConfigError, StageError
from hf_tl.features.entries import TRAINING_ON_IMAGES, FeatureEntries
from hf_tl.features.feature_pass import FeaturePass, FeatureSet, first_trained, list_feature_sets, run_precision
from hf_tl.features.inputs import FeatureViews, LogitsOf, PhaseInputs, as_read, feature_logits
from hf_tl.features.obstacles import is_compiled, obstacle_of
from hf_tl.features.precision import choose_precision, describe_precision
from hf_tl.processes.precision import BFLOAT16, FLOAT32
from hf_tl.processes.sharding import ShardedAccelerator
from hf_tl.processes.together import on_all_processes, on_main_process
from hf_tl.record.parts import PrecisionRecord
from hf_tl.strategy import Phase

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedModel

DISK_BYTES_PER_SECOND = 500e6
"""Assumed read rate of a disk, for the estimate of the time saved. It is a lower bound."""


class Features:
    """Frozen part of a training: decides for each phase whether features save time, and loads or computes them.

    Args:
        accelerator: Accelerator; its processes share the work, and the main one decides and prints.
        model: Network in training, whole. A sharded copy of it may train; then it is frozen as the copy is.
        config: `feature_cache` and its settings, batch sizes and seed.
        orders: Order of the images in each split, if known: see `ImageData`.
    """

    def __init__(
        self,
        accelerator: "Accelerator",
        model: "PreTrainedModel",
        config: TrainingConfig,
        orders: Mapping[str, str] | None = None,
    ) -> None:
        self.accelerator, self.model, self.config = accelerator, model, config
        self.entries = FeatureEntries(accelerator, config, orders)
        self._current: FeaturePass | None = None

    def require(self, phases: Sequence[Phase]) -> None:
        """Reject phases that train on a stream without features and need random access to its images.

        Raises:
            ConfigError: A phase draws images at random.
        """
        for number, phase in enumerate(phases, start=1):
            if phase.balanced_sampling and (reason := obstacle_of(phase, self.config) or self._is_off()):
                raise ConfigError(
                    "--balanced_sampling draws images at random, which a stream supports only with cached features; "
                    f"phase {number} cannot cache them: {reason}. Use --class_weights balanced instead"
                )

    def _is_off(self) -> str | None:
        return "--feature_cache is off" if self.config.feature_cache == "off" else None

    def for_phase(
        self,
        phase: Phase,
        transforms: Transforms,
        train: "Dataset",
        validation: "Dataset | None",
        frozen: str,
        passes: float,
        decided: bool | None = None,
        precision: PrecisionRecord | None = None,
    ) -> PhaseInputs | None:
        """Find or compute the features of a phase.

        Args:
            phase: Phase, for which the model is frozen already.
            transforms: Transforms of its images.
            train: Training images.
            validation: Validation images, if any.
            frozen: Digest of the frozen tensors.
            passes: Number of passes over the training images.
            decided: Decision of the run before its interruption in this phase. None if there is none.
            precision: Precision of the frozen part in that run. None if there is none.

        Returns:
            The inputs of the phase; None if it trains on images.
        """
        self._current, self.entries.are_computed = None, False
        if self.config.feature_cache == "off" or decided is False:
            return None
        if reason := obstacle_of(phase, self.config):
            self._say(f"{TRAINING_ON_IMAGES}: {reason}", only_if_asked=True)
            return None
        if (boundary := self._boundary(transforms.eval, train)) is None:
            return None
        sets = list_feature_sets(self.config, phase, transforms, train, validation)
        is_streamed = isinstance(train, StreamedImages)
        # splits of one stream share its features
        passed = {(part.stored if is_streamed else part.split, str(part.transform), part.view): part for part in sets}
        sample = FeatureSet(train, transforms.eval, "train")
        feature_pass = self._pass(boundary, frozen, list(passed.values()), sample, precision)
        size = sum(len(part.stored) for part in passed.values()) * feature_pass.bytes_per_image
        if size > self.entries.store.limit:  # together: one set must not evict the other
            limit = self.config.feature_cache_gb
            self._say(f"{TRAINING_ON_IMAGES}: features of {size / 1e9:,.1f} GB exceed --feature_cache_gb {limit:g}")
            return None
        # without features, each epoch would read the stream again
        is_decided = decided is not None or is_streamed
        if not self._decide(feature_pass, list(passed.values()), None if is_decided else passes):
            return None
        rows = []
        for feature_set in sets:
            set_rows = self.entries.rows(feature_pass, feature_set)
            if set_rows is None:
                return None
            rows.append(set_rows)
        self._current = feature_pass
        views = rows if validation is None else rows[:-1]
        return PhaseInputs(
            train=FeatureViews(views, stack_labels(train[LABEL][:])),
            collate=as_read,
            validation=None if validation is None else FeatureViews(rows[-1:], stack_labels(validation[LABEL][:])),
            validation_collate=as_read,
            logits_of=feature_logits(feature_pass.boundary),
            are_features=True,
            are_reused=not self.entries.are_computed,
            frozen_precision=feature_pass.precision,
        )

    def fast_logits(
        self,
        phase: Phase,
        transform: ImageTransform,
        train: "Dataset | StreamedImages",
        passes: float,
        precision: PrecisionRecord | None = None,
    ) -> tuple[LogitsOf, PrecisionRecord] | None:
        """Return how a phase that trains on images computes logits: the frozen part fast, and then the rest.

        Args:
            phase: Phase, for which the model is frozen already.
            transform: Deterministic transform of its images.
            train: Training images.
            passes: Number of passes over them.
            precision: Precision of the frozen part before an interruption in this phase. None if there is none.

        Returns:
            The function from a batch of images to logits, and the precision of the frozen part; None if the network
            cannot be run in parts, if it is compiled as a whole, if everything trains, or if it is sharded without
            `feature_cache`: then no device holds it as a whole.
        """
        is_in_shards = self.config.feature_cache == "off" and isinstance(self.accelerator, ShardedAccelerator)
        if phase.trainable_stages == "all" or is_in_shards or is_compiled(self.accelerator):
            return None
        if (boundary := self._boundary(transform, train, quietly=True)) is None:
            return None
        pixel_values = FeatureSet(train, transform, "train").sample(self.accelerator.device)
        if precision is None:
            images = passes * len(train)
            precision = on_main_process(self.accelerator, lambda: self._measure(boundary, pixel_values, images))
        context = precision  # for the closure
        prefix = FastPrefix(self.model, boundary, pixel_values[:2], lambda: run_precision(self.accelerator, context))
        return prefix.logits, precision

    def of_images(
        self, images: "Dataset", transform: ImageTransform, split: str
    ) -> tuple[FeatureViews, LogitsOf] | None:
        """Find or compute the features of other images with the prefix of the last phase.

        Args:
            images: Images to evaluate.
            transform: Deterministic transform.
            split: Name of the split.

        Returns:
            The features, and the function from a batch of them to logits. None if the last phase trained on images, if
            the features are less precise than the network and the images are available, or if the model has other
            weights before the boundary now.
        """
        is_streamed = isinstance(images, StreamedImages)
        if self._current is None or not self._current.is_current():
            return None
        if self._current.precision.precision == BFLOAT16 and not is_streamed:
            return None
        rows = self.entries.rows(self._current, FeatureSet(images, transform, split))
        if rows is None:
            return None
        labels = stack_labels(images[LABEL][:])
        return FeatureViews([rows], labels), feature_logits(self._current.boundary)

    def _boundary(
        self, transform: ImageTransform, images: "Dataset | StreamedImages", *, quietly: bool = False
    ) -> Boundary | None:
        """Find the boundary of the network for images of one size; return None if there is none."""
        channels, height, width = transform(first_image(images)).shape

        def find() -> Boundary:
            with self.accelerator.autocast():
                return find_boundary(self.model.to(self.accelerator.device), (channels, height, width))

        try:
            return on_all_processes(self.accelerator, find)
        except StageError as error:
            if not quietly:
                self._say(f"{TRAINING_ON_IMAGES}: {error}")
            return None

    def _pass(
        self,
        boundary: Boundary,
        frozen: str,
        sets: Sequence[FeatureSet],
        sample: FeatureSet,
        precision: PrecisionRecord | None,
    ) -> FeaturePass:
        """Return the pass in the precision that is decided, in that of cached features, or in the fastest one."""
        feature_pass = FeaturePass(self.accelerator, self.model, self.config, boundary, frozen)

        def choose() -> PrecisionRecord:
            for cached in (FLOAT32, BFLOAT16) if self.config.feature_dtype == "auto" else ():
                candidate = feature_pass.in_precision(PrecisionRecord(cached))
                if all(self.entries.is_cached(candidate, part) for part in sets):
                    return candidate.precision
            images = sum(len(part.stored) for part in sets)
            return self._measure(boundary, sample.sample(self.accelerator.device), images)

        return feature_pass.in_precision(precision or on_main_process(self.accelerator, choose))

    def _measure(self, boundary: Boundary, pixel_values: Tensor, images: float) -> PrecisionRecord:
        """Choose the precision of the frozen part on some images, and print a measured choice."""
        prefix = FastPrefix(self.model, boundary, pixel_values[:2], contextlib.nullcontext)
        share = images / self.accelerator.num_processes
        precision = choose_precision(self.accelerator, self.config, prefix, pixel_values, share)
        if line := describe_precision(precision):
            self._say(f"Running the frozen stages before {first_trained(self.model)} in {line}")
        return precision

    def _decide(self, feature_pass: FeaturePass, sets: list[FeatureSet], passes: float | None) -> bool:
        """Decide whether to use features, on the main process; `passes` is None if that is decided already."""
        return on_main_process(self.accelerator, lambda: self._are_worthwhile(feature_pass, sets, passes))

    def _are_worthwhile(self, feature_pass: FeaturePass, sets: list[FeatureSet], passes: float | None) -> bool:
        """Estimate the time that cached features save, and return whether it exceeds that of their pass."""
        stage = first_trained(self.model)
        missing = [part for part in sets if not self.entries.is_cached(feature_pass, part)]
        images = sum(len(part.stored) for part in missing or sets)
        if not missing:
            self._say(f"Using features of {images:,} images before {stage} from the cache")
            return True
        caching = f"Caching features of {images:,} images before {stage}"
        size = images * feature_pass.bytes_per_image / 1e6
        if passes is None:
            self._say(f"{caching} ({size:,.1f} MB)")
            return True
        seconds = feature_pass.seconds_per_image(missing[0]) / self.accelerator.num_processes
        trained = passes * sum(len(part.images) for part in {part.split: part for part in sets}.values())
        reading = feature_pass.bytes_per_image / DISK_BYTES_PER_SECOND / self.accelerator.num_processes
        cost, saved = images * seconds, trained * (seconds - reading)
        if self.config.feature_cache == "on" or cost < saved:
            self._say(f"{caching} ({size:,.1f} MB, about {cost:,.0f} s instead of {trained * seconds:,.0f} s)")
            return True
        self._say(
            f"{TRAINING_ON_IMAGES}: caching would take about {cost:,.0f} s and save {max(0.0, saved):,.0f} s "
            "(--feature_cache on caches them anyway)"
        )
        return False

    def _say(self, text: str, *, only_if_asked: bool = False) -> None:
        is_wanted = self.config.feature_cache == "on" or not only_if_asked
        if is_wanted:
            self.entries.say(text)
