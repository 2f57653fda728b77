"""Runs that several tests of `--strategy auto` read."""

from pathlib import Path

import pytest
from auto.inputs import AUTO, Inputs, printed_by
from backbones.checkpoints import save_transformers, tiny_resnet, tiny_vit
from cli.runs import write_images


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    root = tmp_path_factory.mktemp("somebody")
    save_transformers(tiny_resnet(), root / "resnet")
    save_transformers(tiny_vit(), root / "vit")
    write_images(root / "colors" / "train", 24)
    write_images(root / "colors" / "test", 6)
    return Inputs(root)


@pytest.fixture(scope="session")
def auto(inputs: Inputs) -> tuple[Path, str]:
    """Return the folder and the output of a run."""
    folder = inputs.root / "out"
    return folder, printed_by(["train", *inputs.flags(), *AUTO, "--output_dir", str(folder)])


@pytest.fixture(scope="session")
def recommended(inputs: Inputs) -> Path:
    folder = inputs.root / "advice"
    printed_by(
        [
            "recommend",
            "--trial_budget",
            "0",
            "--dataset",
            inputs.images,
            "--model",
            *inputs.models,
            "--output_dir",
            str(folder),
        ]
    )
    return folder
