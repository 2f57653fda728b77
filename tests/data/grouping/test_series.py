"""Series by names: which file names and subfolders form series, and which only number the images."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from hashlib import sha256
from uuid import UUID

import pytest

from hf_tl.data.grouping.series import Series, find_series

CLASSES = ("cat", "dog", "owl")
Name = Callable[[int, int, int], str]
"""Name of an image, without suffix, from the numbers of its class, its object and its view."""


def paths_of(name: Name, objects: int = 6, views: int = 4) -> dict[str, list[str]]:
    """Return the paths of images of each class in class folders; equal names are written once."""
    paths: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for number, label in enumerate(CLASSES):
        for item in range(objects):
            for view in range(views):
                paths[label][f"{label}/{name(number, number * objects + item, view)}.jpg"] = None
    return {label: list(of_class) for label, of_class in paths.items()}


def series_of(by_class: dict[str, list[str]]) -> Series | None:
    rows = [(path, label) for label, paths in by_class.items() for path in paths]
    return find_series({"train": [path for path, _ in rows]}, {"train": [[label] for _, label in rows]})


def running(number: int, item: int, view: int) -> int:
    """Return a number of the image within its class."""
    return item % 6 * 4 + view


def scattered(*numbers: int) -> int:
    """Return a number of seven digits that looks like an id of a collection."""
    return int(sha256(str(numbers).encode()).hexdigest(), 16) % 10**7


SERIES: dict[str, tuple[Name, str]] = {
    "camera, underscore": (lambda c, i, v: f"IMG_{2041 + i}_{v}", "IMG_2041"),
    "camera, hyphen": (lambda c, i, v: f"DSC{100 + i:05}-{v + 1}", "DSC00100"),
    "patients": (lambda c, i, v: f"patient{i:04}-{v}", "patient0000"),
    "patients, first photo without a number": (lambda c, i, v: f"P{i:03}" if v == 0 else f"P{i:03} ({v + 1})", "P000"),
    "brackets without a space": (lambda c, i, v: f"P{i:03}({v})", "P000"),
    "frames of videos": (lambda c, i, v: f"video{i:02}_frame_{v * 10:04}", "video00"),
    "frames, joined": (lambda c, i, v: f"clip-{i}-frame{v * 30}", "clip-0"),
    "frames, one letter": (lambda c, i, v: f"v{i}_f{v}", "v0"),
    "actions": (lambda c, i, v: f"v_Run_g{i:02}_c01_{v:04}", "v_Run_g00_c01"),
    "tracks": (lambda c, i, v: f"{i:05}_{v:05}", "00000"),
    "follow-ups": (lambda c, i, v: f"{13 + i:08}_{v:03}", "00000013"),
    "cells of slides": (lambda c, i, v: f"C100P{i}Thin_IMG_2015091{i}_cell_{v}", "C100P0Thin_IMG_20150910_cell"),
    "patients with a word": (lambda c, i, v: f"person{i}_bacteria_{v + 2 * i}", "person0_bacteria"),
    "videos rendered": (lambda c, i, v: f"rock{i:02}k03-{v:03}", "rock00k03"),
    "bursts": (lambda c, i, v: f"20190301_1234{i + 10}_{v:03}", "20190301_123410"),
    "bursts in brackets": (lambda c, i, v: f"20190301_1234{i + 10}({v})", "20190301_123410"),
    "sessions by date": (lambda c, i, v: f"2019-03-{i + 1:02}_{v}", "2019-03-01"),
    "dots": (lambda c, i, v: f"obj{i}.{v}", "obj0"),
    "spaces": (lambda c, i, v: f"bottle 1{i} {v}", "bottle 10"),
    "copies of a system": (lambda c, i, v: f"IMG_{i} - Copy ({v})", "IMG_0"),
    "patches": (lambda c, i, v: f"slide{i}_patch_{v}", "slide0"),
    "slices": (lambda c, i, v: f"MR{i}-slice{v}", "MR0"),
    "lines of forms": (lambda c, i, v: f"a0{i}-00{i}u-0{v}", "a00-000u"),
    "upper and lower case": (lambda c, i, v: f"Item{i}_FRAME_{v}", "Item0"),
    "augmented": (lambda c, i, v: f"leaf_{i}_aug_{v}", "leaf_0"),
    "phones": (lambda c, i, v: f"IMG_20190301_1234{i + 10}~{v}", "IMG_20190301_123410"),
    "classes in the id": (lambda c, i, v: f"{CLASSES[c]}{i}_{v}", "cat0"),
}  # fmt: skip

NO_SERIES: dict[str, Name] = {
    "numbers": lambda c, i, v: f"{i * 4 + v}",
    "numbers with zeros": lambda c, i, v: f"{i * 4 + v:05}",
    "numbered class": lambda c, i, v: f"{CLASSES[c]}_{running(c, i, v):03}",
    "numbered class, hyphen": lambda c, i, v: f"{CLASSES[c]}-{running(c, i, v)}",
    "numbered class, joined": lambda c, i, v: f"{CLASSES[c]}{running(c, i, v)}",
    "numbered class, brackets": lambda c, i, v: f"{CLASSES[c]} ({running(c, i, v)})",
    "numbered class with a digit": lambda c, i, v: f"B7{c}7_{running(c, i, v)}",
    "dots after the class": lambda c, i, v: f"{CLASSES[c]}.{running(c, i, v)}",
    "WordNet": lambda c, i, v: f"n0144076{c}_{scattered(i, v) % 20000}",
    "WordNet, several a class": lambda c, i, v: f"n{1440764 + i:08}_{v}",
    "words and numbers": lambda c, i, v: f"{CLASSES[c]}liner_s_{running(c, i, v):06}",
    "camera": lambda c, i, v: f"IMG_{i * 4 + v:04}",
    "camera, joined": lambda c, i, v: f"DSC{i * 4 + v:05}",
    "index and label": lambda c, i, v: f"{i * 4 + v:05}_{c}",
    "label and index": lambda c, i, v: f"{c}_{running(c, i, v)}",
    "class number and index": lambda c, i, v: f"{c + 1:03}_{running(c, i, v):04}",
    "angles of one object a class": lambda c, i, v: f"obj{c}__{running(c, i, v) * 5}",
    "each id once": lambda c, i, v: f"{i * 4 + v}_7",
    "UUIDs": lambda c, i, v: str(UUID(int=int(sha256(f"{i}/{v}".encode()).hexdigest()[:32], 16))),
    "hashes": lambda c, i, v: sha256(f"{i}/{v}".encode()).hexdigest(),
    "short hashes": lambda c, i, v: sha256(f"{i}/{v}".encode()).hexdigest()[:12],
    "collection": lambda c, i, v: f"ILSVRC2012_val_{scattered(i, v):08}",
    "collection of a year": lambda c, i, v: f"COCO_val2014_{scattered(i, v):012}",
    "years": lambda c, i, v: f"{2007 + i % 6}_{running(c, i, v):06}",
    "dates": lambda c, i, v: f"2019-{i % 12 + 1:02}-{v + 1:02}",
    "photos of a day": lambda c, i, v: f"IMG_2019030{i % 9}_{scattered(i, v) % 240000:06}",
    "messenger": lambda c, i, v: f"IMG-2019030{i % 9}-WA{running(c, i, v):04}",
    "screenshots": lambda c, i, v: f"Screenshot_2019-03-01-{i % 24:02}-{v * 10:02}-{scattered(i, v) % 60:02}",
    "folds": lambda c, i, v: f"fold{i % 6}_{running(c, i, v)}",
    "batches": lambda c, i, v: f"data_batch_{i % 6}_{running(c, i, v)}",
    "splits": lambda c, i, v: f"train{i % 6}_{running(c, i, v)}",
    "bird photos": lambda c, i, v: f"Black_Footed_{i * 4 + v:04}_{scattered(i, v)}",
    "leaves": lambda c, i, v: f"{UUID(int=i * 4 + v)}___FREC_Scab {scattered(i, v)}",
    "pages": lambda c, i, v: f"{scattered(i, v)}",
    "rotations": lambda c, i, v: f"r_{i * 4 + v}_100",
    "faces by age": lambda c, i, v: f"{20 + i % 8}_0_2_{20170104023102010 + scattered(i, v)}",
    "words": lambda c, i, v: f"{'abcdefghijklmnopqr'[i]}{'wxyz'[v]}",
}


@pytest.mark.parametrize("kind", SERIES)
def test_series(kind: str) -> None:
    name, example = SERIES[kind]
    series = series_of(paths_of(name))
    assert series is not None
    assert series.kind == "file names"
    assert not series.narrow
    assert series.sizes() == {name: 4 for name in series.names if name}
    assert len(series.sizes()) == 18
    assert series.names[0] == example


@pytest.mark.parametrize("kind", NO_SERIES)
def test_names_that_only_number_the_images(kind: str) -> None:
    assert series_of(paths_of(NO_SERIES[kind])) is None


FOLDERS: dict[str, tuple[Callable[[str, int, int], str], bool]] = {
    "sessions": (lambda label, i, v: f"{label}/session{i}/{v}.jpg", True),
    "numbers": (lambda label, i, v: f"{label}/{i:02}/{v}.jpg", True),
    "dates": (lambda label, i, v: f"{label}/2019-03-0{i}/{v}.jpg", True),
    "subjects above the classes": (lambda label, i, v: f"subject{i}/{label}/{v}.jpg", True),
    "patients below a stain": (lambda label, i, v: f"{label}/SOB/P_{i}/40X/{v}.jpg", True),
    "splits above": (lambda label, i, v: f"data/train/{label}/session{i}/{v}.jpg", True),
    "kinds": (lambda label, i, v: f"{label}/{'abcdef'[i]}/{v}.jpg", False),
    "parts of a download": (lambda label, i, v: f"{label}/images_{i:03}/{v}.jpg", False),
    "years": (lambda label, i, v: f"{label}/{2010 + i}/{v}.jpg", False),
    "WordNet": (lambda label, i, v: f"{label}/n{1440764 + i:08}/{v}.jpg", False),
    "one folder a class": (lambda label, i, v: f"{label}/{label}1/{4 * i + v}.jpg", False),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_subfolders(kind: str) -> None:
    path, are_series = FOLDERS[kind]
    series = series_of({label: [path(label, i, v) for i in range(6) for v in range(4)] for label in CLASSES})
    assert (series is not None) == are_series
    if series is not None:
        assert series.kind == "subfolders"
        assert len(series.sizes()) == 6  # a session holds several classes
        assert set(series.sizes().values()) == {12}


def rows(by_class: dict[str, list[str]]) -> Iterator[str]:
    for paths in by_class.values():
        yield from paths


def test_too_narrow_classes_are_named() -> None:
    """Report series of which a class has four, or of which one holds most of a class."""
    by_class = paths_of(lambda c, i, v: f"IMG_{i}_{v}")
    by_class["dog"] = by_class["dog"][:16]
    by_class["owl"] += [f"owl/IMG_12_{view}.jpg" for view in range(10, 60)]
    series = series_of(by_class)
    assert series is not None
    assert series.narrow == {"dog", "owl"}


def test_file_names_count_where_subfolders_are_too_few() -> None:
    by_class = {
        label: [f"{label}/site{i % 3}/{label}{i}_{v}.jpg" for i in range(6) for v in range(4)] for label in CLASSES
    }
    series = series_of(by_class)
    assert series is not None
    assert series.kind == "file names"
    assert not series.narrow


def test_series_of_other_splits_do_not_make_a_class_narrow() -> None:
    train = list(rows(paths_of(lambda c, i, v: f"IMG_{i}_{v}")))
    test = [f"{label}/IMG_{number}_{view}.jpg" for number, label in enumerate(CLASSES) for view in range(9)]
    paths = {"train": [f"train/{path}" for path in train], "test": [f"test/{path}" for path in test]}
    series = find_series(paths, {split: [[path.split("/")[1]] for path in of] for split, of in paths.items()})
    assert series is not None
    assert not series.narrow
    assert series.sizes()["IMG_0"] == 13
    assert series.names[-1] == "IMG_2"


def subfolders(path: Callable[[str, int, int], str]) -> Series:
    series = series_of({label: [path(label, i, v) for i in range(6) for v in range(4)] for label in CLASSES})
    assert series is not None
    return series


def test_names_of_series_are_the_folders_below_the_classes() -> None:
    assert subfolders(lambda label, i, v: f"{label}/P{i}/s{v // 2}/{v}.jpg").names[3:5] == ("P0", "P1")
    nested = subfolders(lambda label, i, v: f"{label}/site1/s{i}/{'xy'[v % 2]}/{v}.jpg")
    assert nested.names[::4][:6] == tuple(f"s{i}" for i in range(6))
    two = subfolders(lambda label, i, v: f"{label}/site{i % 2}/s{i}/{v}.jpg")
    assert two.names[::4][:3] == ("site0/s0", "site1/s1", "site0/s2")
    assert subfolders(lambda label, i, v: f"s{i}/{label}/{v}.jpg").names[0] == "s0"


LIMITS: dict[str, tuple[list[str], bool]] = {
    "three series of two": (["a1_1", "a1_2", "a2_1", "a2_2", "a3_1", "a3_2", "a4_1", "a5_1"], True),
    "two series of two": (["a1_1", "a1_2", "a2_1", "a2_2", "a3_1", "a4_1", "a5_1"], False),
    "numbers sixty apart": (["a1_0", "a1_60", "a2_0", "a2_60", "a3_0", "a3_60", "a4_1", "a5_1"], True),
    "numbers farther apart": (["a1_0", "a1_61", "a2_0", "a2_61", "a3_0", "a3_61", "a4_1", "a5_1"], False),
    "numbers of four of five are near": (
        [*(f"a{n}_{v}" for n in range(4) for v in (1, 2)), "a9_1", "a9_99"], True,
    ),
    "numbers of three of four are near": (
        [*(f"a{n}_{v}" for n in range(3) for v in (1, 2)), "a9_1", "a9_99", "a7_1"], False,
    ),
    "the same number twice": ([f"{kind}/a{n}_1" for n in range(5) for kind in "xy"], True),
}  # fmt: skip


@pytest.mark.parametrize("case", LIMITS)
def test_limits_of_series(case: str) -> None:
    names, are_series = LIMITS[case]
    assert (series_of({"cat": [f"cat/{name}.jpg" for name in names]}) is not None) == are_series


@pytest.mark.parametrize(
    ("sizes", "narrow"), [((1, 1, 2, 2, 6), False), ((1, 1, 2, 2, 7), True), ((2, 2, 2, 2), True), ((2,) * 5, False)]
)
def test_limits_of_narrow_classes(sizes: tuple[int, ...], narrow: bool) -> None:
    """Five series are enough, of which one may hold half of a class."""
    others = [f"dog/d{number}_{view}.jpg" for number in range(5) for view in range(2)]
    own = [f"cat/c{number}_{view}.jpg" for number, size in enumerate(sizes) for view in range(size)]
    series = series_of({"cat": own, "dog": others})
    assert series is not None
    assert series.narrow == ({"cat"} if narrow else set())


@pytest.mark.parametrize(("repeated", "are_series"), [(2, False), (3, True)])
def test_more_than_half_of_the_classes_have_several_groups(repeated: int, are_series: bool) -> None:
    paths = {}
    for number, label in enumerate("abcd"):
        items = range(5) if number < repeated else range(1)
        paths[label] = [f"{label}/{label}{item}_{view}.jpg" for item in items for view in range(3)]
    assert (series_of(paths) is not None) == are_series


@pytest.mark.parametrize(
    ("name", "example"),
    [("s1_frm_{}", "s1"), ("s1-PHOTO{}", "s1"), ("s1.v{}", "s1"), ("s1 - view ({})", "s1"), ("s1view({})", "s1"),
     ("s1__{}", "s1"), ("s1_x{}", None), ("s_{}", None), ("size1_{}", None), ("part1_{}", None), ("val1_{}", None),
     ("1999_{}", None), ("2024_{}", None), ("1899_{}", "1899"), ("n01440764_{}", None), ("n0144076_{}", "n0144076")],
)  # fmt: skip
def test_ids_and_numbers(name: str, example: str | None) -> None:
    others = [f"x{number}_{view}" for number in range(5) for view in range(3)]
    series = series_of({"cat": [f"cat/{stem}.jpg" for stem in (*others, *(name.format(view) for view in range(3)))]})
    assert series is not None
    assert series.names[-1] == example


@pytest.mark.parametrize(
    "word", ["fold", "folds", "batch", "part", "parts", "set", "sets", "chunk", "shard", "split", "size"]
)
def test_words_that_number_parts_of_a_collection(word: str) -> None:
    for name in (f"{word}1_{{}}", f"{word.upper()}-2-{{}}", f"my {word} 7 ({{}})"):
        assert series_of({label: [f"{label}/{name.format(n)}.jpg" for n in range(9)] for label in CLASSES}) is None
        others = [f"x{number}_{view}" for number in range(5) for view in range(3)]
        series = series_of({"cat": [f"cat/{stem}.jpg" for stem in (*others, name.format(1), name.format(2))]})
        assert series is not None
        assert series.names[-2:] == (None, None)


def test_an_image_without_a_number_is_of_the_series_that_it_names() -> None:
    stems = [*(f"x{number}_{view}" for number in range(5) for view in range(3)), "x3", "x9", "y"]
    series = series_of({"cat": [f"cat/{stem}.jpg" for stem in stems]})
    assert series is not None
    assert series.names[-3:] == ("x3", None, None)
    assert series.sizes() == {"x0": 3, "x1": 3, "x2": 3, "x3": 4, "x4": 3}


def test_nothing_and_images_without_series() -> None:
    assert find_series({}, {}) is None
    assert find_series({"train": []}, {"train": []}) is None
    assert series_of({"cat": ["cat/a.jpg", "cat/b.jpg"]}) is None
