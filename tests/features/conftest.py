"""A feature store of a test."""

from pathlib import Path

import pytest
from features.stored_entries import LARGE

from hf_tl.features.feature_store import FeatureStore


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features", LARGE)
