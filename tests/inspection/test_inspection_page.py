"""`hf_tl.inspect`: result, page, JSON and list, on datasets as people have them."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from scenes import recompressed, scene, write_scenes

import hf_tl
from hf_tl.backbones.candidates import Backbone
from hf_tl.data.datasets import check_images
from hf_tl.errors import ConfigError, DataError
from hf_tl.reporting.numbers import with_interval

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


class Untrained(Backbone):
    """A network with random weights, whose features still differ between colors."""

    def load(self, labels: Any = None, *, pretrained: bool = True, seed: int = 0) -> Any:
        return super().load(labels, pretrained=False, seed=seed)


def undated(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record of an inspection without the time at which it was made."""
    return {**record, "counts": {**record["counts"], "created": None}}


@pytest.fixture
def backbone() -> Backbone:
    return Untrained("timm:test_resnet", image_size=64)


def damaged_dataset(folder: Path) -> Path:
    pets = write_scenes(folder / "pets", {"train/cat": 12, "train/dog": 12, "test/cat": 3, "test/dog": 3})
    whole = (pets / "train/cat/1.png").read_bytes()
    (pets / "train/cat/cut.png").write_bytes(whole[: len(whole) // 2])
    (pets / "train/dog/text.jpg").write_text("no image")
    (pets / "train/dog/empty.png").write_bytes(b"")
    recompressed(scene(2, mean=90)).save(pets / "test/cat/leak.jpg")
    scene(40).convert("L").save(pets / "train/dog/gray.png")
    Image.fromarray(np.asarray(scene(41).convert("L")).astype(np.uint16) * 257).save(pets / "train/dog/deep.png")
    scene(42).convert("P").save(pets / "train/dog/palette.gif")
    return pets


def test_all_but_the_unreadable_files_are_inspected(tmp_path: Path) -> None:
    pets = damaged_dataset(tmp_path)
    inspection = hf_tl.inspect(str(pets), output_dir=tmp_path / "out")
    assert inspection.images == 37
    assert set(inspection.unreadable) == {"train/cat/cut.png", "train/dog/text.jpg", "train/dog/empty.png"}
    assert inspection.copies == [["train/cat/2.png", "test/cat/leak.jpg"]]
    assert inspection.leaks == 1
    assert (inspection.label_errors, inspection.outliers) == (None, None)
    record = json.loads((tmp_path / "out" / "inspection.json").read_text(encoding="utf-8"))
    assert record == json.loads(json.dumps(inspection.record))
    assert record["files"]["modes"] == {"RGB": 31, "L": 1, "I;16": 1, "P": 1}
    assert record["files"]["width"]["median"] == 96
    with open(tmp_path / "out" / "exclusions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["file"], row["reason"]) for row in rows} == {
        ("train/cat/cut.png", "unreadable"),
        ("train/dog/text.jpg", "unreadable"),
        ("train/dog/empty.png", "unreadable"),
        ("train/cat/2.png", "near-duplicate"),
    }
    data = hf_tl.load_data(str(pets), exclude_list=str(tmp_path / "out" / "exclusions.csv"))
    assert len(check_images(data).digests["train"]) == len(data.digests["train"])  # all can be read


def test_the_page_loads_nothing_and_names_no_path(tmp_path: Path) -> None:
    inspection = hf_tl.inspect(str(damaged_dataset(tmp_path)))
    assert not re.findall(r"<(?:script|link|iframe)", inspection.page)
    assert all(source.startswith("data:image/jpeg;base64,") for source in re.findall(r'src="([^"]+)', inspection.page))
    assert str(tmp_path) not in inspection.page + json.dumps(inspection.record) + str(inspection)
    assert "train/cat/cut.png" in inspection.page
    assert inspection.page.count("<img") >= 18
    assert "Files    34 readable, 3 unreadable" in repr(inspection)
    assert len(repr(inspection).splitlines()) <= 7
    assert set(inspection.to_pandas()["finding"]) == {"unreadable", "near-duplicates"}
    assert "<script" not in inspection._repr_html_()


def test_names_from_strangers_stay_text(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script> & 'x'"
    names = datasets.ClassLabel(names=[hostile, "{{ 7 * 7 }}"])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    rows = {"image": [scene(number) for number in range(4)], "label": [0, 1, 0, 1]}
    page = hf_tl.inspect(datasets.Dataset.from_dict(rows, features=features)).page
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "{{ 7 * 7 }}" in page


@pytest.mark.parametrize("counts", [{"cat": 2}, {"cat": 1, "dog": 1}, {"cat": 3, "dog": 30}])
def test_small_datasets_are_inspected_with_a_model_too(
    counts: dict[str, int], backbone: Backbone, tmp_path: Path
) -> None:
    inspection = hf_tl.inspect(str(write_scenes(tmp_path / "pets", counts)), backbone)
    assert inspection.images == sum(counts.values())
    assert inspection.label_errors is None
    assert (inspection.outliers is None) == (inspection.images < 20)


def test_a_model_finds_label_errors_and_outliers(backbone: Backbone, tmp_path: Path) -> None:
    pets = tmp_path / "pets"
    for label, mean in (("bright", 190), ("dark", 50)):
        (pets / label).mkdir(parents=True)
        for number in range(25):
            scene(number + mean, mean=mean).save(pets / label / f"{label}{number}.png")
    (pets / "bright" / "bright3.png").rename(pets / "dark" / "wrong.png")
    stripes = np.zeros((72, 96, 3), np.uint8)
    stripes[::2, :, 0] = 255
    Image.fromarray(stripes).save(pets / "bright" / "stripes.png")
    inspection = hf_tl.inspect(str(pets), backbone)
    assert inspection.label_errors is not None
    assert "dark/wrong.png" in inspection.label_errors[:2]
    assert inspection.outliers is not None
    assert inspection.outliers[0] == "bright/stripes.png"
    reasons = {exclusion.file: (exclusion.reason, exclusion.detail) for exclusion in inspection.exclusions}
    assert reasons["dark/wrong.png"] == ("suspected label error", "perhaps bright")
    probe = inspection.record["label_errors"]["probe"]
    accuracy = f"linear probe {with_interval(probe['accuracy'], probe['interval'])}"
    assert accuracy in str(inspection)
    assert with_interval(probe["accuracy"], probe["interval"]) in inspection.page
    again = hf_tl.inspect(str(pets), backbone)
    assert undated(again.record) == undated(inspection.record)


def test_several_labels_per_image(backbone: Backbone) -> None:
    feature = datasets.List(datasets.ClassLabel(names=["cat", "dog"]))
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    rows = {"image": [scene(number // 2) for number in range(24)], "label": [[0], [0, 1]] * 12}
    inspection = hf_tl.inspect(datasets.Dataset.from_dict(rows, features=features), backbone)
    assert inspection.record["splits"] == {"train": [24, 12]}
    assert inspection.label_errors is None
    assert len(inspection.copies) == 12
    assert all(group["different_labels"] for group in inspection.record["copies"])


def test_mistakes_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no dataset"):
        hf_tl.inspect("no such folder/at all")
    with pytest.raises(ConfigError, match="needs the model"):
        hf_tl.inspect(str(tmp_path), weights="file")


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "clothing_160.zip").is_file(), reason="needs ../shared/data/clothing_160.zip")
def test_planted_errors_and_copies_are_found(tmp_path: Path) -> None:
    import sys

    sys.path.append(str(Path(__file__).parents[2] / "scripts"))
    from check_inspect import plant, score

    planted = plant(SHARED / "clothing_160.zip", tmp_path / "photos", seed=0)
    for model in (None, "demo"):
        figures = score(hf_tl.inspect(str(tmp_path / "photos"), model), planted)
        assert figures["recall"] >= 0.95
        assert figures["other_groups"] <= 0.01 * figures["images"]
        assert model is None or figures["precision"] >= 0.7
