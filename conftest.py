"""Fixtures of all tests, and the material of the examples in docstrings.

An example that names `photos`, `backbone` or `photos-model` runs in a folder that holds them, with messages off. An
example that pushes or pulls has a Hub on loopback.
"""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent / "tests"
sys.path.insert(0, str(TESTS))
pytest_plugins = ["hub.fixtures"]
CLASSES = {"dress": 60, "hat": 160}


@pytest.fixture(scope="session")
def photos_and_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `photos` of two classes and a `backbone` with random weights."""
    import numpy as np
    from PIL import Image

    import hf_tl

    folder, random = tmp_path_factory.mktemp("examples"), np.random.default_rng(0)
    for name, brightness in CLASSES.items():
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(20):
            pixels = np.clip(random.normal(brightness, 60, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number}.png")
    model, _ = hf_tl.load_backbone("timm:test_resnet", list(CLASSES), pretrained=False, image_size=32)
    del model.config.hf_tl
    model.save_pretrained(folder / "backbone")
    return folder


@pytest.fixture(scope="session")
def trained(photos_and_backbone: Path) -> Path:
    """Return the same folder with `photos-model`, trained on the photos."""
    import hf_tl

    strategy = hf_tl.Strategy.transfer(epochs=1)
    model, transforms = hf_tl.load_backbone(str(photos_and_backbone / "backbone"), list(CLASSES), strategy)
    folder = photos_and_backbone / "photos-model"
    hf_tl.train(model, str(photos_and_backbone / "photos"), strategy, transforms=transforms, output_dir=str(folder))
    return photos_and_backbone


@pytest.fixture(autouse=True)
def example_folder(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run an example of a docstring beside the material that it names."""
    with contextlib.ExitStack() as stack:
        if isinstance(request.node, pytest.DoctestItem):
            prepare_example(request, stack)
        yield


def prepare_example(request: pytest.FixtureRequest, stack: contextlib.ExitStack) -> None:
    """Copy the material of an example into its folder, and turn messages off."""
    from hf_tl.reporting.console import log_level

    text = "".join(example.source for example in request.node.dtest.examples)
    if not any(name in text for name in ('"photos', '"backbone"')):
        return
    patch, folder = request.getfixturevalue("monkeypatch"), request.getfixturevalue("tmp_path") / "here"
    material = request.getfixturevalue("trained" if '"photos-model"' in text else "photos_and_backbone")
    shutil.copytree(material, folder)
    patch.chdir(folder)
    patch.setenv("HF_TL_CACHE", str(folder / "features"))
    stack.enter_context(log_level("warning"))
    torch.set_num_threads(1)
    if "push(" in text:
        request.getfixturevalue("hub")
