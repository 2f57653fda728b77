"""`hf-tl predict` and `hf_tl.predict`: kinds of input, unreadable files, and tables."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from backbones.checkpoints import LABELS, edit_config, save_timm, timm_network
from datasets import Dataset, DatasetDict
from datasets import Image as ImageFeature
from exporting.models import write_images
from PIL import Image
from pyarrow import parquet

import hf_tl
from hf_tl.cli import main
from hf_tl.errors import ConfigError, DataError
from hf_tl.predicting.inputs import list_files
from hf_tl.predicting.predict import predict


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), train=3, test=1)


@pytest.fixture(scope="module")
def files(images: Path) -> list[str]:
    return sorted(str(file) for file in images.rglob("*.png"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_timm(timm_network(), tmp_path_factory.mktemp("model") / "single"))


@pytest.fixture(scope="module")
def multi_label(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = save_timm(timm_network(), tmp_path_factory.mktemp("model") / "multi")
    edit_config(folder, problem_type="multi_label_classification")
    return str(folder)


def status(words: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert isinstance(stop.value.code, int)
    return stop.value.code


def names(result: hf_tl.PredictionResult) -> list[str]:
    return [prediction.image for prediction in result]


def test_folders_patterns_files_and_lists_name_the_same_images(
    model: str, images: Path, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "notes.txt").write_text("no image")
    (images / ".hidden").mkdir(exist_ok=True)
    Image.new("RGB", (9, 9)).save(images / ".hidden" / "a.png")
    (tmp_path / "list.txt").write_text("train\n\ntest/**/*.png\n", encoding="utf-8")
    monkeypatch.chdir(images)
    relative = [Path(file).relative_to(images).as_posix() for file in files]
    assert sorted(names(predict(model, images))) == files
    assert sorted(names(predict(model, f"{images}/**/*.png"))) == files
    assert sorted(names(predict(model, f"@{tmp_path / 'list.txt'}"))) == relative
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(relative)))
    assert names(predict(model, "@-")) == relative
    assert names(predict(model, files[::-1])) == files[::-1]


def test_a_name_with_brackets_is_a_file(model: str, tmp_path: Path) -> None:
    for name in ("photo[1].png", "@me.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / name)
        assert names(predict(model, str(tmp_path / name))) == [str(tmp_path / name)]


def test_links_in_a_circle_end(model: str, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "again").symlink_to(tmp_path)
    assert names(predict(model, tmp_path)) == [str(tmp_path / "a.png")]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_list_names_files_with_any_characters_but_the_end_of_a_line(tmp_path: Path, ending: str) -> None:
    paths = [f"a{character}b.png" for character in "\x0b\x0c\x1c\x85\u2028 "]
    (tmp_path / "list.txt").write_bytes("".join(path + ending for path in paths).encode())
    assert list(list_files(f"@{tmp_path / 'list.txt'}")) == paths


def test_paths_images_arrays_and_rows_get_the_same_classes(model: str, files: list[str]) -> None:
    expected = [prediction.ranking for prediction in predict(model, files)]
    pictures = [Image.open(file) for file in files]
    rows = Dataset.from_dict({"photo": files}).cast_column("photo", ImageFeature())
    loaded, _ = hf_tl.load(model)
    for each in (predict(model, pictures), predict(model, [np.asarray(picture) for picture in pictures]),
                 predict(model, rows), predict(model, rows["photo"]), predict(loaded, files)):  # fmt: skip
        assert [prediction.ranking for prediction in each] == expected
    assert predict(model, pictures[0])[0].ranking == expected[0]
    assert names(predict(model, [np.asarray(pictures[0])])) == ["image 0"]
    assert names(predict(model, rows))[0] == files[0]
    assert predict(model, [pictures[0]] * 40)[39].ranking == expected[0]


def test_a_column_of_images_is_read_as_it_is_needed(model: str, tmp_path: Path) -> None:
    """An unreadable image in it is an error of its own, as it is in a dataset."""
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    files = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    column = Dataset.from_dict({"photo": files}).cast_column("photo", ImageFeature())["photo"]
    assert [prediction.error is None for prediction in predict(model, column)] == [True, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 0}, "top_k takes an integer of at least 1, found 0"),
        ({"top_k": "3"}, "top_k takes an integer of at least 1, found '3'"),
        ({"threshold": 50}, "threshold takes a number of at least 0 and of at most 1, found 50"),
        ({"batch_size": -1}, "batch_size takes an integer of at least 1, found -1"),
    ],
)
def test_settings_outside_their_range_are_named(model: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        predict(model, Image.new("RGB", (9, 9)), **settings)  # type: ignore[arg-type]
    assert str(refused.value) == message


def test_no_more_classes_than_the_model_has_are_returned(model: str) -> None:
    assert len(predict(model, Image.new("RGB", (9, 9)), top_k=99)[0].labels) == len(LABELS)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_batch_size_changes_no_prediction(model: str, files: list[str], batch_size: int) -> None:
    expected = np.array([prediction.probabilities for prediction in predict(model, files)])
    result = predict(model, files, batch_size=batch_size)
    np.testing.assert_allclose([prediction.probabilities for prediction in result], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "there are no images"),
        ([3], "image 0: expected a path, a PIL image or an array, found int"),
        (7, "expected paths, PIL images, arrays or a datasets.Dataset, found int"),
        (DatasetDict(), "give one split"),
        (np.zeros((3, 8, 8), np.uint8), r"\(height, width, 3 or 4\), found uint8 of the shape \(3, 8, 8\)"),
        (np.zeros((8, 8)), "found float64"),
        ("@/no/such/list.txt", "@/no/such/list.txt: expected a text file with a path on each line, found no such file"),
        ("nothing/*.jpg", r"nothing/\*\.jpg: the image cannot be read"),
    ],
)
def test_what_is_no_image_is_named(model: str, value: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        predict(model, value)


def test_an_empty_folder_is_named(model: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"no images in the folder {tmp_path}"):
        predict(model, tmp_path)


def test_unreadable_files_are_named_and_the_others_are_predicted(
    model: str, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.png").write_bytes(Path(files[0]).read_bytes()[:60])
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    mixed = [str(tmp_path / "cut.png"), files[0], str(tmp_path / "page.jpg"), "missing.jpg", files[1]]
    result = predict(model, mixed, batch_size=2)
    assert names(result) == mixed
    assert [prediction.error is None for prediction in result] == [False, True, False, False, True]
    assert "3 of 5 images cannot be read" in capsys.readouterr().err
    assert status(["predict", model, *mixed]) == 3
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == files[0]
    for name in ("cut.png", "page.jpg", "missing.jpg"):
        assert f"{name}: " in err
    assert err.endswith("hf-tl predict: 3 of 5 images cannot be read; the others were predicted\n")
    assert status(["predict", model, mixed[0], mixed[3]]) == 2
    assert "none of 2 images can be read" in capsys.readouterr().err


def test_tables_hold_a_row_for_each_image(model: str, files: list[str], tmp_path: Path) -> None:
    result = predict(model, files, top_k=2)
    expected = [(prediction.image, *prediction.labels) for prediction in result]
    columns = ["image", "label", "probability", "label_2", "probability_2", "error"]
    for suffix in ("csv", "jsonl", "parquet"):
        main(["predict", model, *files, "--top_k", "2", "--output", str(tmp_path / "out" / f"a.{suffix}")])
    with (tmp_path / "out" / "a.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == columns
    assert [(row["image"], row["label"], row["label_2"]) for row in table] == expected
    probabilities = [prediction.probabilities[0] for prediction in result]
    assert [float(row["probability"]) for row in table] == pytest.approx(probabilities, abs=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "out" / "a.jsonl").read_text("utf-8").splitlines()]
    rows = parquet.read_table(tmp_path / "out" / "a.parquet").to_pylist()
    assert (
        lines == rows == result.to_pandas().astype(object).where(lambda frame: frame.notna(), None).to_dict("records")
    )
    assert not list(tmp_path.rglob("*partial*"))


def test_unreadable_files_have_a_row_with_their_error(model: str, files: list[str], tmp_path: Path) -> None:
    table = tmp_path / "a.jsonl"
    assert status(["predict", model, files[0], "gone.jpg", "--output", str(table)]) == 3
    rows = [json.loads(line) for line in table.read_text("utf-8").splitlines()]
    assert rows[0]["error"] is None
    assert rows[1]["label"] is None
    assert rows[1]["error"].startswith("gone.jpg: the image cannot be read")


def test_a_threshold_keeps_all_probable_classes_of_a_multi_label_model(
    multi_label: str, files: list[str], tmp_path: Path
) -> None:
    everything = predict(multi_label, files)
    limit = sorted(value for prediction in everything for value in prediction.probabilities)[len(files)]
    result = predict(multi_label, files, threshold=limit)
    for some, whole in zip(result, everything, strict=True):
        assert some.ranking == [pair for pair in whole.ranking if pair[1] >= limit]
    table = tmp_path / "a.csv"
    main(["predict", multi_label, *files, "--threshold", str(limit), "--output", str(table)])
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["labels"] for row in rows] == ["|".join(prediction.labels) for prediction in result]
    assert predict(multi_label, files, threshold=1)[0].label is None
    result.save(tmp_path / "b.parquet")
    assert parquet.read_table(tmp_path / "b.parquet").to_pylist()[0]["labels"] == list(result[0].labels)


def test_flags_that_do_not_fit_are_refused(model: str, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="threshold is for multi-label models"):
        predict(model, files, threshold=0.5)
    assert status(["predict", model, *files, "--output", "a.xlsx"]) == 2
    assert "--output is a file that ends with .csv, .jsonl, .parquet, found 'a.xlsx'" in capsys.readouterr().err


def test_a_result_is_short(model: str, files: list[str]) -> None:
    result = predict(model, files)
    assert repr(result).startswith(f"PredictionResult({len(files)} images: ")
    assert len(repr(result)) < 120
    assert result[0].label in LABELS
    assert isinstance(result[:2], hf_tl.PredictionResult)


def test_progress_is_shown_where_it_does_not_mix_with_results(
    model: str, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["predict", model, *files, "--output", str(tmp_path / "a.csv")])
    out, err = capsys.readouterr()
    assert out == f"Predicted {len(files)} images: {tmp_path / 'a.csv'}\n"
    assert f"Predicting: 100% ({len(files)} of {len(files)} images" in err
