"""Folders as people have them: read in the one way that their names allow, or refused with the flag that decides."""

from collections.abc import Iterable, Mapping

import pytest

from hf_tl.data.layout.folders import plan_folders
from hf_tl.data.layout.listing import Listing
from hf_tl.data.layout.plan import Plan, Reading
from hf_tl.errors import DataError


def files(*folders: str, count: int = 5) -> list[str]:
    return [f"{folder}/{number}.jpg" for folder in folders for number in range(count)]


def counts(plan: Plan) -> dict[str, dict[str, int]]:
    return {split: {name: n for name, n in classes.items() if n} for split, classes in plan.counts().items()}


def product(*levels: Iterable[str]) -> list[str]:
    """Return all paths with one folder of each level."""
    paths = [""]
    for level in levels:
        paths = [f"{path}/{name}" if path else name for path in paths for name in level]
    return paths


PAIRS = [
    ("train", "test"), ("training_set", "test_set"), ("trainset", "testset"), ("train_images", "test_images"),
    ("Train Data", "Test Data"), ("TRAIN", "TEST"), ("cifar10_train", "cifar10_test"), ("data-train", "data-test"),
    ("mytrain", "mytest"), ("train2017", "test2017"), ("TrainImages", "TestImages"), ("01_training", "02_testing"),
    ("trainingset", "testingset"), ("ds.train", "ds.test"), ("trn", "tst"),
]  # fmt: skip
WRAPPERS = [(), ("dataset",), ("kaggle", "input")]


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda wrapper: "/".join(wrapper) or "root")
@pytest.mark.parametrize(("train", "test"), PAIRS)
@pytest.mark.parametrize("order", ["split over class", "class over split", "split twice", "images within splits"])
def test_spellings_of_splits(train: str, test: str, wrapper: tuple[str, ...], order: str) -> None:
    """Names of splits are understood in every order of split and class, and below folders that hold nothing else."""
    top = "/".join(wrapper)
    paths = {
        "split over class": product((train, test), ("cat", "dog")),
        "class over split": product(("cat", "dog"), (train, test)),
        "split twice": [f"{split}/{split}/{name}" for split in (train, test) for name in ("cat", "dog")],
        "images within splits": product((train, test), ("images",), ("cat", "dog")),
    }[order]
    plan = plan_folders(Listing.of(files(*(f"{top}/{path}" if top else path for path in paths))))
    assert counts(plan) == {"train": {"cat": 5, "dog": 5}, "test": {"cat": 5, "dog": 5}}


JUNK = ["readme.txt", ".DS_Store", "__MACOSX/cat/._0.jpg", "cat/Thumbs.db", ".ipynb_checkpoints/0.jpg", "notes/todo.md"]


@pytest.mark.parametrize(
    "classes", [("cat", "dog"), ("train station", "bus station"), ("blood test", "scan"), ("1", "2")]
)
@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("junk", [False, True])
def test_class_folders(classes: tuple[str, ...], depth: int, junk: bool) -> None:
    top = ("data", "pets")[:depth]
    paths = product(*((name,) for name in top), classes)
    listing = Listing.of([*files(*paths), *(JUNK if junk else [])], folders=["empty"] if junk else [])
    plan = plan_folders(listing)
    assert counts(plan) == {"train": dict.fromkeys(classes, 5)}
    if junk:
        assert any("folders without images were left out" in note and "notes/" in note for note in plan.notes)


RIGHT: dict[str, tuple[list[str], dict[str, dict[str, int]]]] = {
    "unlabeled images beside splits": (
        files(*product(("seg_train",), ("seg_train",), "ab"), *product(("seg_test",), ("seg_test",), "ab"), "seg_pred"),
        {"train": {"a": 5, "b": 5}, "test": {"a": 5, "b": 5}},
    ),
    "flat test images": (files("train/a", "train/b", "test1"), {"train": {"a": 5, "b": 5}}),
    "a copy one folder deeper": (
        files(*product(("train", "test"), ("a", "b")), *product(("chest",), ("train", "test"), ("a", "b"))),
        {"train": {"a": 5, "b": 5}, "test": {"a": 5, "b": 5}},
    ),
    "images within classes": (files("cat/images", "dog/images"), {"train": {"cat": 5, "dog": 5}}),
    "a class called train": (files("train", "car", "bus"), {"train": {"train": 5, "car": 5, "bus": 5}}),
    "validation spelled two ways of one": (
        files(*product(("Train", "Valid"), ("a", "b"))),
        {"train": {"a": 5, "b": 5}, "validation": {"a": 5, "b": 5}},
    ),
    "one class of the test split": (
        files("train/a", "train/b", "test/a"),
        {"train": {"a": 5, "b": 5}, "test": {"a": 5}},
    ),
    "some images one folder deeper": (files("cat", "cat/more", "dog"), {"train": {"cat": 10, "dog": 5}}),
    "numbered alike": (files("left", "right"), {"train": {"left": 5, "right": 5}}),
}  # fmt: skip


@pytest.mark.parametrize("case", RIGHT)
def test_right_readings(case: str) -> None:
    listed, expected = RIGHT[case]
    assert counts(plan_folders(Listing.of(listed))) == expected


AMBIGUOUS: dict[str, tuple[list[str], str]] = {
    "variants": (files(*product(("color", "gray"), ("apple", "corn"))), "color, gray both hold apple, corn"),
    "super classes": (files("animals/cat", "animals/dog", "vehicles/car"), "2 classes .*or 3 classes .*class_folder"),
    "sessions": (files(*product(("cat", "dog"), ("monday", "tuesday"))), "class_folder=.outer. or inner"),
    "masks": (files("images", "masks"), "files of the same names"),
    "stereo": ([f"{side}/IMG_{n * 37}.jpg" for side in ("rgb", "depth") for n in range(9)], "files of the same names"),
    "flat splits": (files("train", "test1"), "without class folders.*metadata.csv"),
    "flat split among classes": (files("test", "car", "bus"), "two readings.*split_folders=.none.*exclude_folders"),
    "split among classes": (files("test/a", "test/b", "a", "b"), "two readings.*split_folders"),
    "one split with classes beside flat classes": (files("train/steam", "train/tram", "car"), "two readings"),
    "two parts": (files(*product(("train_1", "train_2"), ("a", "b"))), "2 folders mean train.*train=train_1"),
    "splits in splits": (files(*product(("train", "test"), ("train", "test"))), "both named like splits"),
    "some classes with splits": (files("cat/train", "cat/test", "dog"), "some class folders hold splits"),
    "split names of another language": (files(*product(("entreno", "prueba"), ("a", "b"))), "split_folders=.train="),
    "detection": ([*files("images"), *(f"labels/{n}.txt" for n in range(5))], "looks like a detection dataset"),
    "detection with splits": (
        [*files("images/train", "images/val"), *(f"labels/train/{n}.txt" for n in range(5))],
        "looks like a detection dataset",
    ),
    "images beside class folders": ([*files("cat", "dog"), "photo.jpg"], "images in no class folder.*photo.jpg"),
    "flat images": ([f"{n}.jpg" for n in range(4)], "images in no class folder"),
    "no images": (["readme.txt"], "no images"),
}  # fmt: skip


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_two_readings_are_an_error_that_names_the_flag(case: str) -> None:
    listed, message = AMBIGUOUS[case]
    with pytest.raises(DataError, match=f"(?s){message}"):
        plan_folders(Listing.of(listed))


FLAGS: list[tuple[list[str], Mapping[str, object], dict[str, dict[str, int]]]] = [
    (
        files(*product(("color", "grayscale"), ("apple", "corn"))),
        {"split_folders": {"train": ["color"], "test": ["grayscale"]}},
        {"train": {"apple": 5, "corn": 5}, "test": {"apple": 5, "corn": 5}},
    ),
    (
        files(*product(("color", "grayscale"), ("apple", "corn"))),
        {"class_folder": "inner"},
        {"train": {"apple": 10, "corn": 10}},
    ),
    (
        files(*product(("color", "grayscale"), ("apple", "corn"))),
        {"class_folder": "outer"},
        {"train": {"color": 10, "grayscale": 10}},
    ),
    (
        files(*product(("color", "grayscale"), ("apple", "corn"))),
        {"exclude_folders": ("grayscale",)},
        {"train": {"apple": 5, "corn": 5}},
    ),
    (
        files(*product(("train_1", "train_2"), ("a", "b"))),
        {"split_folders": {"train": ["train_1", "train_2"]}},
        {"train": {"a": 10, "b": 10}},
    ),
    (files("test", "car", "bus"), {"split_folders": {}}, {"train": {"test": 5, "car": 5, "bus": 5}}),
    (files("images", "masks", "x"), {"exclude_folders": ("masks",)}, {"train": {"images": 5, "x": 5}}),
    (files("a/b/cat", "a/b/dog", "z/c/cat"), {"split_folders": {"train": ["a/b"], "test": ["z/c"]}},
     {"train": {"cat": 5, "dog": 5}, "test": {"cat": 5}}),
]  # fmt: skip


@pytest.mark.parametrize(("listed", "choices", "expected"), FLAGS)
def test_flags_decide(listed: list[str], choices: Mapping[str, object], expected: dict[str, dict[str, int]]) -> None:
    assert counts(plan_folders(Listing.of(listed), Reading(**choices))) == expected  # type: ignore[arg-type]


def test_links_that_lead_nowhere_are_counted() -> None:
    plan = plan_folders(Listing.of(files("cat", "dog"), broken=["cat/a.jpg", "cat/b.jpg"]))
    assert "2 links that lead nowhere were left out: cat/a.jpg, cat/b.jpg" in plan.notes


def test_names_that_differ_in_unicode_form_only_are_one_class() -> None:
    plan = plan_folders(Listing.of(files("train/cafe\u0301", "train/tea", "test/caf\u00e9", "test/tea")))
    assert counts(plan) == {"train": {"caf\u00e9": 5, "tea": 5}, "test": {"caf\u00e9": 5, "tea": 5}}
    assert any("were merged" in note for note in plan.notes)
