"""A whole run by the command line: its card, privacy, and further training."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from hub.client import environment
from hub.server import HubServer
from PIL import Image
from publish.records import put

import hf_tl
from hf_tl.card.card import render_card
from hf_tl.card.figures.mistakes import collect_examples
from hf_tl.cli import ERROR_STATUS, main
from hf_tl.hub.hub import push
from hf_tl.record import LayerRecord, read_record

CANARIES = {
    "HOME": "canary-home",
    "USER": "canary-user",
    "LOGNAME": "canary-logname",
    "HOSTNAME": "canary-host",
    "HF_TOKEN": "hf_canarytoken",
    "WANDB_API_KEY": "canary-key",
}
COLORS = {"green": (40, 200, 40), "blue": (40, 40, 200), "<b>": (200, 40, 40)}
TINY = ["--model", "timm:test_resnet", "--no_pretrained", "--image_size", "32", "--cpu_threads", "1"]


def write_images(folder: Path, count: int) -> None:
    """Write noisy images, in colors that do not always match the class."""
    random = np.random.default_rng(count)
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            shown = color if number % 5 else (120, 120, 120)
            pixels = np.clip(np.array(shown) + random.integers(-60, 60, (24, 30, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("canary-data") / "pets"
    write_images(folder / "train", 20)
    write_images(folder / "test", 10)
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    words = ["--card_images", "--card_limits", "Not for <b>bold</b> claims.", "--report_to", "none"]
    main(["train", *TINY, "--dataset", str(data), *words, "--num_train_epochs", "2", "--output_dir", str(folder)])
    return folder


def test_the_card_shows_what_the_record_holds(trained: Path) -> None:
    record = read_record(trained)
    card = (trained / "README.md").read_text()
    assert card == render_card(record)
    assert set(re.findall(r"\]\((\w+\.png)\)", card)) == {path.name for path in trained.glob("*.png")}
    assert (trained / "mistakes.png").stat().st_size > 10_000
    test = record.measured["test"]
    assert sum(count for *_, count in test.confusion) == record.data.splits["test"].images == test.images == 30
    right = sum(count for true, predicted, count in test.confusion if true == predicted)
    assert right / 30 == pytest.approx(test.metrics["accuracy"])
    assert record.best is not None
    assert record.measured["validation"].metrics["accuracy"] == pytest.approx(record.best["validation"]["accuracy"])
    assert record.phases[0].learning_rates == {"head": 0.003}
    assert record.model.head.layers == (LayerRecord("fc", (3, 96)),)
    assert [stage.modules for stage in record.stages][1:3] == [("maxpool", "layer1"), ("layer2",)]
    assert (record.origin.kind, record.status) == ("random", "complete")
    assert "from-scratch" in card
    assert "base_model" not in card
    assert "Not for &#60;b&#62;bold&#60;/b&#62; claims." in card


def test_the_split_is_read_once_whatever_is_computed_from_it(
    trained: Path, feature_cache: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The results use the features of training: one entry for each of the three splits."""
    cache = tmp_path / "features"
    flags = ["--feature_cache", "on", "--feature_cache_dir", str(cache), "--report_to", "none"]
    flags += ["--num_train_epochs", "2", "--output_dir", str(tmp_path / "out")]
    main(["train", *TINY, "--dataset", str(data), *flags])
    entries = [path for path in cache.iterdir() if path.is_dir()]
    assert len(entries) == 3
    assert capsys.readouterr().err.count("Features of validation: 100%") == 1
    by_features, by_images = (read_record(path).measured for path in (tmp_path / "out", trained))
    for split in ("validation", "test"):
        assert by_features[split].metrics == pytest.approx(by_images[split].metrics, rel=1e-4)


def test_the_images_of_a_stream_are_shown_as_others(data: Path, tmp_path: Path) -> None:
    """The same mistakes, with their images."""
    parquet = tmp_path / "pets"
    parquet.mkdir()
    for split, rows in load_dataset("imagefolder", data_dir=str(data), cache_dir=str(tmp_path / "cache")).items():
        rows.to_parquet(parquet / f"{split}.parquet")
    shown = []
    for name, more in (("whole", []), ("stream", ["--streaming"])):
        folder, flags = tmp_path / name, ["--card_images", "--num_train_epochs", "2", "--report_to", "none", *more]
        flags += ["--feature_cache_dir", str(tmp_path / f"features of {name}")]
        main(["train", *TINY, "--dataset", str(parquet), *flags, "--output_dir", str(folder)])
        mistakes = read_record(folder).measured["test"].mistakes
        pixels = np.asarray(Image.open(folder / "mistakes.png").convert("RGB"), dtype=float)
        shown.append(([(m["image"], m["true"], m["predicted"]) for m in mistakes], pixels))
    assert shown[0][0] == shown[1][0] != []
    assert np.abs(shown[0][1] - shown[1][1]).mean() < 1


def test_the_images_shown_are_those_of_the_mistakes(data: Path, trained: Path) -> None:
    model, transforms = hf_tl.load(trained)
    images = hf_tl.load_data(str(data))
    mistakes = tuple({"image": place, "true": 0, "predicted": 1, "probability": 0.9} for place in (17, 4))
    record = put(read_record(trained), measured__test__mistakes=mistakes)
    examples = collect_examples(model, transforms.eval, images, record)
    for example, place in zip(examples, (17, 4), strict=True):
        pixels = transforms.eval(images.splits["test"][place]["image"]).numpy()
        preprocessing = record.model.preprocessing
        seen = pixels.transpose(1, 2, 0) * preprocessing.std + preprocessing.mean
        np.testing.assert_allclose(example.pixels, np.clip(seen, 0, 1), atol=1e-6)
        assert set(example.maps) == {"predicted", "true"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leaks(folder: Path, words: set[str]) -> list[tuple[str, str]]:
    """Return the files with one of the words in their name or content."""
    files = contents(folder)
    return [
        (name, word) for name, content in files.items() for word in words if word.encode() in name.encode() + content
    ]


def test_no_file_names_the_machine_or_the_user(data: Path, tmp_path: Path) -> None:
    """Neither do checkpoints of an interrupted run and the trackers' logs."""
    pytest.importorskip("tensorboard")
    home, out = tmp_path / CANARIES["HOME"], tmp_path / "out"
    home.mkdir()
    weights = home / "canary-folder"
    weights.mkdir()
    private = {*CANARIES.values(), str(tmp_path), str(data.parent), "canary", str(Path.home())} - {"/"}
    if len(socket.gethostname()) > 6:  # a shorter name occurs in random bytes by chance
        private.add(socket.gethostname())
    flags = [*TINY, "--dataset", str(data), "--output_dir", str(out), "--report_to", "tensorboard", "--card_images"]
    command = [sys.executable, "-m", "hf_tl", "train", *flags, "--feature_cache_dir", str(weights)]
    environ = {**os.environ, **CANARIES, "HOME": str(home), "HF_HUB_OFFLINE": "1"}

    def start(*more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, *more], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    with start("--num_train_epochs", "3000", "--feature_cache", "off") as process:
        while not list(out.glob("checkpoints/*/state.json")) and process.poll() is None:
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    checkpoints = contents(out / "checkpoints")
    assert any(name.endswith("state.json") for name in checkpoints)
    assert leaks(out / "checkpoints", private) == []
    with start("--num_train_epochs", "2", "--overwrite_output_dir") as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert {"README.md", "run.json", "config.json", "mistakes.png"} <= {path.name for path in out.iterdir()}
    assert list(out.glob("logs/**/*tfevents*"))
    assert leaks(out, private) == []


def test_the_snippet_of_the_card_continues_training(hub: HubServer, trained: Path, data: Path, tmp_path: Path) -> None:
    """The snippet of hf_tl, as copied by a reader, from the repository that the model was pushed to."""
    push(trained, "user/colors")
    card = render_card(read_record(trained), "user/colors")
    (snippet,) = [code for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "import hf_tl" in code]
    shutil.copytree(data, tmp_path / "FOLDER")
    environ = environment(hub.url, tmp_path / "hf_home") | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = read_record(tmp_path / "out")
    (commit, *_) = hub.hub.history(hub.hub.repos["models", "user/colors"], "main")
    assert (record.origin.kind, record.origin.name, record.origin.revision) == ("trained", "user/colors", commit["id"])
    assert record.origin.head == "kept"
    assert record.origin.is_random
    assert record.strategy.name == "finetune"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base_model: user/colors" in card
    assert "a model `user/colors` that hf_tl trained on `pets`" in card


def test_energy_is_measured_with_codecarbon(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["train", *TINY, "--dataset", str(data), "--measure_energy", "--report_to", "none"]
    flags += ["--num_train_epochs", "2", "--output_dir", str(tmp_path / "out")]
    try:
        import codecarbon  # noqa: F401
    except ImportError:
        with pytest.raises(SystemExit) as stop:
            main(flags)
        assert stop.value.code == ERROR_STATUS
        assert 'pip install "hf-tl[energy]"' in capsys.readouterr().err
        return
    handler = signal.getsignal(signal.SIGTERM)
    main(flags)
    assert "[codecarbon" not in capsys.readouterr().err
    energy = read_record(tmp_path / "out").energy
    assert energy is not None
    assert 0 < energy["kwh"] < 1
    assert re.search(r"- energy: [\d.e-]+ kWh \(.*codecarbon", (tmp_path / "out" / "README.md").read_text())
    assert signal.getsignal(signal.SIGTERM) is handler
    assert not list(tmp_path.rglob("emissions*"))
