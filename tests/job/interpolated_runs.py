"""Fine-tuning of a small checkpoint with interpolated weights, for tests and as a script that a test kills.

python tests/job/interpolated_runs.py BACKBONE OUTPUT
"""

import sys
from pathlib import Path
from typing import Any

import torch
from job.small_data import LABELS, make_dataset

import hf_tl
from hf_tl.data.image_data import ImageData
from hf_tl.job.job import RunResult

SETTINGS: dict[str, Any] = {
    "report_to": "none",
    "per_device_train_batch_size": 8,
    "feature_cache": "off",
    "save_steps": 1,
    "cpu_threads": 1,
}
PHASES = (
    hf_tl.Phase(1, 1, 0.01, augmentation="none"),
    hf_tl.Phase(3, 8, 0.02, augmentation="none", batch_norm="update"),
)


def make_data() -> ImageData:
    """Split images with some wrong labels; the third part validates."""
    return hf_tl.load_data(make_dataset(60, noise=4), validation_fraction=0.4)


def write_backbone(folder: Path) -> Path:
    """Save a checkpoint of random weights, whose origin is a folder."""
    torch.manual_seed(0)
    model, _ = hf_tl.load_backbone("timm:test_resnet", ["a", "b", "c"], pretrained=False, image_size=32)
    model.save_pretrained(folder)
    return folder


def train(backbone: Path, output: Path, phases: Any = PHASES, **settings: Any) -> RunResult:
    """Fine-tune the checkpoint, with a phase of the head first."""
    model, transforms = hf_tl.load_backbone(str(backbone), LABELS, seed=0)
    strategy = phases if isinstance(phases, hf_tl.Strategy) else hf_tl.Strategy("two phases", tuple(phases))
    return hf_tl.train(
        model, make_data(), strategy, transforms=transforms, output_dir=output, **{**SETTINGS, **settings}
    )


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]), interpolate="auto")
