"""One thread per test process, and a feature cache for the tests; `hub/fixtures.py` has a Hub on loopback."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# the networks are tiny, and two test processes share the cores; child processes inherit the setting
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Set the feature cache of tests and their child processes, instead of the user's own cache."""
    folder = tmp_path_factory.mktemp("features")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TL_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Reset the thread count: a run in this process may have used all cores, and more threads change the last bits."""
    torch.set_num_threads(1)
