"""Groups of whole datasets: from names, a column, a pattern or pictures, in splits, notes and the record."""

import random
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from data.pictures import picture
from PIL import Image

import hf_tl
from hf_tl.data.datasets import load_data
from hf_tl.data.grouping.groups import Origin, unite
from hf_tl.data.image_data import ImageData
from hf_tl.data.learned import learn, resolve
from hf_tl.errors import ConfigError, DataError
from hf_tl.evaluation.leakage import open_again
from hf_tl.record import DataRecord, LearnedFrom
from hf_tl.record.codec import decode, encode

Rows = Callable[..., datasets.Dataset]
SERIES = 10
VIEWS = 4


def write_series(root: Path, name: str = "{label}{item:02}_{view}.png", first: int = 0) -> Path:
    """Write ten series of four images for each of two classes."""
    for label in ("cat", "dog"):
        for item in range(SERIES):
            for view in range(VIEWS):
                file = root / label / name.format(label=label, item=item, view=view)
                file.parent.mkdir(parents=True, exist_ok=True)
                picture(first + len(list(root.rglob("*.png")))).save(file)
    return root


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return write_series(tmp_path / "series")


def names_of(data: ImageData, split: str) -> list[str]:
    stored = data.splits[split].cast_column("image", datasets.Image(decode=False))["image"]
    return [Path(image["path"]).stem for image in stored]


def require_one_side(data: ImageData) -> None:
    """Check that drawn splits share no group, and that groups are in row order."""
    sides = [set(groups) for groups in data.groups.values()]
    assert sum(map(len, sides)) == len(set().union(*sides))
    assert {split: len(groups) for split, groups in data.groups.items()} == {
        split: len(rows) for split, rows in data.splits.items()
    }


def test_the_largest_series_is_the_example(series: Path) -> None:
    picture(1000).save(series / "cat" / f"cat03_{VIEWS}.png")
    assert load_data(series).notes[0].startswith("file names form 20 series, such as cat03 (5 images): ")


def test_series_of_file_names(series: Path) -> None:
    data = load_data(series)
    require_one_side(data)
    for split in data.splits:
        assert [name.rpartition("_")[0] for name in names_of(data, split)] == list(data.groups[split])
    assert [len(rows) for rows in data.splits.values()] == [56, 8, 16]
    assert data.notes[0] == (
        "file names form 20 series, such as dog09 (4 images): each stays in one split; "
        'group_pattern="none" draws image by image'
    )
    assert "(20%, 4 groups) were held out, stratified by class, by series of file names, seed 0" in data.notes[1]
    assert data.describe()[-1].endswith("drawn from train by series of file names (20%, seed 0)")
    groups = data.to_record().groups
    assert groups is not None
    assert (groups.origin, groups.number, groups.largest, groups.pattern) == ("series of file names", 20, 4, "auto")
    assert decode(DataRecord, encode(data.to_record())) == data.to_record()


def test_image_by_image(series: Path) -> None:
    data = load_data(series, group_pattern="none")
    assert data.groups == {}
    assert data.to_record().groups is None
    assert data.describe()[-1].endswith("drawn from train (20%, seed 0)")
    sides = [{name.rpartition("_")[0] for name in names_of(data, split)} for split in data.splits]
    assert sides[0] & sides[2]


def test_a_record_without_groups_is_read() -> None:
    record = encode(load_data("digits").to_record())
    del record["groups"]
    assert decode(DataRecord, record).groups is None


def test_subfolders(tmp_path: Path) -> None:
    data = load_data(write_series(tmp_path / "series", "session{item}/{view}.png"), class_folder="outer")
    require_one_side(data)
    assert set(data.groups["train"]) <= {f"session{item}" for item in range(SERIES)}
    assert data.describe()[-1].endswith("drawn from train by subfolders (20%, seed 0)")
    assert any(note.startswith("subfolders form 10 series, such as session9 (8 images)") for note in data.notes)


def test_too_few_series_are_noted(series: Path) -> None:
    for file in (series / "dog").glob("dog0[4-9]_*"):
        file.unlink()
    data = load_data(series)
    assert data.groups == {}
    assert data.notes[0].startswith("file names look like 14 series, such as dog03 (4 images), but too few of them")
    assert "images of dog: images were drawn one by one" in data.notes[0]
    forced = load_data(series, group_pattern=r"(\w+)_\d")
    require_one_side(forced)


def test_a_pattern(series: Path) -> None:
    data = load_data(series, group_pattern=r"(?:cat|dog)(\d+)_")  # the same numbers in both classes are one group
    require_one_side(data)
    assert set(data.groups["train"]) <= {f"{item:02}" for item in range(SERIES)}
    assert data.describe()[-1].endswith(
        r"drawn from train by the pattern (?:cat|dog)(\d+)_ of file names (20%, seed 0)"
    )
    whole = load_data(series, group_pattern=r"[a-z]+/[a-z]+0[0-4]")  # others are groups of their own
    require_one_side(whole)
    assert "40 images that it does not match are groups of their own" in whole.notes[0]
    assert {group for groups in whole.groups.values() for group in groups} >= {"cat/cat00", "dog/dog04"}


WRONG = {
    "(": (ConfigError, r"group_pattern to be auto, none or a regular expression, found '\('"),
    "bird": (DataError, "group_pattern='bird' matches no file name, such as 'cat/cat00_0.png'|'bird' matches no file"),
    "(cat|dog)": (DataError, r"fewer than 3 groups of images, too few for train, test and validation: cat \(1\)"),
}


@pytest.mark.parametrize("pattern", WRONG)
def test_wrong_patterns(series: Path, pattern: str) -> None:
    kind, message = WRONG[pattern]
    with pytest.raises(kind, match=message):
        load_data(series, group_pattern=pattern)


def table(rows: Rows, **columns: list) -> datasets.Dataset:
    return rows([number % 2 for number in range(60)], datasets.ClassLabel(names=["cat", "dog"]), **columns)


def test_a_column(rows: Rows) -> None:
    patients = [None if number < 6 else f"patient {number // 6}" for number in range(60)]
    data = load_data(table(rows, patient=patients), group_column="patient")
    require_one_side(data)
    assert data.splits["train"].column_names == ["image", "label"]
    assert data.notes[0] == (
        "the column 'patient' names 9 groups, the largest of 6 images; 6 images without a value are groups of their own"
    )
    assert data.describe()[-1].endswith("drawn from train by the column patient (20%, seed 0)")
    assert len({group for groups in data.groups.values() for group in groups}) == 15


@pytest.mark.parametrize("feature", [datasets.Value("int64"), datasets.ClassLabel(names=[f"p{n}" for n in range(10)])])
def test_a_column_of_numbers_or_classes(rows: Rows, feature: object) -> None:
    images = table(rows, patient=[number // 6 for number in range(60)]).cast_column("patient", feature)
    data = load_data(images, group_column="patient")  # the label column is the other ClassLabel
    require_one_side(data)
    assert set(data.groups["train"]) <= {f"{prefix}{number}" for prefix in ("", "p") for number in range(10)}
    assert data.labels == ("cat", "dog")


def test_a_column_of_a_table(series: Path) -> None:
    files = sorted(series.rglob("*.png"))
    lines = [f"{file.relative_to(series)},{file.parent.name},owner {file.stem[-4:-2]}" for file in files]
    (series / "owners.csv").write_text("\n".join(["file_name,kind,owner", *lines]))
    data = load_data(series / "owners.csv", group_column="owner")  # the label column is the other one
    require_one_side(data)
    assert data.labels == ("cat", "dog")
    assert set(data.groups["train"]) <= {f"owner {item:02}" for item in range(SERIES)}


def test_wrong_columns(rows: Rows, series: Path) -> None:
    images = table(rows, patient=[None] * 60, codes=[[1]] * 60)
    with pytest.raises(DataError, match="no column 'owner': the dataset has image, label, patient, codes"):
        load_data(images, group_column="owner")
    with pytest.raises(DataError, match="no column 'owner': the dataset has image, label; change group_column"):
        load_data(series, group_column="owner")
    with pytest.raises(DataError, match="holds no value"):
        load_data(images, group_column="patient")
    with pytest.raises(DataError, match="names the labels"):
        load_data(images, group_column="label", label_column="label")
    with pytest.raises(DataError, match="expected a column of texts or numbers, found 'codes' of type List"):
        load_data(images, group_column="codes")
    with pytest.raises(DataError, match="needs the names of files"):
        load_data(images, group_pattern="a")
    with pytest.raises(ConfigError, match=r"already split by .*: pass group_column to load_data"):
        load_data(load_data(images), group_column="patient")
    with pytest.raises(ConfigError, match="streaming=True draws splits image by image"):
        load_data("images.parquet", group_column="patient", streaming=True)


def scene(number: int, brightness: float = 1.0) -> Image.Image:
    """Return a picture of large shapes, which is distinct for each number."""
    values = np.random.default_rng(number).integers(0, 200, (5, 5, 3)).astype(np.uint8)
    image = Image.fromarray(values).resize((80, 80), Image.Resampling.BICUBIC)
    return image.point(lambda level: int(level * brightness))


def test_near_duplicates(tmp_path: Path) -> None:
    for number in range(24):
        folder = tmp_path / "scenes" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        for brightness in (0.8, 1, 1.2) if number < 12 else (1,):
            name = random.Random(f"{number} {brightness}").getrandbits(64)
            scene(number, brightness).save(folder / f"{name:016x}.jpg", quality=90)
    images = tmp_path / "scenes"
    data = load_data(images, group_near_duplicates=True)
    require_one_side(data)
    assert "36 images are near-duplicates of others" in data.notes
    assert data.describe()[-1].endswith("drawn from train by near-duplicates (20%, seed 0)")
    record = data.to_record().groups
    assert record is not None
    assert (record.number, record.largest, record.near_duplicates) == (24, 3, True)
    copies = hf_tl.inspect(images).copies
    assert sorted(map(len, copies)) == [3] * 12
    assert load_data(images).groups == {}


def test_origins_unite() -> None:
    digests = [b"a", b"b", b"c", b"d", b"a", b"e", b"f"]
    names = ["x", "x", "y", None, None, None, "z"]
    pairs = np.array([[2, 3], [5, 5]])
    alone = unite(digests, [Origin("the column patient", names)])
    assert alone == ["x", "x", "y", "64", "x", "65", "z"]
    both = unite(digests, [Origin("the column patient", names), Origin("near-duplicates", pairs=pairs)])
    assert both == ["x", "x", "y", "y", "x", "65", "z"]
    others = [None, "1", "1", None, None, "x", "x"]
    named = unite(digests, [Origin("the column patient", names), Origin("the pattern p of file names", others)])
    assert len(set(named)) == 3
    assert named[0] == named[1] == named[2] == named[4]
    assert named[5] == named[6] != named[0]


def test_groups_on_both_sides_of_own_splits_are_noted(tmp_path: Path) -> None:
    write_series(tmp_path / "series" / "train")
    write_series(tmp_path / "series" / "test", "{label}{item:02}_{view}0.png", first=1000)
    data = load_data(tmp_path / "series")
    assert "20 groups of test are also in train or validation (80 images)" in data.notes
    assert any(
        note.startswith("file names form 20 series, such as dog09 (8 images): each stays") for note in data.notes
    )
    assert not set(data.groups["train"]) & set(data.groups["validation"])  # drawn
    assert "20 groups of test are also in train (80 images)" in hf_tl.inspect(tmp_path / "series").record["reading"]
    less = hf_tl.data.splits.note_overlaps(data.select("test", list(range(10))))  # type: ignore[attr-defined]
    assert [note for note in less.notes if "of test are also" in note] == [
        "3 groups of test are also in train or validation (10 images)"
    ]


def test_images_that_are_left_out_take_their_groups_along(series: Path) -> None:
    (series / "cat" / "cat03_1.png").write_bytes(b"no image")
    data = hf_tl.data.datasets.check_images(load_data(series), skip_bad_images=True)
    for split in data.splits:
        assert [name.rpartition("_")[0] for name in names_of(data, split)] == list(data.groups[split])
    assert sum(map(len, data.groups.values())) == 79


@pytest.mark.parametrize("settings", [{}, {"group_pattern": "none"}, {"group_pattern": r"(\d+)_"}])
def test_drawn_splits_are_drawn_again(series: Path, settings: dict[str, str]) -> None:
    """Restore the splits of a training from its record, and its images from split digest, seed and shares alone."""
    data = load_data(series, **settings, seed=3)
    learned = learn(LearnedFrom(), data, "train")
    record = type("Record", (), {"data": data.to_record(), "settings": None})
    again = open_again(record, learned, series)  # type: ignore[arg-type]
    assert again.digests == data.digests
    published = LearnedFrom(learned.splits, unknown=learned.splits)
    assert resolve(published, again).digests == learned.digests
    other = resolve(published, load_data(series))
    # loaded as its names show, the dataset is drawn by its series, and image by image
    assert other.is_complete == (settings.get("group_pattern") != r"(\d+)_")


def test_copies_in_two_series_unite_them(series: Path) -> None:
    (series / "cat" / "cat03_1.png").write_bytes((series / "cat" / "cat05_2.png").read_bytes())
    data = load_data(series)
    require_one_side(data)
    groups = {group for of_split in data.groups.values() for group in of_split}
    assert "cat03" in groups
    assert "cat05" not in groups
