"""Images of a stream come once per epoch, in an order and in views that depend on seed and epoch alone."""

from pathlib import Path

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from features.colored_images import colored
from torch.utils.data import BatchSampler, DataLoader
from training.small_runs import Run, make_transforms

from hf_tl.data.datasets import load_data
from hf_tl.data.streaming.streams import StreamedImages
from hf_tl.views.stream_views import StreamedViews
from hf_tl.views.views import Collate, ImageStream, TrainingViews

SHARDS = (9, 7, 12)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> StreamedImages:
    """Return the training images without hold-out images, in three files of several row groups."""
    folder = tmp_path_factory.mktemp("parquet")
    for number, count in enumerate(SHARDS):
        colored(count, first=number).to_parquet(folder / f"train-{number}.parquet", batch_size=4)
    return load_data(str(folder), streaming=True).splits["train"]


def views_of(images: StreamedImages, block: int = 5, shuffled: bool = True) -> StreamedViews:
    return StreamedViews(images, make_transforms(Run("")).train, 0, shuffled=shuffled, block=block)


@pytest.mark.parametrize("block", [1, 5, 1000])
def test_the_order_of_an_epoch(images: StreamedImages, block: int) -> None:
    views = views_of(images, block)
    orders = [views.order(epoch) for epoch in range(4)]
    assert all(sorted(order) == list(range(len(images))) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert views_of(images, block).order(1) == orders[1]
    assert views_of(images, block, shuffled=False).order(1) == list(range(len(images)))


@pytest.mark.parametrize(("start", "batch"), [(0, 4), (7, 3), (25, 6), (60, 5)])
def test_views_are_those_of_the_images(images: StreamedImages, tmp_path: Path, start: int, batch: int) -> None:
    """Training may start at any step, and passes block and epoch ends."""
    stored = dict(images.stream.read())
    rows = colored(0).to_dict() | {
        "image": [stored[place] for place in images.places.tolist()],
        "label": images["label"][:],
    }
    expected = TrainingViews(type(colored(0)).from_dict(rows, features=colored(0).features), views_of(images).transform)
    views = views_of(images)
    order = ImageStream(len(images), 0, start, start + 6 * batch, None, views.order)
    loader = DataLoader(views, batch_size=batch, sampler=order, collate_fn=Collate())
    wanted = DataLoader(expected, batch_size=batch, sampler=order, collate_fn=Collate())
    for actual, same in zip(loader, wanted, strict=True):
        assert actual.keys() == same.keys()
        assert all(torch.equal(actual[name], same[name]) for name in actual)


def test_a_part_of_the_order_is_read_once(images: StreamedImages) -> None:
    """Each of two processes gets every second batch, opens no shard again, and holds one block."""
    views, opened = views_of(images), []
    read = type(images.stream).read_shards

    def watched(stream, shards):  # type: ignore[no-untyped-def]
        opened.append(list(shards))
        return read(stream, opened[-1])

    order = BatchSampler(ImageStream(len(images), 0, 0, 16, None, views.order), 4, drop_last=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(images.stream), "read_shards", watched)
        for keys in BatchSamplerShard(order, num_processes=2, process_index=1):
            views.__getitems__(keys)
            assert len(views._held) <= 5
    assert len(opened) == 1


def test_evaluation_keeps_a_small_split_in_memory(images: StreamedImages) -> None:
    """Evaluation follows the stream; a split that fits into a block is read once for all epochs."""
    views = StreamedViews(images, make_transforms(Run("")).eval)
    first, second = (list(DataLoader(views, batch_size=4, collate_fn=Collate())) for _ in range(2))
    assert torch.cat([batch["index"] for batch in first]).tolist() == list(range(len(images)))
    assert all(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(first, second, strict=True))
    held = views._held
    views[0]
    assert views._held is held
