"""The feature cache on several machines: each has all features, whether they share a folder or not."""

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from features.cached_runs import cached, entries
from training.launched_runs import launch_unwatched, result_path
from training.small_runs import Run

pytestmark = pytest.mark.long


def wait(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return [output for output, _ in outputs]


def run_of(folder: Path, strategy: str = "finetune") -> Run:
    return Run(str(folder), strategy, {"save_total_limit": 0})


def weights(run: Run, rank: int = 0) -> dict[str, torch.Tensor]:
    return torch.load(result_path(run, rank))["weights"]


@pytest.mark.parametrize("places", [("same", "same"), ("first", "second")])
def test_two_machines_train_on_features(tmp_path: Path, places: tuple[str, str]) -> None:
    runs = [cached(run_of(tmp_path), tmp_path / f"cache-{place}") for place in places]
    wait(launch_unwatched(runs))
    results = [torch.load(result_path(runs[0], rank)) for rank in range(2)]
    for result in results:
        assert [phase["uses_features"] for phase in result["log"]["phases"]] == [True, True]
    folders = [tmp_path / f"cache-{place}" for place in dict.fromkeys(places)]
    stored = [entries(folder) for folder in folders]
    assert [len(folder) for folder in stored] == [2] * len(folders), "two phases, training on the validation images"
    assert len({tuple(sorted(folder)) for folder in stored}) == 1
    if len(folders) == 2:
        for name in stored[0]:
            first, second = ((folder / name / "0.bin").read_bytes() for folder in folders)
            assert first == second
    assert not [path for folder in folders for path in folder.glob(".keeper-*")]


def test_features_of_two_machines_train_to_the_weights_of_images(tmp_path: Path) -> None:
    runs = [cached(run_of(tmp_path), tmp_path / name) for name in ("first", "second")]
    wait(launch_unwatched(runs))
    alone = replace(runs[0], output=str(tmp_path / "alone"), config={**runs[0].config, "feature_cache": "off"})
    Path(alone.output).mkdir()
    wait(launch_unwatched([alone, alone]))
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(runs[0])[name], tensor, atol=1e-3, rtol=1e-2)


def test_a_machine_without_an_entry_gets_it_from_one_that_has_it(tmp_path: Path) -> None:
    first, second = (cached(run_of(tmp_path), tmp_path / name) for name in ("first", "second"))
    wait(launch_unwatched([first, second]))
    before = entries(tmp_path / "first")
    for file in (tmp_path / "second").glob("*/*"):
        file.unlink()
    for folder in (tmp_path / "second").glob("*/"):
        folder.rmdir()
    wait(launch_unwatched([first, second]))
    assert entries(tmp_path / "first") == before
    assert entries(tmp_path / "second").keys() == before.keys()


def test_a_machine_that_cannot_write_makes_all_train_on_images(tmp_path: Path) -> None:
    (tmp_path / "second").write_text("no folder")
    first, second = (cached(run_of(tmp_path), tmp_path / name) for name in ("first", "second"))
    wait(launch_unwatched([first, second]))
    result = torch.load(result_path(first))
    assert [phase["uses_features"] for phase in result["log"]["phases"]] == [False, False]
    assert not entries(tmp_path / "first")
