"""Datasets of the Hub with several configurations: every command that takes a dataset can name one."""

import subprocess
import sys
from pathlib import Path

from hub.client import TOKEN, environment
from hub.server import HubServer

ROOT = Path(__file__).parents[2]
PROGRAM = """
import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pillow

import hf_tl
from hf_tl.cli import main

def rows(names, seed):
    noise = np.random.default_rng(seed)
    images = [Pillow.fromarray(noise.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(24)]
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"image": images, "label": [0, 1] * 12}, features=features)

pets, cars = rows(["cat", "dog"], 1), rows(["bus", "car"], 2)
pets.push_to_hub("user/things", "pets", split="test")
cars.push_to_hub("user/things", "cars", split="test")
strategy = hf_tl.Strategy.transfer(epochs=1)
model, transforms = hf_tl.load_backbone("timm:test_resnet", ["cat", "dog"], strategy, pretrained=False, image_size=32)
hf_tl.train(model, rows(["cat", "dog"], 3), strategy, transforms=transforms, output_dir="out", report_to="none")
print("evaluated:")
main(["evaluate", "out", "--dataset", "user/things", "--dataset_config", "pets"])
main(["evaluate", "out", "--dataset", "user/things"])
"""


def test_evaluate_names_a_configuration(tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub", tokens={TOKEN: {"name": "user", "role": "write"}}) as server:
        env = environment(server.url, tmp_path / "home") | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert "all: 24 images" in done.stdout.partition("evaluated:")[2], done.stderr
    assert done.returncode == 2
    assert "name one with --dataset_config" in done.stderr
