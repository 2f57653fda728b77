"""Groups in whole runs: the same splits from flags and from Python, in log, record, card and evaluation."""

import html
from pathlib import Path

import numpy as np
import pytest
from backbones.checkpoints import save_timm, timm_network
from PIL import Image

import hf_tl
from hf_tl.cli import main
from hf_tl.evaluation.intervals import share_interval
from hf_tl.record import read_record
from hf_tl.reporting.numbers import counted

QUICK = ["--per_device_train_batch_size", "8", "--report_to", "none", "--epochs", "1", "--seed", "3"]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_timm(timm_network(), tmp_path_factory.mktemp("net")))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write six series of four similar photos for each of two classes."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    values = np.random.default_rng(0)
    for label, level in (("dark", 0), ("light", 130)):
        (folder / label).mkdir(parents=True)
        for item in range(6):
            scene = values.integers(0, 110, (32, 32, 3)) + level
            for view in range(4):
                pixels = scene + values.integers(0, 10, scene.shape)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / label / f"{label}-{item}_{view}.png")
    return folder


SETTINGS = {
    "series": ({}, "series of file names", 12),
    "pattern": ({"group_pattern": r"([0-9])_"}, "the pattern ([0-9])_ of file names", 6),
    "none": ({"group_pattern": "none"}, None, 0),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_flags_and_python_draw_the_same_splits(
    net: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    settings, origin, number = SETTINGS[case]
    flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
    main(["train", "--model", net, "--dataset", str(photos), *QUICK, *flags, "--output_dir", str(tmp_path / "flags")])
    output = capsys.readouterr().out
    command = read_record(tmp_path / "flags")
    hf_tl.train(
        net, photos, epochs=1, batch_size=8, report_to="none", seed=3, output_dir=tmp_path / "python", **settings
    )
    python = read_record(tmp_path / "python")
    assert command.data.splits == python.data.splits
    assert command.data.groups == python.data.groups
    card = (tmp_path / "flags" / "README.md").read_text(encoding="utf-8")
    measured, groups = command.measured["test"], hf_tl.load_data(str(photos), seed=3, **settings).groups.get("test")
    assert measured.groups == (None if groups is None else len(set(groups)))
    independent = measured.groups or measured.images
    assert measured.intervals["accuracy"] == pytest.approx(
        share_interval(measured.metrics["accuracy"] or 0.0, independent), abs=1e-3
    )
    if origin is None:
        assert command.data.groups is None
        assert "group" not in card.partition("## Data")[2].partition("<details>")[0]
    else:
        assert command.data.groups is not None
        assert (command.data.groups.origin, command.data.groups.number) == (origin, number)
        assert f"drawn from train by {origin} (20%, seed 3)" in output
        assert f"test belong to {counted(measured.groups or 0, 'group')};" in card
        assert f"stratified by class, by {origin}, seed 3" in html.unescape(card).replace("\\", "")
    again = hf_tl.evaluate(tmp_path / "flags", str(photos)).measured
    assert (again.groups, again.intervals) == (measured.groups, measured.intervals)
    capsys.readouterr()
    main(["evaluate", str(tmp_path / "flags"), "--dataset", str(photos)])
    assert capsys.readouterr().out.startswith(f"test: {command.data.splits['test'].images} images\n")
