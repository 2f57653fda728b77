"""The order in which images are seen, and their augmentation, as functions of seed, epoch and index alone.

Neither the number of workers or processes nor an interruption changes them.
"""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler

from hf_tl.data.augmentation import PairMixer
from hf_tl.data.images import ImageTransform, collate

Key = tuple[int, ...]
"""An epoch, the index of an image and, where the epoch draws the image again, how often it did before."""


class ImageStream(Sampler[Key]):
    """An endless stream of images, cut to a span: each epoch is a random order of all images, given by seed and epoch.

    Training takes equal batches from it, whatever the number of images: none is dropped, none is repeated to fill a
    batch, and a step's place in the stream says which images it sees, on any number of processes.

    With labels, an epoch draws as many images, with replacement and every class equally often (class-balanced sampling,
    Kang et al. 2020, https://arxiv.org/abs/1910.09217).

    >>> stream = ImageStream(size=3, seed=0, start=0, stop=6)
    >>> sorted(index for epoch, index in stream if epoch == 0), list(stream)[4:] == list(ImageStream(3, 0, 4, 6))
    ([0, 1, 2], True)
    """

    def __init__(
        self,
        size: int,
        seed: int,
        start: int,
        stop: int,
        labels: Sequence[int] | None = None,
        order: Callable[[int], Sequence[int]] | None = None,
    ) -> None:
        """Take the span from `start` to `stop`, counted in images since the beginning of training.

        An epoch's order is that of `order`, where it is given: a stream cannot be read in any.
        """
        self.order = order
        self.size = size
        self.weights = None if labels is None else _inverse_frequencies(labels)
        self.seed = seed
        self.start = start
        self.stop = stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[Key]:
        order: list[Key] = []
        for position in range(self.start, self.stop):
            epoch, place = divmod(position, self.size)
            if place == 0 or not order:
                order = self._order(epoch)
            yield order[place]

    def _order(self, epoch: int) -> list[Key]:
        if self.order is not None:
            return [(epoch, index) for index in self.order(epoch)]
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch, 0))
        if self.weights is None:
            return [(epoch, index) for index in torch.randperm(self.size, generator=generator).tolist()]
        draws = torch.multinomial(self.weights, self.size, replacement=True, generator=generator).tolist()
        seen: Counter[int] = Counter()
        order: list[Key] = []
        for index in draws:
            order.append((epoch, index, seen[index]) if seen[index] else (epoch, index))
            seen[index] += 1
        return order


class TrainingViews(torch.utils.data.Dataset[dict[str, Any]]):
    """Augmented views of images: `views[epoch, index]` is always the same view.

    As the `train_dataset` of transformers' `Trainer` with a `StrategyCallback`, it makes a resumed run see the same
    views: `views[index]` is that of the epoch that the callback sets.

    Args:
        images: rows with an image and a label.
        transform: the augmentation and preprocessing, for example `transforms.train` of `load_backbone`.
        seed: of all random changes.
    """

    def __init__(self, images: Dataset, transform: ImageTransform, seed: int = 0) -> None:
        self.images = transform.over(images)
        self.seed = seed
        self.epoch = 0
        self.tells_rows = False
        """Whether `collate` puts the rows of a batch into it, as `row` (batch,)."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose views a bare index gives; not seen by workers that are kept from epoch to epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key | int) -> dict[str, Any]:
        epoch, index, *repeat = (self.epoch, key) if isinstance(key, int) else key
        seed = view_seed(self.seed, epoch, index, *repeat)
        with _seeded(seed):
            view = {**self.images[index], "index": index, "seed": seed}
        return {**view, "row": index} if self.tells_rows else view


class Collate:
    """Stack views into a batch that also tells their `index` (batch,) in the dataset; mix them in pairs if asked to.

    The two images of a pair follow each other in the stream, and what mixes them is drawn from the seed of the first
    view: so mixing too is the same in any worker and on any number of processes.
    """

    def __init__(self, mixer: PairMixer | None = None) -> None:
        self.mixer = mixer

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Make a batch; `labels` are probabilities (batch, classes) where images are mixed."""
        batch = {**collate(examples), "index": torch.tensor([example["index"] for example in examples])}
        if self.mixer is None:
            return batch
        pixel_values, labels = [], []
        for first in range(0, len(examples), 2):
            pair = slice(first, first + 2)
            with _seeded(_mix(examples[first]["seed"])):
                mixed = self.mixer(batch["pixel_values"][pair], batch["labels"][pair])
            pixel_values.append(mixed[0])
            labels.append(mixed[1])
        return {**batch, "pixel_values": torch.cat(pixel_values), "labels": torch.cat(labels)}


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from `seed` on the CPU, and put the state of its random numbers back; a GPU's are left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def seeded_view(seed: int, epoch: int, index: int, *repeat: int) -> contextlib.AbstractContextManager[None]:
    """Draw what changes an image in an epoch, as `TrainingViews` does."""
    return _seeded(view_seed(seed, epoch, index, *repeat))


def view_seed(seed: int, epoch: int, index: int, *repeat: int) -> int:
    """Tell the seed of an image's view in an epoch."""
    return _mix(seed, epoch, index + 1, *repeat)


def _inverse_frequencies(labels: Sequence[int]) -> torch.Tensor:
    """Give each image the inverse of its class's count, (images,)."""
    classes = torch.as_tensor(labels)
    return 1 / torch.bincount(classes)[classes].double()


def _mix(*numbers: int) -> int:
    """Spread small numbers over 63 bits, so that neighbours draw unrelated random numbers."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, numbers)).encode(), digest_size=8).digest()) >> 1
