"""Modules that `hf-tl train` has imported at the first image and at its end, and how often it reads the weights."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from cli.runs import SMALL, write_images

OF_MODELS = {"torch._dynamo", "torchvision", "timm", "transformers.modeling_utils", "matplotlib", "scipy", "sklearn"}
"""Libraries that take seconds to import and that no image needs."""
UNUSED = {"scipy.stats", "peft", "sklearn", "transformers.trainer_utils", "hf_tl.advisor.recommend", "hf_tl.trainer"}
"""Libraries that a training of the head needs at no time."""
PROGRAM = """
import json, sys
from hf_tl.cli import main

record, arguments = sys.argv[1], sys.argv[2:]
seen = {"first image": None, "weights": 0}

def note(event, values):
    if event == "open" and isinstance(values[0], str):
        if values[0].endswith(".png") and seen["first image"] is None:
            seen["first image"] = sorted(sys.modules)
        seen["weights"] += values[0].endswith(".pth")

sys.addaudithook(note)
main(arguments)
seen["end"] = sorted(sys.modules)
open(record, "w").write(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Train a head in a process of its own; return its modules at two moments, and how often it opened the weights."""
    folder: Path = tmp_path_factory.mktemp("startup")
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "weights.pth")
    images = write_images(folder / "images", 10)
    arguments = ["train", "--dataset", str(images), "--model", "timm:test_resnet", "--weights"]
    arguments += [str(folder / "weights.pth"), "--image_size", "32", "--output_dir", str(folder / "out"), *SMALL]
    program = [sys.executable, "-c", PROGRAM, str(folder / "seen.json"), *arguments, "--num_train_epochs", "1"]
    subprocess.run(program, check=True, capture_output=True, cwd=folder)
    record: dict[str, Any] = json.loads((folder / "seen.json").read_text(encoding="utf-8"))
    return record


def test_images_are_opened_before_the_libraries_of_models_are_imported(seen: dict[str, Any]) -> None:
    assert "torch" in seen["first image"]
    assert not OF_MODELS & set(seen["first image"])


def test_training_a_head_imports_no_unused_library(seen: dict[str, Any]) -> None:
    code = (
        "import json, sys; from transformers import AutoModelForImageClassification; print(json.dumps([*sys.modules]))"
    )
    alone = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "torchvision" in seen["end"]
    assert not (UNUSED - set(json.loads(alone.stdout))) & set(seen["end"])  # transformers 5.3 imports scikit-learn


def test_a_weights_file_is_opened_once_to_load_it_and_once_for_its_digest(seen: dict[str, Any]) -> None:
    assert seen["weights"] == 2
