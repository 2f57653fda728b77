"""Training on a dataset streamed from the Hub equals training on the downloaded one."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli.runs import TINY, fails
from datasets import Image
from features.colored_images import IMAGES, SHARDS, colored, write_shards
from hub.client import TOKEN, environment
from hub.server import HubServer
from training import small_runs
from training.small_runs import Run, differences, result_of, resumed, stopped_at

from hf_tl.cli import main
from hf_tl.data.datasets import load_data
from hf_tl.data.streaming.streams import StreamedImages
from hf_tl.record import RunRecord, read_record
from hf_tl.views import stream_views

ROOT = Path(__file__).parents[2]
BATCH = ["--per_device_train_batch_size", "8", "--learning_rate", "0.03", "--num_train_epochs", "3"]
PUSH = """
import json, sys
from datasets import DatasetDict, load_dataset
images = load_dataset("parquet", data_files=sys.argv[1], split="train")
images.push_to_hub("user/colors", num_shards=int(sys.argv[2]))
if len(sys.argv) > 3:
    third = len(images) // 3
    splits = {name: images.select(range(k * third, (k + 1) * third)) for k, name in enumerate(sys.argv[3:])}
    DatasetDict(splits).push_to_hub("user/split")
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("parquet") / "colors")


@pytest.fixture(scope="module")
def served(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """Yield a Hub with the dataset in three files."""
    folder = tmp_path_factory.mktemp("hub")
    with HubServer(folder, tokens={TOKEN: {"name": "user", "role": "write"}}) as server:
        command = [sys.executable, "-c", PUSH, str(shards / "*.parquet"), str(SHARDS)]
        run(command, environment(server.url, folder / "pusher"))
        yield server


def run(command: list[str], env: dict[str, str], status: int = 0) -> str:
    process = subprocess.run(
        command, env=env | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=300
    )
    assert process.returncode == status, f"{process.stdout}\n{process.stderr}"
    return process.stdout + process.stderr


def train(
    server: HubServer,
    folder: Path,
    *flags: str,
    processes: int = 0,
    home: str = "home",
    dataset: str = "user/colors",
) -> tuple[RunRecord, str, int]:
    """Train on the Hub's dataset; return the record, the output, and the bytes of its files that were sent."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes else []
    out, before = folder / f"out-{len(list(folder.iterdir()))}", server.hub.sent.copy()
    words = ["train", *TINY, *BATCH, "--dataset", dataset, "--output_dir", str(out), *flags]
    env = environment(server.url, folder / home) | {"HF_TL_CACHE": str(folder / home / "features")}
    output = run([sys.executable, *launcher, "-m", "hf_tl", *words], env)
    sent = sum(count for path, count in (server.hub.sent - before).items() if path.startswith("/cdn/"))
    return read_record(out), output, sent


def accuracy(record: RunRecord) -> float:
    return record.measured["test"].metrics["accuracy"] or 0.0


def bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def assert_same(a: RunRecord, b: RunRecord) -> None:
    """Compare two records of training.

    Features are computed in other batches, so the last digits may differ, and images of a stream have no digest.
    """
    assert [entry["validation"] for entry in a.history] == [
        pytest.approx(entry["validation"], rel=1e-4) for entry in b.history
    ]
    assert [entry["train_loss"] for entry in a.history] == pytest.approx(
        [entry["train_loss"] for entry in b.history], rel=1e-4
    )
    assert a.measured["test"].metrics == pytest.approx(b.measured["test"].metrics, rel=1e-4)
    splits = [{name: replace(split, digest=None) for name, split in record.data.splits.items()} for record in (a, b)]
    assert splits[0] == splits[1]


def sizes_of(server: HubServer) -> list[int]:
    """Return the sizes of the dataset's files."""
    sizes = [path.stat().st_size for path in server.hub.blob("any").parent.iterdir()]
    return [size for size in sizes if size > 2**18]


LABELS = SHARDS * 3 * 2**16
"""Upper limit of the bytes read for the labels."""


def test_training_streams_each_image_once_from_the_hub(served: HubServer, tmp_path: Path) -> None:
    """One pass for train, validation and test together."""
    sizes = sizes_of(served)
    streamed, output, sent = train(served, tmp_path, "--streaming")
    assert [split for split in ("train", "validation", "test") if f"Features of {split}" in output] == ["train"]
    assert sum(sizes) < sent < sum(sizes) + max(sizes) + LABELS, "each image is sent once, those with the first twice"
    home = tmp_path / "home"
    assert bytes_of(home) - bytes_of(home / "features") < 0.1 * sum(sizes), "nothing is downloaded"
    assert all(phase.uses_features for phase in streamed.phases)
    assert "images were streamed, not downloaded" in streamed.data.notes
    assert accuracy(streamed) > 0.9


@pytest.mark.slow
def test_a_second_run_on_a_stream_reads_only_labels_and_the_first_image(served: HubServer, tmp_path: Path) -> None:
    streamed, _, _ = train(served, tmp_path, "--streaming")
    again, _, sent = train(served, tmp_path, "--streaming")
    assert sent < max(sizes_of(served)) + LABELS
    assert list(again.history) == [{**entry, "seconds": pytest.approx(0, abs=60)} for entry in streamed.history]


@pytest.mark.slow
def test_a_streamed_run_is_that_of_the_downloaded_dataset(shards: Path, tmp_path: Path) -> None:
    """The dataset has splits; those that hf_tl draws differ, because the content of a stream is not read."""
    with HubServer(tmp_path / "hub", tokens={TOKEN: {"name": "user", "role": "write"}}) as server:
        command = [sys.executable, "-c", PUSH, str(shards / "*.parquet"), str(SHARDS), "train", "validation", "test"]
        run(command, environment(server.url, tmp_path / "pusher"))
        streamed, _, _ = train(server, tmp_path, "--streaming", dataset="user/split")
        whole, _, _ = train(server, tmp_path, "--feature_cache", "on", home="other home", dataset="user/split")
    assert_same(streamed, whole)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_share_a_stream(served: HubServer, tmp_path: Path, processes: int) -> None:
    """Images, or whole files where they can be distributed evenly: one process computes each feature."""
    batch = ["--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "1"]
    alone, _, _ = train(served, tmp_path, "--streaming", home="alone")
    several, output, _ = train(served, tmp_path, "--streaming", *batch, processes=processes)
    assert f"{processes} processes" in output
    assert_same_features(tmp_path / "alone" / "features", tmp_path / "home" / "features")
    assert several.data.fingerprint == alone.data.fingerprint
    assert accuracy(several) > 0.9


@pytest.mark.slow
def test_two_processes_train_on_the_images_as_one(served: HubServer, tmp_path: Path) -> None:
    flags = ["--streaming", "--strategy", "full", "--batch_norm", "keep", "--feature_cache", "off"]
    alone, _, _ = train(served, tmp_path, *flags)
    two, _, _ = train(served, tmp_path, *flags, "--per_device_train_batch_size", "4", processes=2)
    losses = [[entry["train_loss"] for entry in record.history] for record in (alone, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert accuracy(two) == pytest.approx(accuracy(alone), abs=0.06)


def assert_same_features(a: Path, b: Path) -> None:
    [first], [second] = (list(folder.glob("*/0.bin")) for folder in (a, b))
    assert first.parent.name == second.parent.name
    numbers = [np.fromfile(file, dtype=np.float32).reshape(SHARDS * IMAGES, -1) for file in (first, second)]
    assert (numbers[0].any(axis=1) & numbers[1].any(axis=1)).all()
    np.testing.assert_allclose(*numbers, rtol=1e-3, atol=1e-4 * float(np.abs(numbers[0]).max()))


Stream = Callable[..., list[str]]


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stream:
    """Return the flags of a run on a folder of parquet files, with a cache of its own."""
    monkeypatch.setenv("HF_TL_CACHE", str(tmp_path / "features"))

    def flags(folder: Path, *more: str) -> list[str]:
        out = ["--output_dir", str(tmp_path / "out"), "--dataset", str(folder), "--streaming"]
        return ["train", *TINY, *BATCH, *out, *more]

    return flags


BALANCED = "--balanced_sampling draws images at random, which a stream supports only with cached features"


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--balanced_sampling", "--strategy", "full"], f"{BALANCED}.*phase 1 cannot cache them: everything trains"),
        (
            ["--balanced_sampling", "--strategy", "finetune"],
            f"{BALANCED}.*phase 2 cannot cache them: light augmentation",
        ),
        (
            ["--balanced_sampling", "--feature_cache", "off"],
            f"{BALANCED}.*phase 1 cannot cache them: --feature_cache is off",
        ),
        (["--balanced_sampling", "--feature_cache_gb", "0.00001"], "--balanced_sampling needs features here"),
        (["--find_learning_rate"], "--find_learning_rate needs random access to images"),
    ],
)
def test_random_access_to_a_stream_is_refused_before_training(
    shards: Path, stream: Stream, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], reason: str
) -> None:
    words = stream(shards, *flags)
    if flags == ["--find_learning_rate"]:
        words = [word for word in words if word not in ("--learning_rate", "0.03")]
    assert re.search(reason, fails(words, capsys))
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize("strategy", ["finetune", "full"])
def test_a_stream_trains_on_images_where_features_cannot_be_cached(
    shards: Path, stream: Stream, tmp_path: Path, strategy: str
) -> None:
    """The head of finetune on features, and augmented phases on the images."""
    main(stream(shards, "--strategy", strategy, "--test_time_flip", "--num_train_epochs", "6"))
    record = read_record(tmp_path / "out")
    assert [phase.uses_features for phase in record.phases] == [False] * len(record.phases)
    assert accuracy(record) > 0.9


def test_a_stream_supports_views_half_precision_and_a_solved_head(shards: Path, stream: Stream, tmp_path: Path) -> None:
    """Two depths, augmented views of the images, in bfloat16, with a solved head."""
    views = ["--strategy", "finetune", "--cached_views", "2", "--feature_dtype", "bfloat16", "--head_solver", "lbfgs"]
    main(stream(shards, *views))
    record = read_record(tmp_path / "out")
    assert [phase.uses_features for phase in record.phases] == [True, True]
    assert accuracy(record) > 0.9


def test_a_bad_image_in_a_stream_is_an_error_or_skipped(
    shards: Path, stream: Stream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_shards(tmp_path / "colors", 2)
    table = colored(IMAGES, first=1).cast_column("image", Image(decode=False))
    stored = [*table["image"][:-1], {"bytes": table[0]["image"]["bytes"][:500], "path": None}]
    table.remove_columns("image").add_column("image", stored, feature=Image()).to_parquet(folder / "train-1.parquet")
    output = fails(stream(folder), capsys)
    assert "row 59 of train: the image is truncated" in output
    assert "--skip_bad_images" in output
    assert not list((tmp_path / "features").glob("[0-9a-f]*/")), "no features of a pass that failed"
    main(stream(folder, "--skip_bad_images"))
    record = read_record(tmp_path / "out")
    assert sum(split.images for split in record.data.splits.values()) == 59
    assert any("1 images of train that cannot be read were left out" in note for note in record.data.notes)


@pytest.fixture
def small_stream(tmp_path: Path) -> StreamedImages:
    """Return the images of `small_runs` as a stream of two files."""
    images = small_runs.make_images(Run(""))
    for number, part in enumerate((range(9), range(9, small_runs.IMAGES))):
        images.select(part).to_parquet(tmp_path / f"train-{number}.parquet")
    for split in ("validation", "test"):
        images.to_parquet(tmp_path / f"{split}-0.parquet")
    return load_data(str(tmp_path / "*.parquet"), streaming=True).splits["train"]


@pytest.mark.parametrize(
    "phases", ["finetune", *(pytest.param(name, marks=pytest.mark.slow) for name in ("views", "solved", "balanced"))]
)
def test_a_stream_trains_as_the_images_do_and_resumes(
    small_stream: StreamedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phases: str
) -> None:
    """Bit by bit, even if the features are missing at the resume."""
    settings = {"cached_views": 2, "save_steps": 1, "feature_cache": "on"}
    run = Run(str(tmp_path / "whole"), phases, settings | {"feature_cache_dir": str(tmp_path / "of images")})
    whole = result_of(small_runs.train(run))
    monkeypatch.setattr(small_runs, "make_images", lambda run: small_stream)
    run = Run(str(tmp_path / "stream"), phases, settings | {"feature_cache_dir": str(tmp_path / "of stream")})
    stopped = stopped_at(run, 3)
    assert stopped.state.uses_features
    shutil.rmtree(tmp_path / "of stream")
    assert differences(result_of(small_runs.train(resumed(run))), whole) == []


@pytest.mark.parametrize("phases", ["all kept", pytest.param("gradual", marks=pytest.mark.slow)])
def test_images_of_a_stream_resume_bit_by_bit(
    small_stream: StreamedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phases: str
) -> None:
    """The run stops within a block, an epoch and a phase."""
    monkeypatch.setattr(small_runs, "make_images", lambda run: small_stream)
    monkeypatch.setattr(stream_views.StreamedViews.__init__, "__kwdefaults__", {"shuffled": False, "block": 5})
    settings = {"save_steps": 1, "feature_cache": "off"}
    whole = small_runs.train(Run(str(tmp_path / "whole"), phases, settings))
    run = Run(str(tmp_path / "parts"), phases, settings)
    stopped_at(run, 2)
    stopped_at(resumed(run), 5)
    assert differences(result_of(small_runs.train(resumed(run))), result_of(whole)) == []
    seen = [index for step in sorted(whole.seen) for index in whole.seen[step]]
    assert sorted(seen[: small_runs.IMAGES]) == list(range(small_runs.IMAGES))


PEAK = """
import resource, sys
from hf_tl.cli import main
from hf_tl.views import stream_views
stream_views.StreamedViews.__init__.__kwdefaults__["block"] = 100
main(sys.argv[1:])
print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--strategy", "full", "--feature_cache", "off"]], ids=["features", "images"])
def test_memory_does_not_grow_with_the_number_of_images(stream: Stream, tmp_path: Path, flags: list[str]) -> None:
    """Blocks hold 100 images here: blocks of 1,000 would not be full for the smaller dataset."""
    peaks = []
    for images in (500, 4000):
        folder = write_shards(tmp_path / f"colors-{images}", images // 250, 250)
        words = [*stream(folder, *flags), "--overwrite_output_dir", "--num_train_epochs", "1"]
        output = run([sys.executable, "-c", PEAK, *words], {**os.environ, "HF_TL_CACHE": str(tmp_path / "features")})
        peaks.append(int(output.split("PEAK ")[1].split()[0]))
    print(peaks)
    assert peaks[1] < 1.1 * peaks[0], peaks
