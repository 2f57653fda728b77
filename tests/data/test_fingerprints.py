"""Fingerprints of datasets: of the content of all images, and of nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest
from data.pictures import WriteFolder, picture
from datasets import Dataset, Features, Image, Value

from hf_tl.data.datasets import load_data

SPLITS = ("train", "validation", "test")
ROOT = Path(__file__).parents[2]
CLOTHING = ROOT.parent / "shared" / "data" / "clothing_tiny_96.zip"
Rows = Callable[..., Dataset]


def test_fingerprint_is_of_the_content(write_folder: WriteFolder, tmp_path: Path) -> None:
    folder = write_folder({"cat": 5, "dog": 5})
    original = load_data(str(folder)).fingerprint
    embedded = load_data(
        Dataset.from_list(
            [
                {"image": {"bytes": file.read_bytes(), "path": None}, "kind": file.parent.name}
                for file in sorted(folder.rglob("*.png"), reverse=True)
            ],
            features=Features({"image": Image(), "kind": Value("string")}),
        ),
        label_column="kind",
    )
    assert embedded.fingerprint == original
    moved = folder.rename(tmp_path / "elsewhere")
    (moved / "cat" / "0.png").rename(moved / "cat" / "renamed.png")
    assert load_data(str(moved)).fingerprint == original
    (moved / "cat" / "renamed.png").rename(moved / "dog" / "renamed.png")
    relabeled = load_data(str(moved)).fingerprint
    (moved / "dog" / "renamed.png").unlink()
    assert len({original, relabeled, load_data(str(moved)).fingerprint}) == 3


@pytest.mark.parametrize("position", [0, 60_000, -1])
@pytest.mark.parametrize("is_embedded", [False, True])
def test_fingerprint_of_large_files(write_folder: WriteFolder, position: int, is_embedded: bool) -> None:
    folder = write_folder({"cat": 3, "dog": 3})
    file = folder / "cat" / "0.png"
    picture(7, (240, 280)).save(file)

    def fingerprint() -> str:
        data = load_data(str(folder))
        if not is_embedded:
            return data.fingerprint
        rows = [{"image": {"bytes": file.read_bytes(), "path": None}, "label": file.parent.name} for file in files]
        return load_data(Dataset.from_list(rows).cast_column("image", Image())).fingerprint

    files = sorted(folder.rglob("*.png"))
    before = fingerprint()
    stored = bytearray(file.read_bytes())
    assert len(stored) > 120_000
    stored[position] ^= 1
    file.write_bytes(stored)
    assert fingerprint() != before
