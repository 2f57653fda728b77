"""Images of the tests with Trainer, and the verbosity of transformers."""

from collections.abc import Iterator

import pytest
from datasets import Dataset
from trainer.recorded_trainer import make_images
from transformers import logging as transformers_logging


@pytest.fixture(scope="module")
def images() -> Dataset:
    return make_images()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    level = transformers_logging.get_verbosity()
    yield
    transformers_logging.set_verbosity(level)
