"""Whole runs with a teacher: what the student learns, on images and on cached features, and what is recorded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from distillation.taught import LEARNING, losses, make_dataset, train_student

import hf_tl
from hf_tl.strategy import Phase, Strategy

FULL = replace(LEARNING, epochs=5, distillation_weight=1.0)
HEAD = hf_tl.Strategy.transfer(epochs=2, learning_rate=0.01)
TRAINED = 34
"""Number of training images of `make_dataset()`."""


def test_a_student_of_random_labels_learns_those_of_its_teacher(tmp_path: Path, teacher: Path) -> None:
    data, others = make_dataset(80, random=True), make_dataset(40, seed=7)
    taught = train_student(tmp_path / "taught", teacher, [FULL], data)
    alone = train_student(tmp_path / "alone", None, [replace(FULL, distillation_weight=0.0)], data)
    accuracy, control = (hf_tl.evaluate(each, others).metrics["accuracy"] for each in (taught, alone))
    assert accuracy > 0.9
    assert control < 0.8, "the labels alone teach nothing"
    assert taught.test_accuracy < 0.8, "the random labels of the test images cannot be known"


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        (HEAD, {}),
        # 60 images: a third pass would see other views than the cached two
        (hf_tl.Strategy.transfer(epochs=1.7, learning_rate=0.01, augmentation="light"), {"cached_views": 2}),
        (Strategy("stages", (Phase(2, 2, 0.01, augmentation="none", distillation_weight=0.5),)), {}),
    ],
    ids=["head", "two views", "stages"],
)
def test_cached_logits_train_like_those_of_each_batch(
    tmp_path: Path,
    teacher: Path,
    strategy: Strategy,
    settings: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache = {"feature_cache_dir": str(tmp_path / "cache"), "feature_cache": "on"}
    on_images = train_student(tmp_path / "images", teacher, strategy, **settings)
    cached = train_student(tmp_path / "cached", teacher, strategy, **cache, **settings)
    views = settings.get("cached_views", 1)
    assert f"Caching logits of the teacher for {TRAINED * views} images" in capsys.readouterr().out
    assert all(phase.uses_features for phase in cached.record.phases)
    assert losses(cached) == pytest.approx(losses(on_images), rel=1e-4)


def test_cached_logits_are_used_again_by_the_same_teacher_alone(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = {"feature_cache_dir": str(tmp_path / "cache"), "feature_cache": "on"}
    results = []
    for number in range(2):
        results.append(losses(train_student(tmp_path / f"{number}", teacher, HEAD, **cache)))
        assert ("Caching logits of the teacher" in capsys.readouterr().out) == (number == 0)
    assert results[0] == results[1]
    other = hf_tl.load(teacher)[0]
    with torch.no_grad():
        list(other.parameters())[-1].add_(torch.tensor([3.0, -3.0]))  # the bias of the head
    changed = losses(train_student(tmp_path / "other", other, HEAD, **cache))
    assert "Caching logits of the teacher" in capsys.readouterr().out
    assert changed != pytest.approx(results[0], rel=1e-2)
