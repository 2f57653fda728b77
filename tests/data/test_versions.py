"""Versions of datasets: only those of the Hub have any."""

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pillow

from hf_tl.data.datasets import load_data
from hf_tl.errors import ConfigError


@pytest.mark.parametrize("version", ["dataset_config", "dataset_revision"])
def test_a_version_is_refused_for_what_has_none(tmp_path: Path, version: str) -> None:
    images = Dataset.from_dict(
        {"image": [Pillow.new("RGB", (8, 8), (value, 0, 0)) for value in range(8)], "label": [0, 1] * 4},
        features=Features({"image": Image(), "label": ClassLabel(names=["a", "b"])}),
    )
    images.to_parquet(str(tmp_path / "images.parquet"))
    for dataset, settings in ((images, {}), (str(tmp_path / "images.parquet"), {"streaming": True}), ("digits", {})):
        with pytest.raises(ConfigError, match=f"Hub dataset with (--)?{version}"):
            load_data(dataset, **settings, **{version: "main"})
