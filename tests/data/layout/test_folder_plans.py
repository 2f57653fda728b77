"""Plans of class folders: which folders are splits and classes, where each split comes from, and what is noted."""

from collections.abc import Mapping, Sequence

import pytest

from hf_tl.data.layout.folders import plan_folders
from hf_tl.data.layout.listing import Listing
from hf_tl.data.layout.plan import Plan, Reading
from hf_tl.errors import ConfigError, DataError


def files(*folders: str, count: int = 3) -> list[str]:
    return [f"{folder}/{number}.jpg" for folder in folders for number in range(count)]


def plan(listed: Sequence[str], folders: Sequence[str] = (), **choices: object) -> Plan:
    return plan_folders(Listing.of(listed, folders=folders), Reading(**choices), "pets")  # type: ignore[arg-type]


def classes_of(plan: Plan) -> dict[str, dict[str, int]]:
    """Return the images of each class that a split holds."""
    return {split: {name: n for name, n in classes.items() if n} for split, classes in plan.counts().items()}


def origins_of(plan: Plan) -> dict[str, str]:
    return {split: planned.origin for split, planned in plan.splits.items()}


AB = ("a", "b")
SPLITS = files(*(f"{split}/{name}" for split in ("train", "test") for name in AB))
INSIDE = files(*(f"{name}/{split}" for split in ("train", "test") for name in AB))

NOTES: dict[str, tuple[list[str], list[str], tuple[str, ...]]] = {
    "nothing": (files("cat", "dog"), [], ()),
    "other files": (
        [*files("cat", "dog"), "a.txt", "cat/b.TXT", "LICENSE", "t.csv"], [],
        ("files that are not images were left out: 2 .txt, 1 LICENSE, 1 .csv",),
    ),
    "folders without images": (
        [*files("cat", "dog"), "docs/more/a.txt"], ["empty", "empty/one", "cat/none"],
        (
            "files that are not images were left out: 1 .txt",
            "folders without images were left out: cat/none/, docs/, empty/",
        ),
    ),
    "class folders below others": (
        files("data/pets/cat", "data/pets/dog"), [], ("class folders were found in data/pets/",),
    ),
    "class folders below a split": (
        files("train/pets/cat", "train/pets/dog", "test/cat", "test/dog"), [],
        ("class folders were found in train/pets/",),
    ),
    "images of a split without classes": (
        [*SPLITS, *files("val", "dev")], [], ("folders of images in no class folder were left out: dev/, val/",),
    ),
    "folders beside splits": (
        [*SPLITS, *files("pets", "more/x")], [], ("folders beside the splits were left out: more/, pets/",),
    ),
    "folders beside splits in classes": (
        [*INSIDE, *files("a/raw", "b/old")], [], ("left out, beside the splits of each class: old/, raw/",),
    ),
    "subfolders": (
        files("cat", "cat/y", "dog", "dog/x"), [],
        ("images in subfolders count for their class folder: cat/y, dog/x",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NOTES)
def test_notes(case: str) -> None:
    listed, folders, notes = NOTES[case]
    assert plan(listed, folders).notes == notes


ORIGINS: dict[str, tuple[list[str], Mapping[str, object], dict[str, str]]] = {
    "all": (files("cat", "dog"), {}, {"train": "all class folders"}),
    "below": (files("data/cat", "data/dog"), {}, {"train": "folder data"}),
    "splits": (SPLITS, {}, {"train": "folder train", "test": "folder test"}),
    "splits in classes": (
        files("a/Train", "b/training", "a/val", "b/val"), {},
        {"train": "folder Train, training in each class", "validation": "folder val in each class"},
    ),
    "named": (
        files("x/a", "y/b", "z/a"), {"split_folders": {"train": ["x", "/y/"], "test": ["z"]}},
        {"train": "folder x + folder y", "test": "folder z"},
    ),
    "the folder itself": (
        files("a", "b"), {"split_folders": {"train": ["."]}}, {"train": "all class folders"},
    ),
    "no splits": (files("data/train", "data/car"), {"split_folders": {}}, {"train": "folder data"}),
}  # fmt: skip


@pytest.mark.parametrize("case", ORIGINS)
def test_the_origin_of_each_split(case: str) -> None:
    listed, choices, origins = ORIGINS[case]
    read = plan(listed, **choices)
    assert origins_of(read) == origins
    assert sum(len(planned.images) for planned in read.splits.values()) == len(listed)
    assert read.label_column == "label"


READINGS: dict[str, tuple[list[str], Mapping[str, object], dict[str, dict[str, int]]]] = {
    "a single class": (files("cat"), {}, {"train": {"cat": 3}}),
    "a single class of a split": (files("train/cat", "test/cat"), {}, {"train": {"cat": 3}, "test": {"cat": 3}}),
    "a class below a train folder alone": (files("train/pets/cat", "train/pets/dog"), {},
                                           {"train": {"cat": 3, "dog": 3}}),
    "a single class in a folder": (files("pets/cat"), {}, {"train": {"cat": 3}}),
    "a class of the test split named like a folder": (
        files("train/pets", "train/cars", "test/pets/1", "test/pets/2"), {},
        {"train": {"pets": 3, "cars": 3}, "test": {"pets": 6}},
    ),
    "one split": (files("train/a", "train/b"), {}, {"train": {"a": 3, "b": 3}}),
    "one split of another name": (files("test/a", "test/b"), {}, {"test": {"a": 3, "b": 3}}),
    "a train folder beside unlike ones": (
        files("train/a", "train/b", "extra/x"), {}, {"train": {"a": 3, "b": 3}},
    ),
    "a train class with folders beside images": (
        files("train", "car", "bus", "bus/old"), {}, {"train": {"train": 3, "car": 3, "bus": 6}},
    ),
    "a known class decides the reading": (
        files("train/a", "train/b", "test/a/x", "test/b/y"), {}, {"train": {"a": 3, "b": 3}, "test": {"a": 3, "b": 3}},
    ),
    "inner folders": (
        files("x/a", "x/b", "y/a"), {"class_folder": "inner"}, {"train": {"a": 6, "b": 3}},
    ),
    "outer folders": (files("x/a", "x/b", "y/a"), {"class_folder": "outer"}, {"train": {"x": 6, "y": 3}}),
    "one folder in each class": (files("x/a", "y/a"), {}, {"train": {"x": 3, "y": 3}}),
    "the same in two levels": (files("x/p", "y/q"), {}, {"train": {"x": 3, "y": 3}}),
    "a folder left out by its path": (
        files("x/a", "x/b", "y/a"), {"exclude_folders": ("x/b", "y/")}, {"train": {"a": 3}},
    ),
    "a folder of the same name at another place": (
        files("a", "b", "b/a"), {"exclude_folders": ("b/a",)}, {"train": {"a": 3, "b": 3}},
    ),
    "numbers with one gap": (
        [*(f"a/img{n}.jpg" for n in (1, 2, 4)), *(f"b/img{n}.jpg" for n in (1, 2, 4))], {},
        {"train": {"a": 3, "b": 3}},
    ),
    "files of the same names in two of three": (
        [f"{name}/{animal}.jpg" for name in "ab" for animal in ("x", "y")] + ["c/z.jpg"], {},
        {"train": {"a": 2, "b": 2, "c": 1}},
    ),
    "one file of the same name": (["a/x.jpg", "b/x.jpg"], {}, {"train": {"a": 1, "b": 1}}),
    "three of four files of the same names": (
        [*(f"a/{n}.jpg" for n in ("p", "q", "r", "s")), *(f"b/{n}.jpg" for n in ("p", "q", "r", "t"))], {},
        {"train": {"a": 4, "b": 4}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", READINGS)
def test_readings(case: str) -> None:
    listed, choices, expected = READINGS[case]
    assert classes_of(plan(listed, **choices)) == expected


def test_images_and_labels_are_in_the_order_of_the_classes() -> None:
    read = plan(["dog/2.jpg", "dog/1.jpg", "cat/3.jpg", "owl/9.png"])
    assert read.splits["train"].images == ("cat/3.jpg", "dog/1.jpg", "dog/2.jpg", "owl/9.png")
    assert read.splits["train"].columns == {"label": ("cat", "dog", "dog", "owl")}
    assert read.classes == ("cat", "dog", "owl")
    assert list(plan(files("test/a", "val/a", "train/a")).splits) == ["train", "validation", "test"]


FORMAT = "expected one folder of images per class"
TEXTS = [f"cat/{number}.txt" for number in range(3)]
DETECTION = "This looks like a detection dataset"
ERRORS: dict[str, tuple[list[str], Mapping[str, object], type[Exception], str]] = {
    "no images": (["a.txt"], {}, DataError, f"^no images in pets: {FORMAT}"),
    "no images are left": (
        files("cat"), {"exclude_folders": ("cat",)}, DataError, f"^no images in pets: {FORMAT}",
    ),
    "a folder to leave out that does not exist": (
        files("b", "a"), {"exclude_folders": ("a", "c/d", "e")}, ConfigError,
        "^no folder c/d, e, found a, b; check exclude_folders$",
    ),
    "a split that does not exist": (
        files("b", "a"), {"split_folders": {"train": ["a"], "test": ["c"]}}, ConfigError,
        "^no folder c, found a, b; check split_folders$",
    ),
    "images beside folders": (
        [*files("train/a", "train/b", "test/a"), "test/y.jpg", "test/x.jpg"], {}, DataError,
        rf"^images in no class folder of test/: x.jpg, y.jpg; {FORMAT}.*\(metadata.csv with the columns file_name and "
        r"label\)$",
    ),
    "flat splits": (
        files("train", "test"), {}, DataError,
        f"^test/, train/ hold images without class folders, so the images have no labels; {FORMAT}",
    ),
    "a flat split": (
        files("val", "car", "bus"), {}, DataError,
        "^two readings of the folder: bus, car, val are classes, or val is a split whose images have no labels, and the"
        " classes are bus, car; ",
    ),
    "flat splits below": (
        files("data/train1", "data/test1", "data/x"), {}, DataError, "^two readings of data/: test1, train1, x are",
    ),
    "classes or parts": (
        files("x/p", "x/q", "y/q", "y/r"), {}, DataError,
        r"^two readings of the folder: 2 classes \(x, y\), or 3 classes \(p, q, r\); x, y both hold q\. Say ",
    ),
    "classes or parts that differ": (
        files("x/p", "x/q", "y/r"), {}, DataError,
        r"\(x, y\), or 3 classes \(p, q, r\)\. Say .* if x, y are splits, name them: split_folders=.train=x,test=y",
    ),
    "one split beside others": (
        files("test/a", "test/b", "x/c"), {}, DataError, "^two readings of the folder: test is a split, or one of the ",
    ),
    "splits beside others": (
        files("test/a", "val/b", "x/c"), {}, DataError,
        "^two readings of the folder: test, val are splits, or one of the classes test, val, x; ",
    ),
    "a train folder with words": (
        files("train station/a", "train station/b", "x/c"), {}, DataError, "train station is a split, or one of the",
    ),
    "a train folder beside alike ones": (
        files("train/a", "train/b", "x/a"), {}, DataError, "train is a split, or one of the classes train, x",
    ),
    "several train folders": (
        files("train_1/a", "train_2/b", "test/a"), {}, DataError,
        "^2 folders mean train: train_1, train_2; name .*several: train=train_1,train=train_2",
    ),
    "splits in some classes": (
        files("a/train", "a/test", "c", "b"), {}, DataError,
        r"^some class folders hold splits \(a/test\) and some do not \(b, c\); arrange them alike",
    ),
    "two spellings in a class": (
        files("a/train", "a/test", "a/val", "a/valid", "b/train"), {}, DataError,
        "^two folders of a mean validation; name them",
    ),
    "splits in splits": (
        files("train/val", "train/dev", "test/val"), {}, DataError,
        r"^two readings of the folder: test, train and the folders in them \(dev, val\) are both named like splits",
    ),
    "files of the same names": (
        [f"{kind}/{name}.png" for kind in ("rgb", "depth", "ir") for name in ("fox", "cow")], {}, DataError,
        r"^depth, ir, rgb of the folder hold files of the same names \(cow.png\), as .* leave one out: "
        "exclude_folders rgb$",
    ),
    "far numbers of the same names": (
        [f"{kind}/x{number}.png" for kind in ("rgb", "depth") for number in (1, 5)], {}, DataError, "of the same names",
    ),
    "numbers after two texts": (
        [f"{kind}/{text}{number}.png" for kind in ("rgb", "depth") for text in "xy" for number in (1, 2)], {},
        DataError, "of the same names",
    ),
    "four of five files of the same names": (
        [f"{kind}/{name}.png" for kind, names in (("rgb", "pqrst"), ("depth", "pqrsu")) for name in names], {},
        DataError, "of the same names",
    ),
    "annotations beside flat images": (
        [*files("cat"), *TEXTS, "x.jpg"], {}, DataError,
        rf"\)\. {DETECTION} \(cat/0.txt beside the images\): hf_tl assigns classes to whole images$",
    ),
    "annotations of flat splits": (
        [*files("train", "val"), *(f"l/{n}.xml" for n in range(3))], {}, DataError, DETECTION,
    ),
    "annotations of a flat split": (
        [*files("val", "car", "bus"), *(f"l/{n}.xml" for n in range(3))], {}, DataError, DETECTION,
    ),
    "annotations of half of the images": (
        [*files("cat", count=4), "a/0.txt", "a/1.txt"], {}, DataError,
        f"^found one class folder, cat/. {DETECTION} .a/0.txt",
    ),
    "a file of annotations": (
        [*files("cat", count=4), "instances/Annotations.json"], {}, DataError, f"{DETECTION} .instances/Annotations",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case: str) -> None:
    listed, choices, kind, message = ERRORS[case]
    with pytest.raises(kind, match=f"(?s){message}"):
        plan(listed, **choices)


@pytest.mark.parametrize(
    "others", [["a/0.txt"], ["a/x.txt", "a/y.txt"], ["a/0.md", "a/1.md"], ["labels.json"], ["annotations.txt"]]
)
def test_files_that_are_no_annotations(others: list[str]) -> None:
    assert classes_of(plan([*files("cat", count=4), *others])) == {"train": {"cat": 4}}
    with pytest.raises(DataError, match="no class folder") as caught:
        plan([*files("cat", count=4), "x.jpg", *others])
    assert "detection" not in str(caught.value)
