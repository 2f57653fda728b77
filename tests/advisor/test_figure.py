"""Figure of a recommendation: for one or several networks, of any depth and name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from hf_tl.advisor.reporting.figure import COLORS, SHADES, plot_recommendation

pytestmark = pytest.mark.long

SIZE, SIZE_WITH_CURVES = (1600, 672), (2240, 672)
CURVE = {
    "sizes": [10, 20, 40],
    "errors": [0.4, 0.2, 0.1],
    "intervals": [[0.3, 0.5], [0.1, 0.3], [0.05, 0.2]],
    "floor": 0.0,
    "scale": 4.0,
    "rate": 1.0,
}


def accuracy(value: float) -> dict[str, Any]:
    return {"accuracy": value, "interval": [max(0, value - 0.05), min(1, value + 0.05)], "images": 100}


def record(
    stages: int, names: list[str], similarity: float = 0.5, images: float = 30, curve: Any = None
) -> dict[str, Any]:
    depths = [
        {"stage": f"blocks.{number}", "linear_probe": accuracy(number / stages), "nearest_neighbors": accuracy(0.2)}
        for number in range(1, stages + 1)
    ]
    place = {"value": similarity, "interval": [similarity, similarity], "untrained": accuracy(0.3)}
    return {
        "data": {"name": names[0], "median_class": images, "training_images": 50},
        "advice": "train the head",
        "backbone": names[0],
        "evidence": [
            {"backbone": name, "depths": depths, "similarity": place, "learning_curve": curve} for name in names
        ],
    }


def share_of(path: Path, color: str) -> float:
    pixels = np.asarray(Image.open(path).convert("RGB"), dtype=float) / 255
    return float((np.abs(pixels - np.asarray(to_rgb(color))).max(axis=-1) < 0.02).mean())


@pytest.mark.parametrize("stages", [1, 2, 7, 50])
def test_networks_of_any_depth(tmp_path: Path, stages: int) -> None:
    plot_recommendation(record(stages, ["net"]), tmp_path / "figure.png")
    assert Image.open(tmp_path / "figure.png").size == SIZE
    assert all(share_of(tmp_path / "figure.png", shade) > 0.01 for shade in SHADES.values())


def test_each_backbone_has_a_color(tmp_path: Path) -> None:
    plot_recommendation(record(4, ["one", "two"]), tmp_path / "two.png")
    plot_recommendation(record(4, ["one"]), tmp_path / "one.png")
    assert share_of(tmp_path / "two.png", COLORS[1]) > 1e-4
    assert share_of(tmp_path / "one.png", COLORS[1]) == 0


def test_learning_curves_have_a_panel_of_their_own(tmp_path: Path) -> None:
    plot_recommendation(record(4, ["one", "two"], curve=CURVE), tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size == SIZE_WITH_CURVES
    panel = Image.open(tmp_path / "curves.png").convert("RGB").crop((1620, 60, 2240, 560))
    panel.save(tmp_path / "panel.png")
    assert share_of(tmp_path / "panel.png", COLORS[1]) > 1e-4


@pytest.mark.parametrize(("similarity", "images"), [(0, 1), (1, 1e9)])
def test_data_at_the_ends_of_the_plane(tmp_path: Path, similarity: float, images: float) -> None:
    plot_recommendation(record(3, ["$\\frac{", "%s"], similarity, images), tmp_path / "figure.png")
    assert Image.open(tmp_path / "figure.png").size == SIZE
