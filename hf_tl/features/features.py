"""Cached features: the output of a network's frozen prefix, computed once per image.

While a prefix is frozen, its output for an image does not change. So it runs once over the data, its output is cached
on disk, and only the suffix trains on it, epoch after epoch.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hf_tl.backbones.prefix.search import find_boundary
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.config import TrainingConfig
from hf_tl.data.columns import LABEL
from hf_tl.data.decoding.images import ImageTransform, Transforms, stack_labels
from hf_tl.data.fingerprint import digest_image, digest_in_order, map_images
from hf_tl.data.streaming.streams import StreamedImages, first_image
from hf_tl.errors import ConfigError, DataError, StageError
from hf_tl.features.feature_pass import FeaturePass, FeatureSet, list_feature_sets
from hf_tl.features.feature_store import ChosenRows, FeatureRows, key_of, open_store
from hf_tl.features.inputs import FeatureViews, LogitsOf, PhaseInputs, as_read, feature_logits
from hf_tl.features.obstacles import obstacle_of
from hf_tl.processes.together import on_main_process
from hf_tl.reporting.console import say
from hf_tl.storage.folders import partial_of
from hf_tl.strategy import Phase

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedModel

DISK_BYTES_PER_SECOND = 500e6
"""Assumed read rate of a disk, for the estimate of the time saved. It is a lower bound."""

TRAINING_ON_IMAGES = "Training on images, without cached features"
IN_CACHE = "in cache"


class Features:
    """Cached features of a training: decides for each phase whether they save time, and loads or computes them.

    Args:
        accelerator: Accelerator; its processes share the work, and the main one decides and prints.
        model: Network in training.
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
        self.store = open_store(config.feature_cache_dir, config.feature_cache_gb)
        self._orders = dict(orders or {})
        self._current: FeaturePass | None = None
        self._computes = False

    def require(self, phases: Sequence[Phase]) -> None:
        """Reject phases that train on a stream without features and need random access to its images.

        Raises:
            ConfigError: A phase draws images at random.
        """
        for number, phase in enumerate(phases, start=1):
            if phase.balanced_sampling and (reason := self._obstacle(phase) or self._is_off()):
                raise ConfigError(
                    "--balanced_sampling draws images at random, which a stream supports only with cached features; "
                    f"phase {number} cannot cache them: {reason}. Use --class_weights balanced instead"
                )

    def _obstacle(self, phase: Phase) -> str | None:
        return obstacle_of(phase, self.config, self.accelerator)

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

        Returns:
            The inputs of the phase; None if it trains on images.
        """
        self._current, self._computes = None, False
        if self.config.feature_cache == "off" or decided is False:
            return None
        if reason := self._obstacle(phase):
            self._say(f"{TRAINING_ON_IMAGES}: {reason}", only_if_asked=True)
            return None
        if (feature_pass := self._pass(transforms.eval, train, frozen)) is None:
            return None
        sets = list_feature_sets(self.config, phase, transforms, train, validation)
        is_streamed = isinstance(train, StreamedImages)
        # splits of one stream share its features
        passed = {(part.stored if is_streamed else part.split, str(part.transform), part.view): part for part in sets}
        size = sum(len(part.stored) for part in passed.values()) * feature_pass.bytes_per_image
        if size > self.store.limit:  # together: one set must not evict the other
            limit = self.config.feature_cache_gb
            self._say(f"{TRAINING_ON_IMAGES}: features of {size / 1e9:,.1f} GB exceed --feature_cache_gb {limit:g}")
            return None
        # without features, each epoch would read the stream again
        is_decided = decided is not None or is_streamed
        if not self._decide(feature_pass, list(passed.values()), None if is_decided else passes):
            return None
        rows = []
        for feature_set in sets:
            set_rows = self._rows(feature_pass, feature_set)
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
            are_reused=not self._computes,
        )

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
        if self._current is None or (self.config.feature_dtype != "float32" and not is_streamed):
            return None
        if not self._current.is_current():
            return None
        rows = self._rows(self._current, FeatureSet(images, transform, split))
        if rows is None:
            return None
        labels = stack_labels(images[LABEL][:])
        return FeatureViews([rows], labels), feature_logits(self._current.boundary)

    def _pass(self, transform: ImageTransform, images: "Dataset", frozen: str) -> FeaturePass | None:
        """Find the boundary of the network for images of one size; return None if there is none."""
        channels, height, width = transform(first_image(images)).shape
        try:
            with self.accelerator.autocast():
                boundary = find_boundary(self.model, (channels, height, width))
        except StageError as error:
            self._say(f"{TRAINING_ON_IMAGES}: {error}")
            return None
        return FeaturePass(self.accelerator, self.model, self.config, boundary, frozen)

    def _decide(self, feature_pass: FeaturePass, sets: list[FeatureSet], passes: float | None) -> bool:
        """Decide whether to use features, on the main process; `passes` is None if that is decided already."""
        return on_main_process(self.accelerator, lambda: self._are_worthwhile(feature_pass, sets, passes))

    def _are_worthwhile(self, feature_pass: FeaturePass, sets: list[FeatureSet], passes: float | None) -> bool:
        """Estimate the time that cached features save, and return whether it exceeds that of their pass."""
        stage = _first_trained(self.model)
        missing = [part for part in sets if not (self.store.folder / self._key(feature_pass, part)).is_dir()]
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

    def _key(self, feature_pass: FeaturePass, feature_set: FeatureSet) -> str:
        return key_of(feature_pass.made_of(feature_set, self._order(feature_set)))

    def _order(self, feature_set: FeatureSet) -> str:
        if isinstance(feature_set.images, StreamedImages):
            return feature_set.images.stream.fingerprint
        key = feature_set.images._fingerprint
        if key not in self._orders:
            digests = map_images(feature_set.images, feature_set.split, digest_image)
            self._orders[key] = digest_in_order(digests)
        return self._orders[key]

    def _rows(self, feature_pass: FeaturePass, feature_set: FeatureSet) -> FeatureRows | ChosenRows | None:
        """Find or compute the features of a set; return None if they cannot be stored."""
        rows = self._all_rows(feature_pass, feature_set)
        if rows is None or not isinstance(feature_set.images, StreamedImages):
            return rows
        return ChosenRows(rows, feature_set.images.places)

    def _all_rows(self, feature_pass: FeaturePass, feature_set: FeatureSet) -> FeatureRows | None:
        key = self._key(feature_pass, feature_set)
        problem = on_main_process(self.accelerator, lambda: self._prepare(feature_pass, feature_set, key))
        if problem == IN_CACHE:
            return self.store.open(key)
        if problem is None:
            self._computes = True
            problem = self._compute(feature_pass, feature_set, key)
        if problem is not None:
            self._say(f"{TRAINING_ON_IMAGES}: {problem}")
            return None
        return self.store.open(key)

    def _prepare(self, feature_pass: FeaturePass, feature_set: FeatureSet, key: str) -> str | None:
        """Find the entry, or lock it and create its folder (main process only); return a problem or `IN_CACHE`."""
        entry, damage = self.store.find(key)
        if damage:
            self._say(damage)
        if entry is not None:
            return IN_CACHE
        try:
            self._lock = self.store.lock(key)
            if not self._try_lock():
                self._say("Waiting for another run that computes the same features")
                self._lock.acquire()
            if self.store.find(key)[0] is not None:
                self._lock.release()
                return IN_CACHE
            self.store.begin(key, feature_pass.layouts, len(feature_set.stored))
        except OSError as error:
            self._release()
            return self._write_problem(error)
        return None

    def _try_lock(self) -> bool:
        from filelock import Timeout

        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            return False
        return True

    def _write_problem(self, error: OSError) -> str:
        return f"cannot write to {self.store.folder} ({error.strerror or error})"

    def _release(self) -> None:
        if lock := self.__dict__.get("_lock"):
            lock.release()

    def _compute(self, feature_pass: FeaturePass, feature_set: FeatureSet, key: str) -> str | None:
        """Compute the features of the set, each process its share, and commit them; return a problem, if any."""
        from accelerate.utils import gather_object

        partial = partial_of(self.store.folder / key)
        problem: str | DataError | None = None
        try:
            rows = FeatureRows(partial, feature_pass.layouts, len(feature_set.stored), writable=True)
            with contextlib.closing(rows):
                feature_pass.fill(rows, feature_set)
        except DataError as error:  # from one process's share: inform all
            problem = error
        except OSError as error:
            problem = self._write_problem(error)
        except BaseException:
            if self.accelerator.is_main_process:
                self.store.discard(key)
                self._release()
            raise
        problems = [problem for problem in gather_object([problem]) if problem]

        def end() -> str | DataError | None:
            try:
                if not problems:
                    title = (
                        f"{feature_set.split}, {len(feature_set.stored):,} images before {_first_trained(self.model)}"
                    )
                    self.store.commit(key, title, rows, feature_pass.made_of(feature_set, self._order(feature_set)))
            except OSError as error:
                problems.append(self._write_problem(error))
            finally:
                self.store.discard(key)
                self._release()
            return problems[0] if problems else None

        result = on_main_process(self.accelerator, end)
        if isinstance(result, DataError):
            raise result
        return result

    def _say(self, text: str, *, only_if_asked: bool = False) -> None:
        is_wanted = self.config.feature_cache == "on" or not only_if_asked
        if is_wanted and self.accelerator.is_main_process:
            say(None, text)


def _first_trained(model: "PreTrainedModel") -> str:
    """Return the name of the first stage that trains."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return next(stage.name for stage in list_stages(model) if not trained.isdisjoint(stage.parameter_names))
