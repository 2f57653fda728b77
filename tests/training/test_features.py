"""Training on cached features equals training on images, and never uses a stale or damaged entry."""

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import (
    IMAGES,
    SIDE,
    RecordedTraining,
    Run,
    differences,
    launch,
    make_images,
    make_training,
    make_transforms,
    read_result,
    result_of,
    result_path,
    resumed,
    stopped_at,
    train,
)
from test_cli import TINY, write_images
from torch import Tensor
from torchvision.transforms import v2

from hf_tl.backbones.prefix.search import find_boundary
from hf_tl.backbones.stages.freezing import freeze, frozen_tensors
from hf_tl.backbones.weights.digest import digest
from hf_tl.features.inputs import PhaseInputs
from hf_tl.record import read_record
from hf_tl.views.views import TrainingViews

IMAGE = (3, SIDE, SIDE)
ACCUMULATED = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}


def cached(run: Run, folder: Path, **config: Any) -> Run:
    """Return the same run with features cached in `folder`."""
    return replace(run, config={**run.config, "feature_cache": "on", "feature_cache_dir": str(folder), **config})


def uncached(run: Run) -> Run:
    return replace(run, config={**run.config, "feature_cache": "off"})


def uses_features(training: RecordedTraining) -> list[bool]:
    return [phase.uses_features for phase in training.state.log.phases]


def losses(training: RecordedTraining) -> list[float]:
    history = training.state.log.history
    return [loss for entry in history for loss in (entry["train_loss"], entry["validation"]["loss"])]


def assert_close(a: RecordedTraining, b: RecordedTraining, tolerance: float = 1e-3) -> None:
    """Compare losses, and the weights after each step by the norm of their difference.

    AdamW turns the rounding error of a gradient close to zero into a whole step, and BatchNorm divides by the standard
    deviation of four images: where it trains, the tolerance must be larger.
    """
    assert losses(a) == pytest.approx(losses(b), rel=tolerance)
    assert a.seen == b.seen
    assert a.weights.keys() == b.weights.keys()
    for step, weights in a.weights.items():
        for name, tensor in weights.items():
            expected = b.weights[step][name].double()
            assert float((tensor.double() - expected).norm()) <= tolerance * float(expected.norm()) + 1e-9, (step, name)


def entries(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the names of the complete entries, with values that change when one is written again."""
    files = folder.glob("*/0.bin")
    return {file.parent.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


@pytest.mark.parametrize(
    ("phases", "config", "accelerator", "expected"),
    [
        ("transfer", {}, {}, [True]),
        ("finetune", {}, {}, [True, True]),
        ("unfreezing", {}, {}, [True, True, True, False]),
        ("balanced", {}, {}, [True]),
        ("finetune", ACCUMULATED, {}, [True, True]),
        ("finetune", {"gradient_checkpointing": True}, {}, [True, True]),
    ],
    ids=["transfer", "finetune", "unfreezing", "balanced", "accumulated", "checkpointed"],
)
def test_losses_and_weights_are_those_of_images(
    tmp_path: Path, phases: str, config: dict[str, Any], accelerator: dict[str, Any], expected: list[bool]
) -> None:
    run = Run(str(tmp_path), phases, {**config, "save_total_limit": 0}, accelerator=accelerator)
    images, features = train(uncached(run)), train(cached(run, tmp_path / "features"))
    assert uses_features(images) == [False] * len(expected)
    assert uses_features(features) == expected
    assert_close(features, images, 0.01 if phases == "finetune" else 1e-3)
    assert not differences(images.frozen, features.frozen)


@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
def test_half_precision_is_close_and_takes_half(tmp_path: Path, mixed_precision: str) -> None:
    run = Run(str(tmp_path), "finetune", {"save_total_limit": 0}, accelerator={"mixed_precision": mixed_precision})
    images = train(uncached(run))
    features = train(cached(run, tmp_path / "features", feature_dtype="bfloat16"))
    assert uses_features(features) == [True, True]
    assert losses(features) == pytest.approx(losses(images), rel=0.05)
    if mixed_precision == "no":
        train(cached(run, tmp_path / "whole"))
        sizes = [
            sorted(file.stat().st_size for file in (tmp_path / name).glob("*/0.bin")) for name in ("features", "whole")
        ]
        assert [2 * size for size in sizes[0]] == sizes[1]
        assert len(sizes[0]) == 2, "training and validation have the same images, and share an entry"


def test_a_second_run_computes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = cached(Run(str(tmp_path), "finetune", {"save_total_limit": 0}), tmp_path / "features")
    first = train(run)
    before = entries(tmp_path / "features")
    assert "one pass of about" in capsys.readouterr().out
    for again in (run, replace(run, config={**run.config, "feature_cache": "auto"})):
        second = train(again)
        printed = capsys.readouterr().out
        assert printed.count("found in the cache, nothing to compute") >= 1
        assert not differences(first.weights, second.weights)
    assert {key: value for key, value in entries(tmp_path / "features").items() if key in before} == before
    assert not list((tmp_path / "features").glob(".partial-*"))


def another_head(training: RecordedTraining) -> None:
    with torch.no_grad():
        training.model.timm_model.fc.weight.add_(1)


def other_weights(training: RecordedTraining) -> None:
    with torch.no_grad():
        training.model.timm_model.layer4[0].conv1.weight[0, 0, 0, 0] += 1e-3


def other_statistics(training: RecordedTraining) -> None:
    training.model.timm_model.layer1[0].bn1.running_mean[0] += 1e-3


def other_order(training: RecordedTraining) -> None:
    training.data.train_images = training.data.validation_images = training.data.train_images.select(
        range(IMAGES)[::-1]
    )


def other_image(training: RecordedTraining) -> None:
    pixels = [np.asarray(image) for image in training.data.train_images["image"]]
    pixels[3] = 255 - pixels[3]
    rows = training.data.train_images.to_dict() | {"image": pixels}
    features = training.data.train_images.features
    training.data.train_images = training.data.validation_images = type(training.data.train_images).from_dict(
        rows, features=features
    )


def other_transforms(training: RecordedTraining) -> None:
    original = training.data.transforms_of

    def darker(phase: Any) -> Any:
        transforms = original(phase)
        transforms.eval.pipeline.transforms.append(torch.nn.ReLU())
        transforms.train.pipeline.transforms.append(torch.nn.ReLU())
        return transforms

    training.data.transforms_of = darker


def other_pooling(training: RecordedTraining) -> None:
    """Change the settings of the network, and keep its weights."""
    training.model.timm_model.reset_classifier(3, "max")
    training.model.config.model_args = {"global_pool": "max"}


@pytest.mark.parametrize(
    "change",
    [another_head, other_weights, other_statistics, other_order, other_image, other_transforms, other_pooling],
    ids=lambda change: change.__name__,
)
def test_whatever_features_depend_on_makes_other_entries(
    tmp_path: Path, change: Callable[[RecordedTraining], None]
) -> None:
    run = Run(str(tmp_path), "transfer", {"save_total_limit": 0})
    train(cached(run, tmp_path / "features"))
    before = entries(tmp_path / "features")
    results = []
    for other in (cached(run, tmp_path / "features"), uncached(run)):
        training = make_training(other)
        torch.manual_seed(1)
        change(training)
        torch.manual_seed(0)
        training.run()
        results.append(training)
    is_new = len(entries(tmp_path / "features")) > len(before)
    assert is_new == (change is not another_head)
    assert_close(*results)


def large_jpegs(training: RecordedTraining) -> None:
    """Use images eight times as large as the input."""
    files = []
    for image in training.data.train_images["image"]:
        image.resize((8 * SIDE, 8 * SIDE)).save(stream := io.BytesIO(), "JPEG", quality=95)
        files.append({"bytes": stream.getvalue(), "path": None})
    rows = {"image": files, "label": training.data.train_images["label"]}
    features = training.data.train_images.features
    training.data.train_images = training.data.validation_images = type(training.data.train_images).from_dict(
        rows, features=features
    )
    original = training.data.transforms_of

    def resized(phase: Any) -> Any:
        transforms = original(phase)
        for transform in {id(t): t for t in (transforms.train, transforms.eval)}.values():
            transform.pipeline.transforms.insert(0, v2.Resize(SIDE))
        return transforms

    training.data.transforms_of = resized


def test_only_training_images_are_decoded_at_a_reduced_size(tmp_path: Path) -> None:
    """Evaluated images have the features of whole images, with or without the flag."""
    run = Run(str(tmp_path), "transfer", {"save_total_limit": 0})
    found, results = [], []
    for flags in ({}, {"decode_reduced": True}):
        training = make_training(cached(run, tmp_path / "features", **flags))
        large_jpegs(training)
        torch.manual_seed(0)
        training.run()
        found.append(entries(tmp_path / "features"))
        results.append(training)
    assert len(found[0]) == 1, "training and validation have the same images, and share an entry"
    assert len(found[1]) == 2
    assert found[0].items() < found[1].items()
    whole, reduced = (losses(training) for training in results)
    assert whole != reduced
    assert reduced == pytest.approx(whole, rel=0.05)


def test_damage_is_told_and_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = cached(Run(str(tmp_path), "transfer", {"save_total_limit": 0}), tmp_path / "features")
    expected = train(run)
    (file, *_) = (tmp_path / "features").glob("*/0.bin")
    content = bytearray(file.read_bytes())
    content[10] ^= 64
    file.write_bytes(content)
    again = train(run)
    assert "are not whole (damaged: 0.bin): they are computed again" in capsys.readouterr().out
    assert not differences(expected.weights, again.weights)
    assert uses_features(again) == [True]


def test_a_run_stopped_among_features_ends_bit_by_bit_the_same(tmp_path: Path) -> None:
    """The second time `auto` would not compute them: one epoch costs one pass, and the cache was emptied."""
    run = cached(Run(str(tmp_path / "a"), "short", {"save_steps": 1}), tmp_path / "features")
    expected = train(run)
    assert uses_features(expected) == [True, True]
    for stop in (2, 6):
        run = cached(Run(str(tmp_path / str(stop)), "short", {"save_steps": 1}), tmp_path / f"features-{stop}")
        stopped_at(run, stop)
        for entry in entries(tmp_path / f"features-{stop}"):
            subprocess.run(["rm", "-r", tmp_path / f"features-{stop}" / entry], check=True)
        going_on = train(resumed(run, feature_cache="auto" if stop == 6 else "on"))
        assert differences(result_of(expected), result_of(going_on)) == []


def test_a_run_that_was_decided_against_features_stays_with_images(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "a"), "short", {"save_steps": 1, "feature_cache_dir": str(tmp_path / "features")})
    expected = train(run)
    before = entries(tmp_path / "features")
    assert uses_features(expected)[1] is False, "one epoch does not pay for a pass"
    run = replace(run, output=str(tmp_path / "b"))
    stopped_at(run, 6)
    going_on = train(resumed(run, feature_cache="on"))
    assert uses_features(going_on)[1] is False
    assert differences(result_of(expected)["weights"], result_of(going_on)["weights"]) == []
    assert entries(tmp_path / "features") == before


@pytest.fixture(params=["no folder", "full", "read-only"])
def unwritable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Return a folder that features cannot be written to."""
    folder = tmp_path / "disk"
    if request.param == "no folder":
        folder.write_text("a file")
        yield folder / "features"
        return
    folder.mkdir()
    options = "size=4k" if request.param == "full" else "ro"
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]).returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_takes_nothing_is_told_and_the_run_goes_on(
    tmp_path: Path, unwritable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(str(tmp_path / "run"), "finetune", {"save_total_limit": 0})
    training = train(cached(run, unwritable))
    printed = capsys.readouterr().out
    assert printed.count(f"not cached: {unwritable} cannot be written to") == 2
    assert "the phase trains on the images" in printed
    assert uses_features(training) == [False, False]
    assert differences(result_of(train(uncached(run))), result_of(training)) == []
    left = [path.name for path in unwritable.iterdir()] if unwritable.is_dir() else []
    assert not [name for name in left if not name.endswith(".lock")]


def test_more_features_than_the_limit_are_not_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each set alone would fit: the second would evict the first."""
    run = Run(str(tmp_path / "run"), "transfer", {"save_total_limit": 0})
    one = IMAGES * 96 * 4
    training = train(cached(run, tmp_path / "features", feature_cache_gb=1.5 * one / 1e9))
    assert uses_features(training) == [False]
    assert "--feature_cache_gb" in capsys.readouterr().out
    assert entries(tmp_path / "features") == {}


def inputs_of(run: Run) -> tuple[RecordedTraining, PhaseInputs]:
    training = make_training(run)
    phase = run.strategy.phases[0]
    freeze(training.model, phase.trainable_stages, phase.norm, phase.batch_norm)
    return training, training.data.inputs(phase, digest(frozen_tensors(training.model)), 2)


def test_epochs_take_the_kept_views_in_turn(tmp_path: Path) -> None:
    run = cached(Run(str(tmp_path), "views"), tmp_path / "features", cached_views=3)
    training, inputs = inputs_of(run)
    assert len(entries(tmp_path / "features")) == 4
    boundary = find_boundary(training.model, IMAGE)
    views = TrainingViews(make_images(run), make_transforms(run).train, 0)
    with torch.inference_mode():
        for epoch in range(6):
            expected = boundary.features(
                training.model, torch.stack([views[epoch % 3, index]["pixel_values"] for index in range(IMAGES)])
            )
            batch = inputs.train.__getitems__([(epoch, index) for index in range(IMAGES)])
            assert torch.allclose(batch["features"][0], expected[0], rtol=1e-3, atol=1e-4 * float(expected[0].max()))
            assert batch["labels"].tolist() == [index % 3 for index in range(IMAGES)]
            assert batch["index"].tolist() == list(range(IMAGES))
    mixed = inputs.train.__getitems__([(2, 13), (3, 4), (4, 4)])["features"][0]
    single = [inputs.train[key]["features"][0] for key in ((2, 13), (0, 4), (1, 4))]
    assert torch.equal(mixed, torch.cat(single))
    assert not torch.equal(single[1], single[2])


def test_while_the_views_last_training_is_that_of_augmented_images(tmp_path: Path) -> None:
    run = Run(str(tmp_path), "views", {"save_total_limit": 0})
    images = train(run)
    assert uses_features(images) == [False, False]
    features = train(cached(run, tmp_path / "features", cached_views=4))
    assert uses_features(features) == [True, True]
    assert_close(features, images, 0.01)


@pytest.mark.parametrize(
    ("phases", "config", "reason"),
    [
        ("gradual", {}, "light augmentation changes images in each epoch"),
        ("averaged", {}, "images are mixed"),
        ("transfer", {"test_time_flip": True}, "--test_time_flip measures with mirrored images too"),
    ],
)
def test_phases_that_need_images_say_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], phases: str, config: dict[str, Any], reason: str
) -> None:
    _, inputs = inputs_of(cached(Run(str(tmp_path), phases, config), tmp_path / "features"))
    assert f"not cached: {reason}" in capsys.readouterr().out
    assert isinstance(inputs.train, TrainingViews)


@pytest.mark.slow
def test_two_processes_share_the_work_and_do_as_one(tmp_path: Path) -> None:
    """Nothing depends on how a batch is split: the norms freeze their statistics."""
    config = {"save_steps": 1}
    alone = cached(Run(str(tmp_path / "one"), "kept", config, dropout=0), tmp_path / "features-one")
    split = {**config, "per_device_train_batch_size": 2}
    two = cached(Run(str(tmp_path / "two"), "kept", split, dropout=0), tmp_path / "features-two")
    images = uncached(replace(two, output=str(tmp_path / "images")))
    again = replace(two, output=str(tmp_path / "again"))
    for run, processes in ((alone, 1), (two, 2), (again, 2), (images, 2)):
        Path(run.output).mkdir()
        process = launch(run, processes)
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-3000:]
        if run is again:
            assert "found in the cache" in output
            assert "Features of" not in errors
    one, first, second, plain = (
        torch.load(result_path(run, rank)) for run, rank in ((alone, 0), (two, 0), (two, 1), (images, 0))
    )
    assert [phase["uses_features"] for phase in first["log"]["phases"]] == [True, True]
    assert entries(tmp_path / "features-one").keys() == entries(tmp_path / "features-two").keys()
    for step, weights in one["by step"]["weights"].items():
        for other in (first, second, plain):
            for name, tensor in weights.items():
                assert torch.allclose(other["by step"]["weights"][step][name], tensor, rtol=1e-3, atol=1e-5), name
    assert not differences(read_result(two), read_result(again))


TRAIN = """
import sys
sys.path[:0] = [sys.argv[2], sys.argv[3]]
import numpy as np
import torch
from dataclasses import replace
from pathlib import Path
import small_runs
from datasets import ClassLabel, Dataset, Features, Image

torch.set_num_threads(1)
folder, count = Path(sys.argv[1]), int(sys.argv[4])
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
        paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
        done = subprocess.run(
            [sys.executable, "-c", TRAIN, str(tmp_path / str(count)), *paths, str(count)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        peaks[count] = int(done.stdout.split()[-1])
        sizes = [file.stat().st_size for file in (tmp_path / str(count) / "features").glob("*/0.bin")]
        assert sizes == [count * 768 * 4]
    print(f"peak memory in KB, by images: {peaks}")
    assert peaks[4000] < 1.1 * peaks[500]


def check_kept(run: Run, training: RecordedTraining, inputs: Any) -> None:
    boundary = find_boundary(training.model, IMAGE)
    pixels = torch.stack([make_transforms(run).eval(image) for image in make_images(run)["image"]])
    with torch.inference_mode():
        (expected,) = boundary.features(training.model, pixels)
    found: Tensor = inputs.validation.__getitems__(list(range(IMAGES)))["features"][0]
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_a_pass_that_tries_batch_sizes_keeps_what_the_network_computes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image keeps its place, whatever the size of its batch."""
    run = cached(Run(str(tmp_path), "finetune", {"per_device_eval_batch_size": 2}), tmp_path / "features")
    monkeypatch.setattr("hf_tl.features.batch_size.PAYS", 1)  # tries sizes even for this number of images
    training, inputs = inputs_of(run)
    assert re.search(r"batches of=[12]\b", capsys.readouterr().err)
    check_kept(run, training, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["g++", "missing-compiler"])
def test_a_long_pass_is_compiled_where_it_can_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    if compiler == "g++" and shutil.which(compiler) is None:
        pytest.skip("no C++ compiler")
    run = cached(Run(str(tmp_path), "finetune", {"per_device_eval_batch_size": 2}), tmp_path / "features")
    monkeypatch.setattr("hf_tl.features.batch_size.PAYS", 1)
    monkeypatch.setattr("hf_tl.features.feature_pass.COMPILE_SECONDS", 0)  # compiles even for this number of images
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    with torch._inductor.config.patch({"cpp.cxx": (compiler,)}):
        training, inputs = inputs_of(run)
    assert ("not compiled: " in capsys.readouterr().out) == (compiler != "g++")
    assert (counters["stats"]["unique_graphs"] > 0) == (compiler == "g++")
    check_kept(run, training, inputs)


def test_what_is_kept_is_what_the_network_computes(tmp_path: Path) -> None:
    """Not only for the first images: folding and batches change nothing but rounding."""
    run = cached(Run(str(tmp_path), "finetune", {"per_device_eval_batch_size": 4}), tmp_path / "features")
    training, inputs = inputs_of(run)
    check_kept(run, training, inputs)


@pytest.mark.slow
def test_the_command_line_finds_its_features_again(tmp_path: Path) -> None:
    write_images(tmp_path / "colors" / "train", 24)
    command = [sys.executable, "-m", "hf_tl", "train", *TINY, "--dataset", str(tmp_path / "colors")]
    command += ["--strategy", "transfer", "--num_train_epochs", "4", "--learning_rate", "0.03"]
    command += ["--feature_cache_dir", str(tmp_path / "features")]
    outputs, records, made = {}, {}, {}
    for name, cache in (("images", "off"), ("first", "on"), ("second", "auto")):
        output = ["--output_dir", str(tmp_path / name), "--feature_cache", cache]
        done = subprocess.run(
            [*command, *output],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "ACCELERATE_USE_CPU": "true"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        outputs[name] = done.stdout + done.stderr
        records[name] = read_record(tmp_path / name)
        made[name] = entries(tmp_path / "features")
    assert made["images"] == {}
    assert len(made["first"]) >= 2
    assert made["first"] == made["second"]
    assert "Features of" in outputs["first"]
    assert "Features of" not in outputs["second"]
    assert "found in the cache, nothing to compute" in outputs["second"]
    histories = [
        [(entry["train_loss"], entry["validation"]["loss"]) for entry in record.history] for record in records.values()
    ]
    assert histories[1] == histories[2]
    assert histories[1] == [pytest.approx(pair, rel=1e-3) for pair in histories[0]]
    # images with cached features are not decoded to check them; a changed one is
    next((tmp_path / "colors").rglob("*.png")).write_bytes(b"no image")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([*command, "--output_dir", str(tmp_path / "last")], env=environment, capture_output=True)
    assert done.returncode == 2
    assert b"1 images cannot be used" in done.stderr
