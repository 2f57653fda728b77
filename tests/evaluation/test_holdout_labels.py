"""Labels of a hold-out set: matched with the classes of a model, left out with a note, or refused."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from data.pictures import picture
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from hf_tl.data.layout.plan import Reading
from hf_tl.errors import DataError
from hf_tl.evaluation.holdout.labels import match_labels, without_labels
from hf_tl.evaluation.metrics import MULTI_LABEL, SINGLE_LABEL, ProblemType

LABELS = ("zebra", "ant", "moth")


def rows(
    labels: Sequence[object], feature: object = None, column: str = "label", **columns: Sequence[object]
) -> Dataset:
    images = [picture(number) for number in range(len(labels))]
    dataset = Dataset.from_dict({"image": images, column: list(labels), **columns}).cast_column("image", Image())
    return dataset if feature is None else dataset.cast_column(column, feature)


def matched(dataset: Dataset, problem: ProblemType = SINGLE_LABEL, **choices: object) -> tuple[list, list[str]]:
    """Return the labels as the model's classes, and the notes."""
    skip_bad_images = bool(choices.pop("skip_bad_images", False))
    notes = ["earlier"]
    reading = Reading(**choices)  # type: ignore[arg-type]
    result = match_labels(dataset, "test", LABELS, problem, reading, notes, skip_bad_images=skip_bad_images)
    assert result.column_names == ["image", "label"]
    assert isinstance(result.features["image"], Image)
    if problem is SINGLE_LABEL:
        assert result.features["label"] == ClassLabel(names=list(LABELS))
    return result["label"][:], notes[1:]


SINGLE: dict[str, tuple[Sequence[object], object, list[int], list[str]]] = {
    "texts": (["moth", "ant", "zebra"], None, [2, 1, 0], []),
    "texts with spaces": (["moth ", " ant", "zebra"], None, [2, 1, 0], [
        "class names that differ in spaces or Unicode form only were merged: ",
    ]),
    "classes in another order": ([0, 1, 2], ClassLabel(names=["ant", "moth", "zebra"]), [1, 2, 0], []),
    "classes without images": (
        ["moth", "moth"], None, [2, 2], ["2 of 3 classes have no image in test: zebra, ant"],
    ),
    "unknown classes": (
        ["yak", "moth", "ox", "ant", "yak", "zebra"], None, [2, 1, 0],
        ["3 of 6 images of test are of classes that the model does not know: left out (ox, yak)"],
    ),
    "no label": (
        ["moth", None, "ant", "", "zebra"], None, [2, 1, 0], ["2 of 5 images of test have no label: left out"],
    ),
    "hidden labels": (
        [1, -1, 0], ClassLabel(names=["ant", "zebra"]), [0, 1],
        ["1 of 3 images of test have no label: left out", "1 of 3 classes have no image in test: moth"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SINGLE)
def test_one_label_for_each_image(case: str) -> None:
    labels, feature, expected, notes = SINGLE[case]
    numbers, noted = matched(rows(labels, feature))
    assert numbers == expected
    assert case == "texts with spaces" or noted == notes


MULTI: dict[str, tuple[Sequence[object], list[list[int]], list[str]]] = {
    "lists": ([["moth"], ["ant", "zebra"], []], [[0, 0, 1], [1, 1, 0], [0, 0, 0]], []),
    "unknown labels": (
        [["moth", "yak"], ["ant"], ["ox"], ["zebra"]], [[0, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0]],
        ["labels of test that the model does not know are not evaluated: ox, yak"],
    ),
    "labels without images": (
        [["moth"], ["moth"]], [[0, 0, 1]] * 2, ["2 of 3 classes have no image in test: zebra, ant"],
    ),
    "no labels": (
        [["moth"], None, ["ant", "zebra"]], [[0, 0, 1], [1, 1, 0]], ["1 of 3 images of test have no label: left out"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MULTI)
def test_several_labels_for_each_image(case: str) -> None:
    labels, expected, notes = MULTI[case]
    assert matched(rows(labels, List(Value("string"))), MULTI_LABEL) == (expected, notes)


def test_labels_in_other_forms() -> None:
    texts = rows(["moth|ant", "zebra"])
    assert matched(texts, MULTI_LABEL, label_separator="|")[0] == [[0, 1, 1], [1, 0, 0]]
    flags = rows([1, 0, 1], column="ant", moth=[0, -1, 1], zebra=[1, 1, 0])
    choice = {"label_column": "ant,moth,zebra", "uncertain_labels": "zero"}
    assert matched(flags, MULTI_LABEL, **choice)[0] == [[1, 1, 0], [1, 0, 0], [0, 1, 1]]
    assert matched(rows(["moth", "ant"], label=["x", "y"], column="kind"), label_column="kind")[0] == [2, 1]
    assert matched(rows(["moth", "ant"], column="kind", label=["x", "y"]), label_column="kind")[0] == [2, 1]
    assert matched(rows(["moth", "ant"], column="class", label=["x", "y"]), group_column="label")[0] == [2, 1]
    masked = rows(["moth", "ant"]).add_column("mask", [b"1", b"2"]).cast_column("mask", Image())
    assert matched(masked, image_column="image")[0] == [2, 1]


@pytest.mark.parametrize(
    ("dataset", "problem", "message"),
    [
        (rows(["yak", "ox"]), SINGLE_LABEL, "^the model knows none of the classes ox, yak; it knows zebra, ant, moth$"),
        (
            rows([["yak"], []], List(Value("string"))), MULTI_LABEL,
            "^the model knows none of the classes yak; it knows zebra, ant, moth$",
        ),
        (rows([None, ""]), SINGLE_LABEL, "^no image of test has a label in the column 'label'; name it with label_col"),
        (
            rows(["ant", "moth"]), MULTI_LABEL,
            "^the model is for multi_label_classification, and the labels of the dataset are for single_label_class",
        ),
        (
            rows([["ant"], []], List(Value("string"))), SINGLE_LABEL,
            "^the model is for single_label_classification, and the labels of the dataset are for multi_label_class",
        ),
    ],
)  # fmt: skip
def test_labels_that_do_not_serve(dataset: Dataset, problem: ProblemType, message: str) -> None:
    with pytest.raises(DataError, match=message):
        matched(dataset, problem)


def damaged(folder: Path, bad: Sequence[int], count: int = 9) -> Dataset:
    """Return rows of stored images, some of which are text files."""
    paths = [str(folder / f"{number}.png") for number in range(count)]
    for number, path in enumerate(paths):
        picture(number).save(path)
        if number in bad:
            Path(path).write_text("no image")
    labels = [LABELS[number % 3] for number in range(count)]
    features = Features({"photo": Image(), "label": Value("string")})
    return Dataset.from_dict({"photo": paths, "label": labels}, features=features)


def test_unreadable_images(tmp_path: Path) -> None:
    two = damaged(tmp_path, [1, 5])
    with pytest.raises(DataError, match=r"^2 images cannot be used; replace .* out .*:\n.*1\.png.*\n.*5\.png"):
        matched(two)
    assert matched(two, skip_bad_images=True) == (
        [0, 2, 0, 1, 0, 1, 2], ["2 images of test that cannot be read were left out: 1.png, 5.png"],
    )  # fmt: skip
    with pytest.raises(DataError) as caught:
        matched(damaged(tmp_path, range(1, 8)))
    lines = str(caught.value).splitlines()
    assert (len(lines), lines[-1]) == (7, "  and 2 more")
    with pytest.raises(DataError) as caught:
        matched(damaged(tmp_path, range(1, 6)))
    assert "more" not in str(caught.value)
    with pytest.raises(DataError, match=r"^no image of test can be read; the first: .*0\.png: "):
        matched(damaged(tmp_path, range(9)), skip_bad_images=True)


def test_listed_images_are_left_out(tmp_path: Path) -> None:
    dataset = damaged(tmp_path, [4])
    (tmp_path / "list.csv").write_text("file\n4.png\n0.png\n")
    chosen = {"exclude_list": str(tmp_path / "list.csv")}
    assert matched(dataset, **chosen) == ([1, 2, 0, 2, 0, 1, 2], ["2 of 9 images of test left out by list.csv"])
    notes: list[str] = []
    result = without_labels(dataset, "test", LABELS, SINGLE_LABEL, Reading(**chosen), notes)  # type: ignore[arg-type]
    assert (len(result), notes) == (7, ["2 of 9 images of test left out by list.csv"])


def test_images_without_labels(tmp_path: Path) -> None:
    dataset = damaged(tmp_path, [4])
    notes: list[str] = []
    with pytest.raises(DataError, match=r"^1 images cannot be used; "):
        without_labels(dataset, "test", LABELS, SINGLE_LABEL, Reading(), notes)
    result = without_labels(dataset, "test", LABELS, SINGLE_LABEL, Reading(), notes, skip_bad_images=True)
    assert (result["label"][:], notes) == ([-1] * 8, ["1 images of test that cannot be read were left out: 4.png"])
    assert result.features == {"image": Image(), "label": ClassLabel(names=list(LABELS))}
    flags = without_labels(dataset.select([0, 1]), "test", LABELS, MULTI_LABEL, Reading(), notes)
    assert flags["label"][:] == [[0, 0, 0]] * 2
    named = without_labels(dataset.select([0]), "test", LABELS, SINGLE_LABEL, Reading(image_column="photo"), notes)
    assert len(named) == 1
    with pytest.raises(DataError, match="no column 'picture'"):
        without_labels(dataset, "test", LABELS, SINGLE_LABEL, Reading(image_column="picture"), notes)
