from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from training.small_runs import IMAGES, Run, make_images, make_transforms, resumed, stopped_at, train

from hf_tl.views.views import Collate, ImageStream, TrainingViews


@given(size=st.integers(1, 30), seed=st.integers(0, 2**31), epochs=st.integers(1, 4))
def test_each_epoch_has_each_image_once(size: int, seed: int, epochs: int) -> None:
    stream = list(ImageStream(size, seed, 0, size * epochs))
    for epoch in range(epochs):
        span = stream[epoch * size : (epoch + 1) * size]
        assert {epoch} == {key[0] for key in span}
        assert sorted(key[1] for key in span) == list(range(size))


@given(size=st.integers(1, 30), cut=st.integers(0, 90), labels=st.booleans())
def test_a_span_is_part_of_the_stream(size: int, cut: int, labels: bool) -> None:
    classes = [index % 3 for index in range(size)] if labels else None
    whole = list(ImageStream(size, 0, 0, 90, classes))
    parts = [*ImageStream(size, 0, 0, cut, classes), *ImageStream(size, 0, cut, 90, classes)]
    assert parts == whole
    assert len(set(whole)) == 90, "two views would be the same"
    assert len(ImageStream(size, 0, cut, 90)) == 90 - cut


def test_epochs_and_seeds_differ_in_order() -> None:
    orders = [
        [index for _, index in ImageStream(20, seed, epoch * 20, epoch * 20 + 20)]
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4


@pytest.fixture(scope="module")
def views() -> TrainingViews:
    run = Run("")
    return TrainingViews(make_images(run), make_transforms(run).train, seed=0)


def test_a_view_is_given_by_seed_epoch_and_index(views: TrainingViews) -> None:
    run = Run("")
    first = views[1, 3]["pixel_values"]
    torch.manual_seed(7)
    state = torch.get_rng_state()
    assert torch.equal(views[1, 3]["pixel_values"], first)
    assert torch.equal(torch.get_rng_state(), state), "training's own random numbers were used"
    others = [views[2, 3], views[1, 3, 1], TrainingViews(make_images(run), make_transforms(run).train, seed=1)[1, 3]]
    assert not any(torch.equal(other["pixel_values"], first) for other in others)
    views.set_epoch(1)
    assert torch.equal(views[3]["pixel_values"], first)
    views.set_epoch(0)
    assert not torch.equal(views[3]["pixel_values"], first)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(views: TrainingViews, workers: int) -> None:
    def batches(number: int) -> list[dict[str, torch.Tensor]]:
        stream = ImageStream(IMAGES, 0, 3, 3 + 2 * IMAGES)
        return list(DataLoader(views, 4, sampler=stream, collate_fn=Collate(), num_workers=number))

    for expected, batch in zip(batches(0), batches(workers), strict=True):
        assert all(torch.equal(expected[name], batch[name]) for name in ("index", "labels", "pixel_values"))


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_twice_in_an_epoch_the_images_and_their_views_are_the_same(tmp_path: Path, workers: int) -> None:
    whole = train(Run(str(tmp_path / "a")))
    run = Run(str(tmp_path / "b"), config={"save_steps": 1, "dataloader_num_workers": workers})
    parts = [stopped_at(run, 5), stopped_at(resumed(run), 6), train(resumed(run))]
    seen: dict[int, Any] = {}
    for part in parts:
        for step, indices in part.seen.items():
            assert step not in seen, "a step was done twice"
            seen[step] = indices
            for pixels, expected in zip(part.pixels[step], whole.pixels[step], strict=True):
                assert torch.equal(pixels, expected), step
    assert seen == whole.seen
    epochs = [index for indices in seen.values() for index in indices]
    assert sorted(epochs[:IMAGES]) == sorted(epochs[IMAGES : 2 * IMAGES]) == list(range(IMAGES))
