"""Solving a head needs memory for blocks of images, not for all features or all logits."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from hf_tl.head import logistic_regression
from hf_tl.head.head_solver import solve_head
from hf_tl.storage import rows

IMAGES, VALUES, CLASSES = 60_000, 256, 200
ALLOWED = 30e6
"""Bytes beside the features: less than all features (61 MB), and less than all logits (48 MB)."""
PROGRAM = """
import resource, sys, tempfile
import numpy as np, torch
from hf_tl.head import logistic_regression
from hf_tl.head.head_solver import solve_head
from hf_tl.storage import rows

images, values, classes, allowed = map(int, sys.argv[1:])
torch.set_num_threads(1)
rows.BLOCK, logistic_regression.MAX_LOGITS = 1 << 20, 1 << 18
solve_head(torch.randn(400, values), torch.arange(400) % classes, classes, strength=10.0)
features = torch.from_numpy(np.memmap(tempfile.TemporaryFile(), np.float32, "w+", shape=(images, values)))
labels = torch.arange(images) % classes
for block in rows.blocks(features):
    features[block].normal_()[:, :classes].scatter_add_(1, labels[block, None], torch.ones(len(labels[block]), 1))
data = next(line for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (int(data.split()[1]) * 1024 + allowed,) * 2)
solution = solve_head(features, labels, classes, strength=10.0, overwrite=True)
print(solution.train_loss, solution.weight.diagonal().min() > 0)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux limits memory in this way")
def test_memory_grows_neither_with_all_features_nor_with_all_logits() -> None:
    sizes = map(str, (IMAGES, VALUES, CLASSES, int(ALLOWED)))
    done = subprocess.run([sys.executable, "-c", PROGRAM, *sizes], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    loss, is_learned = done.stdout.split()
    assert 0 < float(loss) < np.log(CLASSES)
    assert is_learned == "tensor(True)"


def test_blocks_and_a_temporary_file_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 4
    features = torch.randn(300, 12, generator=generator, dtype=torch.float64) + labels[:, None] / 4
    expected = solve_head(features, labels, 4)
    monkeypatch.setattr(rows, "BLOCK", 1000)
    monkeypatch.setattr(rows, "IN_MEMORY", 1000)
    monkeypatch.setattr(logistic_regression, "MAX_LOGITS", 100)
    monkeypatch.setattr(logistic_regression, "MAX_WEIGHTS", 100)
    copy = features.clone()
    solution = solve_head(copy, labels, 4)
    assert torch.equal(copy, features)
    assert solution.strength == expected.strength
    torch.testing.assert_close(solution.weight, expected.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(solution.bias, expected.bias, rtol=1e-4, atol=1e-5)
    overwritten = solve_head(copy, labels, 4, overwrite=True)
    torch.testing.assert_close(overwritten.weight, solution.weight)


def test_large_rows_are_in_a_temporary_file_and_not_on_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "IN_MEMORY", 1000)
    matrix = rows.new_rows(100, 5, torch.float32, torch.device("cpu"))
    matrix[:] = torch.arange(100)[:, None]
    assert matrix.shape == (100, 5)
    assert matrix.dtype == torch.float32
    assert torch.equal(matrix[99], torch.full((5,), 99.0))
    with pytest.raises(OSError, match="No space left"):
        rows.new_rows(2**40, 2**20, torch.float32, torch.device("cpu"))
