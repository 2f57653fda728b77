"""Features cached at the boundary: what the frozen prefix of a network gives for the images, computed once.

While a prefix is frozen, what it computes for an image does not change. So it runs once over the data, its output is
kept on the disk, and only the suffix trains on it, epoch after epoch.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_tl.backbones.boundary import Boundary, find_boundary
from hf_tl.backbones.folding import folded_batch_norms
from hf_tl.backbones.stages import list_stages
from hf_tl.config import TrainingConfig
from hf_tl.data.fingerprint import digest_in_order
from hf_tl.data.images import ImageTransform, Transforms, collate, stack_labels
from hf_tl.data.pixels import pixel_batches
from hf_tl.data.streams import StreamedImages, first_image
from hf_tl.errors import ConfigError, DataError, StageError
from hf_tl.evaluation.measure import inference
from hf_tl.strategy import Phase
from hf_tl.training.feature_store import ChosenRows, FeatureRows, FeatureStore, Layout, default_folder, key_of
from hf_tl.training.inputs import FeatureViews, LogitsOf, PhaseInputs, as_read, feature_logits
from hf_tl.training.sharding import ShardedAccelerator
from hf_tl.training.stream_pass import stream_batches
from hf_tl.training.views import TrainingViews

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedModel

    from hf_tl.data.streams import Stream

READ_RATE = 500e6
"""Bytes a second that a disk reads at least, in the estimate of what pays."""
TRIED = 16
"""Images that are timed for the estimate."""


@dataclass(frozen=True)
class FeatureSet:
    """One pass over images: which images, seen how."""

    images: "Dataset | StreamedImages"
    transform: ImageTransform
    split: str
    view: tuple[int, int] | None = None
    """The seed and the number of a random view; None where the transform has nothing random."""

    @property
    def stored(self) -> "Dataset | Stream":
        """What is gone through: a stream as a whole, once for all splits that were made from it."""
        return self.images.stream if isinstance(self.images, StreamedImages) else self.images


class Features:
    """Decides for each phase of a training whether features pay, and finds or computes them.

    Args:
        accelerator: its processes share the work; the main one decides and speaks.
        model: the network in training.
        config: `feature_cache` and its settings, batch sizes and seed.
    """

    def __init__(self, accelerator: "Accelerator", model: "PreTrainedModel", config: TrainingConfig) -> None:
        self.accelerator, self.model, self.config = accelerator, model, config
        folder = Path(config.feature_cache_dir) if config.feature_cache_dir else default_folder()
        self.store = FeatureStore(folder, int(config.feature_cache_gb * 1e9))
        self._orders: dict[str, str] = {}
        self._current: tuple[Boundary, str] | None = None

    def require(self, phases: Sequence[Phase]) -> None:
        """Refuse what a stream cannot give where it is trained on without features.

        Raises:
            ConfigError: a phase draws images at random.
        """
        for number, phase in enumerate(phases, start=1):
            if phase.balanced_sampling and (reason := self._obstacle(phase) or self._is_off()):
                raise ConfigError(
                    "--balanced_sampling draws images at random, and those of a stream come in its order: phase "
                    f"{number} would have to train on features, and {reason}. Choose --class_weights balanced"
                )

    def _is_off(self) -> str | None:
        return "--feature_cache is off" if self.config.feature_cache == "off" else None

    def for_phase(
        self,
        phase: Phase,
        transforms: Transforms,
        train: "Dataset",
        validation: "Dataset",
        frozen: str,
        passes: float,
        decided: bool | None = None,
    ) -> PhaseInputs | None:
        """Find or compute the features of a phase.

        Args:
            phase: the model is frozen for it.
            transforms: of its images.
            train: the images to train on.
            validation: the images to measure on.
            frozen: the digest of the frozen tensors.
            passes: how often each training image will be seen.
            decided: what was decided when a run that goes on was in this phase.

        Returns:
            What the phase trains on; None where it trains on images.
        """
        self._current = None
        if self.config.feature_cache == "off" or decided is False:
            return None
        if reason := self._obstacle(phase):
            self._say(f"not cached: {reason}", only_if_asked=True)
            return None
        size = self._image_size(train, transforms)
        try:
            with self.accelerator.autocast():
                boundary = find_boundary(self.model, size)
        except StageError as error:
            self._say(f"not cached: {error}")
            return None
        views = self.config.cached_views or 1
        is_random = phase.augmentation != "none"
        train_sets = [
            FeatureSet(train, transforms.train, "train", (self.config.seed, view) if is_random else None)
            for view in range(views if is_random else 1)
        ]
        sets = [*train_sets, FeatureSet(validation, transforms.eval, "validation")]
        is_streamed = isinstance(train, StreamedImages)
        # splits of one stream share its features
        distinct = {(one.stored if is_streamed else one.split, str(one.transform), one.view): one for one in sets}
        taken = sum(len(one.stored) for one in distinct.values()) * sum(
            layout.bytes for layout in self._layouts(boundary)
        )
        if taken > self.store.limit:  # together: one set must not throw out the other
            limit = self.config.feature_cache_gb
            self._say(f"not cached: they take {taken / 1e9:,.1f} GB and --feature_cache_gb is {limit:g}")
            return None
        # each epoch of a stream without features would read it again
        if decided is None and not is_streamed and not self._pays(boundary, sets, frozen, passes, size):
            return None
        found = []
        for one in sets:
            rows = self._rows(boundary, one, frozen)
            if rows is None:
                return None
            found.append(rows)
        self._current = (boundary, frozen)
        label_column = transforms.train.label_column
        return PhaseInputs(
            train=FeatureViews(found[:-1], stack_labels(train[label_column][:])),
            collate=as_read,
            validation=FeatureViews(found[-1:], stack_labels(validation[label_column][:])),
            validation_collate=as_read,
            logits_of=feature_logits(boundary),
            validation_logits_of=feature_logits(boundary),
        )

    def of_images(
        self, images: "Dataset", transform: ImageTransform, split: str
    ) -> tuple[FeatureViews, LogitsOf] | None:
        """Find or compute the features of further images, as those of the last phase.

        Args:
            images: to measure on.
            transform: deterministic.
            split: their name.

        Returns:
            The features, and the function from a batch of them to logits; None where the last phase trained on images,
            or the features are less precise than the network and the images can be had.
        """
        is_streamed = isinstance(images, StreamedImages)
        if self._current is None or (self.config.feature_dtype != "float32" and not is_streamed):
            return None
        boundary, frozen = self._current
        rows = self._rows(boundary, FeatureSet(images, transform, split), frozen)
        if rows is None:
            return None
        return FeatureViews([rows], stack_labels(images[transform.label_column][:])), feature_logits(boundary)

    def _obstacle(self, phase: Phase) -> str | None:
        """Tell why a phase needs the images themselves."""
        if phase.trainable_stages == "all":
            return "everything trains"
        if isinstance(self.accelerator, ShardedAccelerator):
            return "the network is sharded"
        if phase.mixup or phase.cutmix:
            return "images are mixed"
        if phase.augmentation != "none" and self.config.cached_views is None:
            return f"{phase.augmentation} augmentation changes images in each epoch (--cached_views N keeps N views)"
        if self.config.test_time_flip:
            return "--test_time_flip measures with mirrored images too"
        if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) != self.accelerator.num_processes:
            return "several machines train, and each would need all features"
        return None

    def _pays(
        self, boundary: Boundary, sets: list[FeatureSet], frozen: str, passes: float, size: tuple[int, int, int]
    ) -> bool:
        """Estimate what the features save, say it, and decide on the main process for all."""
        from accelerate.utils import broadcast_object_list

        decision = [False]
        if self.accelerator.is_main_process:
            layouts = self._layouts(boundary)
            missing = [one for one in sets if not (self.store.folder / self._key(boundary, one, frozen)).is_dir()]
            per_image = sum(layout.bytes for layout in layouts)
            images = sum(len(one.stored) for one in missing)
            seen = passes * sum(len(one.images) for one in (sets[0], sets[-1]))
            cost = self._prefix_seconds(boundary, size) if missing else 0.0
            saved = seen * (cost - per_image / READ_RATE) / self.accelerator.num_processes
            spent = images * cost / self.accelerator.num_processes
            where = f"before {_first_trained(self.model)}: {images:,} images of {boundary.values:,} numbers"
            if not missing:
                decision = [True]
                self._say("found in the cache, nothing to compute")
            elif self.config.feature_cache == "on" or spent < saved:
                decision = [True]
                self._say(
                    f"kept {where}, {images * per_image / 1e6:,.0f} MB; one pass of about {spent:,.0f} s "
                    f"in place of {passes:.3g}"
                )
            else:
                self._say(
                    f"not cached {where}: a pass of about {spent:,.0f} s would save {max(0.0, saved):,.0f} s "
                    "(--feature_cache on does it all the same)"
                )
        if self.accelerator.num_processes > 1:
            broadcast_object_list(decision)
        return decision[0]

    def _prefix_seconds(self, boundary: Boundary, size: tuple[int, int, int]) -> float:
        """Time the prefix on a few images; seconds an image."""
        pixel_values = torch.zeros(TRIED, *size, device=self.accelerator.device)
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        with inference(self.model), self.accelerator.autocast():
            boundary.features(self.model, pixel_values)
            start = time.perf_counter()
            [features.cpu() for features in boundary.features(self.model, pixel_values)]
        return (time.perf_counter() - start) / TRIED

    def _layouts(self, boundary: Boundary) -> list[Layout]:
        stored = torch.bfloat16 if self.config.feature_dtype == "bfloat16" else None
        return [
            Layout(leaf.row_shape, stored if stored is not None and leaf.dtype.is_floating_point else leaf.dtype)
            for leaf in boundary.leaves
        ]

    def _key(self, boundary: Boundary, one: FeatureSet, frozen: str) -> str:
        return key_of(self._made_of(boundary, one, frozen))

    def _made_of(self, boundary: Boundary, one: FeatureSet, frozen: str) -> dict[str, Any]:
        """Name all that the features depend on."""
        from importlib.metadata import version

        return {
            "frozen tensors": frozen,
            "boundary": boundary.digest(),
            "network": [type(self.model).__name__, _settings(self.model)],
            "images": self._order(one),
            "transform": one.transform.describe(),
            "view": one.view,
            "dtype": [str(layout.dtype) for layout in self._layouts(boundary)],
            "precision": self._precision,
            "versions": {name: version(name) for name in ("torch", "torchvision", "transformers", "timm", "pillow")},
        }

    @property
    def _precision(self) -> str:
        """In which the prefix runs: bfloat16 features need no more, else that of the run."""
        return "bf16" if self.config.feature_dtype == "bfloat16" else str(self.accelerator.mixed_precision)

    def _order(self, one: FeatureSet) -> str:
        if isinstance(one.images, StreamedImages):
            return one.images.stream.fingerprint
        if one.split not in self._orders:
            self._orders[one.split] = digest_in_order(one.images, one.transform.image_column)
        return self._orders[one.split]

    def _rows(self, boundary: Boundary, one: FeatureSet, frozen: str) -> FeatureRows | ChosenRows | None:
        """Find the features of a set, or compute them; None where the disk does not take them."""
        rows = self._all_rows(boundary, one, frozen)
        if rows is None or not isinstance(one.images, StreamedImages):
            return rows
        return ChosenRows(rows, one.images.places)

    def _all_rows(self, boundary: Boundary, one: FeatureSet, frozen: str) -> FeatureRows | None:
        key = self._key(boundary, one, frozen)
        problem = self._on_main(lambda: self._prepare(boundary, one, frozen, key))
        if problem == "found":
            return self.store.find(key)[0]
        if problem is None:
            problem = self._compute(boundary, one, key, frozen)
        if problem is not None:
            self._say(f"not cached: {problem}; the phase trains on the images")
            return None
        return self.store.find(key)[0]

    def _prepare(self, boundary: Boundary, one: FeatureSet, frozen: str, key: str) -> str | None:
        """On the main process: find the entry, or take its lock and make its folder; return a problem or `found`."""
        found, damage = self.store.find(key)
        if damage:
            self._say(damage)
        if found is not None:
            return "found"
        try:
            self._lock = self.store.lock(key)
            if not self._try_lock():
                self._say("waiting for another run that computes the same features")
                self._lock.acquire()
            if self.store.find(key)[0] is not None:
                self._lock.release()
                return "found"
            self.store.begin(key, self._layouts(boundary), len(one.stored))
        except OSError as error:
            self._release()
            return f"{self.store.folder} cannot be written to ({error.strerror or error})"
        return None

    def _try_lock(self) -> bool:
        from filelock import Timeout

        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            return False
        return True

    def _release(self) -> None:
        if lock := self.__dict__.get("_lock"):
            lock.release()

    def _compute(self, boundary: Boundary, one: FeatureSet, key: str, frozen: str) -> str | None:
        """Run the prefix over the set, each process over its part, and commit the result; return a problem."""
        from accelerate.utils import gather_object

        partial = self.store.folder / f".partial-{key}"
        problem: str | DataError | None = None
        try:
            rows = FeatureRows(partial, self._layouts(boundary), len(one.stored), writable=True)
            self._fill(rows, boundary, one)
        except DataError as error:  # of one process's share: all are told
            problem = error
        except OSError as error:
            problem = f"{self.store.folder} cannot be written to ({error.strerror or error})"
        except BaseException:
            if self.accelerator.is_main_process:
                self.store.discard(key)
                self._release()
            raise
        problems = [one for one in gather_object([problem]) if one]

        def end() -> str | DataError | None:
            try:
                if not problems:
                    title = f"{one.split}, {len(one.stored):,} images before {_first_trained(self.model)}"
                    self.store.commit(key, title, rows, self._made_of(boundary, one, frozen))
            except OSError as error:
                problems.append(f"{self.store.folder} cannot be written to ({error.strerror or error})")
            finally:
                self.store.discard(key)
                self._release()
            return problems[0] if problems else None

        result = self._on_main(end)
        if isinstance(result, DataError):
            raise result
        return result

    def _fill(self, rows: FeatureRows, boundary: Boundary, one: FeatureSet) -> None:
        size, rank = self.accelerator.num_processes, self.accelerator.process_index
        images = len(one.stored)
        what = one.split if one.view is None else f"{one.split}, view {one.view[1] + 1}"
        with (
            inference(self.model),
            self._precise(),
            tqdm(total=images, desc=f"Features of {what}", unit="image", disable=rank > 0) as progress,
        ):
            is_first, prefix = True, contextlib.ExitStack()
            with prefix:
                for places, pixel_values in self._batches(one, rank, size):
                    if is_first:
                        self._fold(prefix, boundary, pixel_values)
                    is_first = False
                    rows.write_at(places, boundary.features(self.model, pixel_values))
                    progress.update(len(pixel_values) * size)

    def _precise(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.feature_dtype == "bfloat16":
            return torch.autocast(self.accelerator.device.type, torch.bfloat16)
        return self.accelerator.autocast()

    def _fold(self, stack: contextlib.ExitStack, boundary: Boundary, pixel_values: Tensor) -> None:
        """Fold BatchNorm into convolutions, if the features stay as they are."""
        few = pixel_values[:2]
        expected = boundary.features(self.model, few)
        with contextlib.ExitStack() as trial:
            trial.enter_context(folded_batch_norms(self.model, lambda: boundary.features(self.model, few)))
            found = boundary.features(self.model, few)
            if all(_close(a, b) for a, b in zip(found, expected, strict=True)):
                stack.enter_context(trial.pop_all())

    def _batches(self, one: FeatureSet, rank: int, size: int) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Give the images of a process's share in batches, each with the rows that they belong to."""
        if isinstance(one.images, StreamedImages):
            batch, threads = self.config.per_device_eval_batch_size, min(8, os.cpu_count() or 1)
            stream = one.images.stream
            for places, pixels in stream_batches(stream, one.transform, one.view, (rank, size), batch, threads):
                yield places, pixels.to(self.accelerator.device).contiguous(memory_format=torch.channels_last)
            return
        images = len(one.images)
        first = rank * images // size
        for pixels in self._pixels(one, range(first, (rank + 1) * images // size)):
            yield range(first, first + len(pixels)), pixels
            first += len(pixels)

    def _pixels(self, one: FeatureSet, own: range) -> Iterator[Tensor]:
        batch, device = self.config.per_device_eval_batch_size, self.accelerator.device
        if one.view is None:
            yield from pixel_batches(one.images, one.transform, own, batch, device)
            return
        seed, view = one.view
        loader = DataLoader(
            TrainingViews(one.images, one.transform, seed),
            batch_size=batch,
            sampler=[(view, index) for index in own],
            collate_fn=collate,
            num_workers=self.config.dataloader_num_workers,
            # of its own: beginning to iterate draws a number, and training must draw the same with features found
            generator=torch.Generator(),
        )
        for loaded in loader:
            yield loaded["pixel_values"].to(device).contiguous(memory_format=torch.channels_last)

    def _image_size(self, images: "Dataset", transforms: Transforms) -> tuple[int, int, int]:
        channels, height, width = transforms.eval(first_image(images, transforms.eval.image_column)).shape
        return channels, height, width

    def _on_main(self, function: Callable[[], Any]) -> Any:
        """Let the main process do something, and tell its result to all."""
        from accelerate.utils import broadcast_object_list

        result: list[Any] = [function() if self.accelerator.is_main_process else None]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(result)
        return result[0]

    def _say(self, text: str, *, only_if_asked: bool = False) -> None:
        is_wanted = self.config.feature_cache == "on" or not only_if_asked
        if is_wanted and self.accelerator.is_main_process:
            tqdm.write(f"Features  {text}")  # above the progress bar, which may be open


OF_CLASSES = (
    *("_name_or_path", "architectures", "hf_tl", "id2label", "label2id", "label_names", "num_classes", "num_labels"),
    *("problem_type", "transformers_version"),
)
"""Settings of a network that its frozen prefix does not depend on."""


def _settings(model: "PreTrainedModel") -> dict[str, Any]:
    """Give what the same weights may compute differently by: pooling, activation, epsilon."""
    settings = json.loads(model.config.to_json_string(use_diff=False))
    return {name: value for name, value in settings.items() if name not in OF_CLASSES}


def _first_trained(model: "PreTrainedModel") -> str:
    """Name the first stage that trains."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return next(stage.name for stage in list_stages(model) if not trained.isdisjoint(stage.parameter_names))


def _close(a: Tensor, b: Tensor) -> bool:
    scale = float(b.float().abs().max())
    return torch.allclose(a.float(), b.float(), rtol=1e-3, atol=(1e-2 if b.dtype == torch.bfloat16 else 1e-4) * scale)
