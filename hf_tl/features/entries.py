"""Entries of the feature cache: found, or computed by all processes together."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hf_tl.config import TrainingConfig
from hf_tl.data.decoding.stored import digest_image
from hf_tl.data.fingerprint import digest_in_order, map_images
from hf_tl.data.streaming.streams import StreamedImages
from hf_tl.errors import DataError
from hf_tl.features.feature_pass import FeaturePass, FeatureSet
from hf_tl.features.feature_store import ChosenRows, FeatureRows, key_of, open_store
from hf_tl.features.machines import exchange, keepers_of
from hf_tl.processes.together import on_processes
from hf_tl.reporting.console import say
from hf_tl.storage.folders import partial_of
from hf_tl.storage.writing import cause_of

if TYPE_CHECKING:
    from accelerate import Accelerator
    from filelock import FileLock

TRAINING_ON_IMAGES = "Training on images, without cached features"
IN_CACHE = "in cache"
ATTEMPTS = 3
"""Number of times that features are computed which other processes remove before they are opened."""


class FeatureEntries:
    """Cached features of passes over images, which are computed where they are missing.

    Args:
        accelerator: Accelerator; its processes share the work, and the main one prints.
        config: Settings of the cache.
        orders: Order of the images in each split, if known: see `ImageData`.
    """

    def __init__(
        self, accelerator: "Accelerator", config: TrainingConfig, orders: Mapping[str, str] | None = None
    ) -> None:
        self.accelerator = accelerator
        self.store = open_store(config.feature_cache_dir, config.feature_cache_gb)
        self._orders = dict(orders or {})
        self._keepers: tuple[int, ...] = ()
        self._lock: FileLock | None = None
        """Lock of the entry that this process computes."""
        self.are_computed = False
        """Whether an entry was computed since this was set to False."""

    def is_cached(self, feature_pass: FeaturePass, feature_set: FeatureSet) -> bool:
        """Return whether there is an entry, without a check of its content."""
        return (self.store.folder / self._key(feature_pass, feature_set)).is_dir()

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

    def rows(self, feature_pass: FeaturePass, feature_set: FeatureSet) -> FeatureRows | ChosenRows | None:
        """Find or compute the features of a set; return None if they cannot be stored."""
        rows = self._all_rows(feature_pass, feature_set)
        if rows is None or not isinstance(feature_set.images, StreamedImages):
            return rows
        return ChosenRows(rows, feature_set.images.places)

    def _all_rows(self, feature_pass: FeaturePass, feature_set: FeatureSet) -> FeatureRows | None:
        key = self._key(feature_pass, feature_set)
        self._keepers = self._keepers or keepers_of(self.accelerator, self.store.folder)
        for _ in range(ATTEMPTS):
            problem = self._find_or_compute(feature_pass, feature_set, key)
            if problem is not None:
                break
            if (rows := self._open(key)) is not None:
                return rows
            problem = f"other processes remove the features from {self.store.folder}; set another --feature_cache_dir"
        self.say(f"{TRAINING_ON_IMAGES}: {problem}")
        return None

    def _find_or_compute(self, feature_pass: FeaturePass, feature_set: FeatureSet, key: str) -> str | None:
        """Find the entry, or compute it where it is missing; return a problem, if any."""
        keepers = sorted({*self._keepers})
        states = on_processes(self.accelerator, keepers, lambda: self._prepare(feature_pass, feature_set, key))
        missing = [keeper for keeper, state in zip(keepers, states, strict=True) if state != IN_CACHE]
        if not missing:
            return None
        problem = next((state for state in states if state not in (None, IN_CACHE)), None)
        if problem is None:
            self.are_computed = True
            return self._compute(feature_pass, feature_set, key, missing)
        on_processes(self.accelerator, missing, lambda: self._give_up(key))
        return problem

    def _open(self, key: str) -> FeatureRows | None:
        """Open a complete entry; return None if it was removed before all processes have opened it."""
        from accelerate.utils import gather_object

        rows = None
        with contextlib.suppress(FileNotFoundError):
            rows = self.store.open(key)
        return rows if all(gather_object([rows is not None])) else None

    def _give_up(self, key: str) -> None:
        """Remove an entry that was begun (keepers only)."""
        if self._lock is not None and self._lock.is_locked:
            self.store.discard(key)
        self._release()

    def _prepare(self, feature_pass: FeaturePass, feature_set: FeatureSet, key: str) -> str | None:
        """Find the entry, or lock it and create its folder (keepers only); return a problem or `IN_CACHE`."""
        entry, damage = self.store.find(key)
        if damage:
            self.say(damage)
        if entry is not None:
            return IN_CACHE
        try:
            self._lock = lock = self.store.lock(key)
            if not self._try_lock(lock):
                if len({*self._keepers}) > 1:  # other machines would wait too
                    return "another run computes the same features"
                self.say("Waiting for another run that computes the same features")
                lock.acquire()
            if self.store.find(key)[0] is not None:
                lock.release()
                return IN_CACHE
            self.store.begin(key, feature_pass.layouts, len(feature_set.stored))
        except OSError as error:
            self._release()
            return self._write_problem(error)
        return None

    def _try_lock(self, lock: "FileLock") -> bool:
        from filelock import Timeout

        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        return True

    def _write_problem(self, error: OSError) -> str:
        return f"cannot write to {self.store.folder} ({cause_of(error)})"

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _compute(
        self, feature_pass: FeaturePass, feature_set: FeatureSet, key: str, missing: Sequence[int]
    ) -> str | None:
        """Compute the features of the set, each process its share, and commit them; return a problem, if any.

        Args:
            feature_pass: Pass that computes them.
            feature_set: Set of images.
            key: Name of the entry.
            missing: Processes that keep a folder without the entry, and have begun it.
        """
        from accelerate.utils import gather_object

        problem: str | DataError | None = None
        try:
            if (rows := self._open_rows(feature_pass, feature_set, key, missing)).is_writable:
                feature_pass.fill(rows, feature_set)
        except DataError as error:  # from one process's share: inform all
            problem = error
        except OSError as error:
            problem = self._write_problem(error)
        except BaseException:
            if self.accelerator.process_index in missing:
                self._give_up(key)
            raise
        problems = [problem for problem in gather_object([problem]) if problem]
        if not problems and len({*self._keepers}) > 1:
            failure = exchange(self.accelerator, rows, self._keepers, missing)
            problem = None if failure is None else self._write_problem(failure)
            problems = [problem for problem in gather_object([problem]) if problem]
        if not problems:
            rows.close()
            self.accelerator.wait_for_everyone()

        def end() -> str | DataError | None:
            try:
                if not problems:
                    title = f"{feature_set.split}, {len(feature_set.stored):,} images {feature_pass.place}"
                    self.store.commit(key, title, rows, feature_pass.made_of(feature_set, self._order(feature_set)))
            except OSError as error:
                return self._write_problem(error)
            finally:
                self.store.discard(key)
                self._release()
            return problems[0] if problems else None

        results = on_processes(self.accelerator, missing, end)
        result = next((result for result in results if result), None)
        if isinstance(result, DataError):
            raise result
        return result

    def _open_rows(
        self, feature_pass: FeaturePass, feature_set: FeatureSet, key: str, missing: Sequence[int]
    ) -> FeatureRows:
        """Open the begun entry of the folder that this process sees, or the complete one."""
        if self._keepers[self.accelerator.process_index] not in missing:
            return self.store.open(key)
        partial = partial_of(self.store.folder / key)
        return FeatureRows(partial, feature_pass.layouts, len(feature_set.stored), writable=True)

    def say(self, text: str) -> None:
        """Print a line on the main process."""
        if self.accelerator.is_main_process:
            say(None, text)
