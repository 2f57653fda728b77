"""The pass computes the features of the network, in bounded memory."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from features.cached_runs import IMAGE, cached, inputs_of
from torch import Tensor
from training.small_runs import IMAGES, RecordedTraining, Run, make_images, make_transforms

from hf_tl.backbones.prefix.search import find_boundary

TESTS = Path(__file__).parents[1]


def check_cached(run: Run, training: RecordedTraining, inputs: Any) -> None:
    boundary = find_boundary(training.model, IMAGE)
    pixels = torch.stack([make_transforms(run).eval(image) for image in make_images(run)["image"]])
    with torch.inference_mode():
        (expected,) = boundary.features(training.model, pixels)
    features: Tensor = inputs.validation.__getitems__(list(range(IMAGES)))["features"][0]
    assert torch.allclose(features, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_cached_features_are_those_of_the_network(tmp_path: Path) -> None:
    """Not only for the first images: folding and batches change nothing but rounding."""
    run = cached(Run(str(tmp_path), "finetune", {"per_device_eval_batch_size": 4}), tmp_path / "features")
    training, inputs = inputs_of(run)
    check_cached(run, training, inputs)


def test_trying_batch_sizes_does_not_change_features(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image keeps its place, whatever the size of its batch."""
    run = cached(Run(str(tmp_path), "finetune", {"per_device_eval_batch_size": 2}), tmp_path / "features")
    monkeypatch.setattr(
        "hf_tl.features.batch_size.MIN_IMAGES_PER_TRIED_IMAGE", 1
    )  # tries sizes even for this number of images
    training, inputs = inputs_of(run)
    assert re.search(r"batch size=[12]\b", capsys.readouterr().err)
    check_cached(run, training, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["g++", "missing-compiler"])
def test_a_long_pass_is_compiled_if_there_is_a_compiler(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    if compiler == "g++" and shutil.which(compiler) is None:
        pytest.skip("no C++ compiler")
    run = cached(Run(str(tmp_path), "finetune", {"per_device_eval_batch_size": 2}), tmp_path / "features")
    monkeypatch.setattr("hf_tl.features.batch_size.MIN_IMAGES_PER_TRIED_IMAGE", 1)
    monkeypatch.setattr("hf_tl.features.feature_pass.COMPILATION_SECONDS", 0)  # compiles even for this number of images
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    with torch._inductor.config.patch({"cpp.cxx": (compiler,)}):
        training, inputs = inputs_of(run)
    assert ("without compilation: " in capsys.readouterr().out) == (compiler != "g++")
    assert (counters["stats"]["unique_graphs"] > 0) == (compiler == "g++")
    check_cached(run, training, inputs)


TRAIN = """
import sys
import numpy as np
import torch
from dataclasses import replace
from pathlib import Path
from training import small_runs
from datasets import ClassLabel, Dataset, Features, Image

torch.set_num_threads(1)
folder, count = Path(sys.argv[1]), int(sys.argv[2])
features = Features(image=Image(), label=ClassLabel(names=small_runs.LABELS))

def rows():
    random = np.random.default_rng(0)
    for number in range(count):
        yield {"image": random.integers(0, 256, (32, 32, 3), dtype=np.uint8), "label": number % 3}

images = Dataset.from_generator(rows, features=features, cache_dir=str(folder / "data"), writer_batch_size=100)
small_runs.make_images = lambda run: images
config = {"feature_cache": "on", "feature_cache_dir": str(folder / "features"), "per_device_eval_batch_size": 32}
run = small_runs.Run(str(folder), "finetune", {**config, "save_total_limit": 0, "cached_views": 1})
training = small_runs.make_training(run)
phase = replace(run.strategy.phases[1])
from hf_tl.backbones.stages.freezing import freeze, frozen_tensors
from hf_tl.backbones.weights.digest import digest
freeze(training.model, phase.trainable_stages)
inputs = training.data.inputs(phase, digest(frozen_tensors(training.model)), 2)
for first in range(0, count, 32):
    inputs.train.__getitems__([(0, row) for row in range(first, min(first + 32, count))])
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    peaks = {}
    for count in (500, 4000):
        process = subprocess.run(
            [sys.executable, "-c", TRAIN, str(tmp_path / str(count)), str(count)],
            env={**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"},
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr[-3000:]
        peaks[count] = int(process.stdout.split()[-1])
        sizes = [file.stat().st_size for file in (tmp_path / str(count) / "features").glob("*/0.bin")]
        assert sizes == [count * 768 * 4]
    print(f"peak memory in KB, by images: {peaks}")
    assert peaks[4000] < 1.1 * peaks[500]
