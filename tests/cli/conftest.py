"""A folder of images and a model that `hf-tl train` trained on it."""

from pathlib import Path

import pytest
from cli.runs import TINY, write_images

from hf_tl.cli import main


@pytest.fixture(scope="session")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "colors"
    write_images(folder / "train", 24)
    write_images(folder / "test", 6)
    return folder


@pytest.fixture(scope="session")
def trained(colors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model whose head was trained first, and then its last stage too."""
    folder = tmp_path_factory.mktemp("run") / "out"
    recipe = ["--strategy", "finetune", "--trainable_stages", "2", "--num_train_epochs", "6", "--learning_rate", "0.03"]
    batch = ["--per_device_train_batch_size", "8", "--augmentation", "none", "--backbone_learning_rate", "0.003"]
    main(["train", *TINY, "--dataset", str(colors), *recipe, *batch, "--output_dir", str(folder)])
    return folder
