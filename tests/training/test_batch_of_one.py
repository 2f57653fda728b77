"""BatchNorm and a batch of one image."""

from pathlib import Path

import pytest
from cli.runs import TINY, fails, write_images


def test_a_batch_of_one_names_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_images(tmp_path / "images", 5)
    words = ["train", *TINY, "--dataset", str(images), "--strategy", "full", "--num_train_epochs", "1"]
    words += ["--per_device_train_batch_size", "1", "--augmentation", "none", "--output_dir", str(tmp_path / "out")]
    text = fails(words, capsys)
    assert "BatchNorm cannot normalize a batch of one image: set --per_device_train_batch_size to at least 2" in text
    assert "Traceback" not in text
