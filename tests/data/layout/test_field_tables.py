"""Tables as people have them, beside real image files: read as written, with a note for all that is left out."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.pictures import picture
from datasets import ClassLabel, Dataset, DatasetDict, Image

from hf_tl.data.datasets import ImageData, load_data
from hf_tl.errors import DataError

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes images and tables into a folder `pets`."""

    def write(images: Sequence[str], tables: Mapping[str, str]) -> Path:
        root = tmp_path / "pets"
        for number, image in enumerate(images):
            path = root / image
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(number).save(path)
        for name, text in tables.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")
        return root

    return write


def table(names: Sequence[str], labels: Sequence[object], header: str = "file_name,label", separator: str = ",") -> str:
    lines = [
        header.replace(",", separator),
        *(f"{n}{separator}{label}" for n, label in zip(names, labels, strict=True)),
    ]
    return "\n".join(lines) + "\n"


def total(data: ImageData) -> dict[str, int]:
    """Return the number of images of each class over all splits."""
    counts = [data.class_counts(split) for split in data.splits]
    return dict(zip(data.labels, map(sum, zip(*counts, strict=True)), strict=True))


TEN = [f"{n}.png" for n in range(10)]
PETS = ["cat", "dog"] * 5


def test_metadata_in_the_root_with_images_in_split_folders(write: Write) -> None:
    images = [f"{split}/{n}.png" for split in ("train", "test") for n in range(10)]
    data = load_data(str(write(images, {"metadata.csv": table(images, PETS * 2)})))
    assert {split: len(rows) for split, rows in data.splits.items()}["test"] == 10
    assert data.origins == {"train": "metadata.csv, folder train", "test": "metadata.csv, folder test"}


def test_a_file_named_like_a_split_is_an_image(write: Write) -> None:
    images = ["photo of a train.png", *TEN[1:]]
    data = load_data(str(write(images, {"metadata.csv": table(images, PETS)})))
    assert total(data) == {"cat": 5, "dog": 5}


def test_metadata_without_labels_beside_class_folders(write: Write) -> None:
    images = [f"{label}/{n}.png" for n, label in enumerate(PETS)]
    data = load_data(str(write(images, {"metadata.csv": table(images, range(10), "file_name,width")})))
    assert total(data) == {"cat": 5, "dog": 5}


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators(write: Write, separator: str) -> None:
    root = write(TEN, {"metadata.csv": table(TEN, PETS, separator=separator)})
    assert total(load_data(str(root))) == {"cat": 5, "dog": 5}


def test_header_with_spaces_and_byte_order_mark(write: Write) -> None:
    root = write(TEN, {"metadata.csv": "\ufeff" + table(TEN, PETS, " file_name, label")})
    assert total(load_data(str(root))) == {"cat": 5, "dog": 5}


@pytest.mark.parametrize("labels", [("007", "010"), ("None", "NA"), ("null", "true"), ("-1", "1"), ("1", "2")])
def test_labels_are_text(write: Write, labels: tuple[str, str]) -> None:
    root = write(TEN, {"metadata.csv": table(TEN, labels * 5)})
    assert total(load_data(str(root))) == dict.fromkeys(labels, 5)


def test_numbers_are_in_the_order_of_their_size(write: Write) -> None:
    root = write(TEN, {"metadata.csv": table(TEN, [2, 10] * 5)})
    assert load_data(str(root)).labels == ("2", "10")


def test_labels_that_differ_in_spaces_or_unicode_form(write: Write) -> None:
    labels = ["cafe\u0301", '"caf\u00e9 "', '" caf\u00e9"', "caf\u00e9", "tea", "Tea", "tea", "Tea", "tea", "Tea"]
    data = load_data(str(write(TEN, {"metadata.csv": table(TEN, labels)})))
    assert total(data) == {"Tea": 3, "caf\u00e9": 4, "tea": 3}
    assert any("Tea and tea" in note for note in data.notes)


def test_unicode_forms_in_memory_are_one_class_across_splits(rows: Callable[..., Dataset]) -> None:
    splits = DatasetDict(train=rows(["cafe\u0301", "tea"] * 4), test=rows(["caf\u00e9", " tea"] * 3, first=8))
    data = load_data(splits)
    assert data.labels == ("caf\u00e9", "tea")
    assert any("were merged" in note for note in data.notes)


def test_class_names_of_features_are_tidied(rows: Callable[..., Dataset]) -> None:
    train = rows([0, 1, 2] * 4, ClassLabel(names=["cafe\u0301", "tea", "tea "]))
    data = load_data(DatasetDict(train=train, test=rows([1, 0], ClassLabel(names=["tea", "caf\u00e9"]), first=12)))
    assert total(data) == {"caf\u00e9": 5, "tea": 9}


@pytest.mark.parametrize("separator", ["|", ",", ";"])
def test_several_labels_in_one_text(write: Write, separator: str) -> None:
    labels = ["scab", "rust", f"scab{separator}rust", "rust", "scab"] * 4
    images = [f"{n}.png" for n in range(20)]
    root = write(images, {"metadata.csv": table(images, [f'"{label}"' for label in labels])})
    data = load_data(str(root))
    assert any(f"label_separator={separator!r}" in note for note in data.notes)
    data = load_data(str(root), label_separator=separator)
    assert (data.problem_type, data.labels) == ("multi_label_classification", ("rust", "scab"))
    assert total(data) == {"rust": 12, "scab": 12}


@pytest.mark.parametrize("name", ["train.csv", "labels.csv"])
def test_kaggle_table_of_ids_beside_flat_images(write: Write, name: str) -> None:
    images = [f"{split}/{split[:2]}{n}.jpg" for split in ("train", "test") for n in range(10)]
    answers = table([f"te{n}" for n in range(10)], ["cat"] * 10, "id,label")
    root = write(
        images, {name: table([f"tr{n}" for n in range(10)], PETS, "id,label"), "sample_submission.csv": answers}
    )
    for dataset in (root, root / name):
        data = load_data(str(dataset))
        assert total(data) == {"cat": 5, "dog": 5}
        assert any("10 images that no table names were left out" in note for note in data.notes) or dataset != root


def test_table_of_paths_given_itself(write: Write) -> None:
    images = [f"deep/er/{name}" for name in TEN]
    root = write(images, {"table.tsv": table(images, PETS, "path,breed", "\t")})
    assert total(load_data(str(root / "table.tsv"))) == {"cat": 5, "dog": 5}
    absolute = [str((root / image).resolve()) for image in images]
    (root.parent / "elsewhere.csv").write_text(table(absolute, PETS, "path,label"))
    data = load_data(str(root.parent / "elsewhere.csv"))
    assert (total(data), data.name) == ({"cat": 5, "dog": 5}, "elsewhere")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_json_lines_and_parquet_of_paths(write: Write, suffix: str) -> None:
    root = write(TEN, {})
    rows = [{"image": name, "label": label} for name, label in zip(TEN, PETS, strict=True)]
    if suffix == ".jsonl":
        (root / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), root / "table.parquet")
    for dataset in (root, root / f"table{suffix}"):
        assert total(load_data(str(dataset))) == {"cat": 5, "dog": 5}


def test_ids_in_class_folders_of_other_machines(write: Write) -> None:
    images = [f"images/{label}/{n}.png" for n, label in enumerate(PETS)]
    names = [f"C:\\\\data\\\\pets\\\\{image}".replace("/", "\\\\").replace("\\\\\\\\", "\\\\") for image in images]
    root = write(images, {"metadata.csv": table(names, PETS)})
    assert total(load_data(str(root))) == {"cat": 5, "dog": 5}


@pytest.mark.parametrize("values", [("train", "test"), ("Training", "Testing"), ("TRAIN", "val")])
def test_split_column(write: Write, values: tuple[str, str]) -> None:
    splits = [values[0]] * 6 + [values[1]] * 4
    lines = [f"{name},{label},{split}" for name, label, split in zip(TEN, PETS, splits, strict=True)]
    root = write(TEN, {"metadata.csv": "file_name,label,split\n" + "\n".join(lines)})
    data = load_data(str(root), validation_fraction=0.34)
    assert len(data.splits["test"]) == 4
    assert data.origins["test"] == "column split of metadata.csv"


def test_split_column_of_other_values(write: Write) -> None:
    """Two values that mean test (FER2013) are named by the user."""
    splits = ["Training"] * 6 + ["PublicTest"] * 2 + ["PrivateTest"] * 2
    lines = [f"{name},{label},{split}" for name, label, split in zip(TEN, PETS, splits, strict=True)]
    root = str(write(TEN, {"metadata.csv": "file_name,label,Usage\n" + "\n".join(lines)}))
    with pytest.raises(DataError, match="PrivateTest, PublicTest; name the values of each split"):
        load_data(root)
    data = load_data(root, split_folders="train=Training,validation=PublicTest,test=PrivateTest")
    assert [len(rows) for rows in data.splits.values()] == [6, 2, 2]


def test_split_column_in_memory(rows: Callable[..., Dataset]) -> None:
    dataset = rows(PETS * 2, split=(["train"] * 7 + ["test"] * 3) * 2)
    data = load_data(dataset, validation_fraction=0.2)
    assert (len(data.splits["test"]), data.origins["test"]) == (6, "column split")
    data = load_data(
        rows(PETS * 2, part=(["a"] * 7 + ["b"] * 3) * 2), split_column="part", split_folders="train=a,test=b"
    )
    assert len(data.splits["test"]) == 6


def test_files_and_rows_that_have_no_counterpart(write: Write) -> None:
    root = write(TEN, {"metadata.csv": table([*TEN[:8], "gone.png"], [*PETS[:8], "cat"])})
    data = load_data(str(root))
    assert any("1 rows of metadata.csv were left out, whose files are missing: gone.png" in note for note in data.notes)
    assert any("2 images that no table names were left out: 8.png, 9.png" in note for note in data.notes)


def test_rows_of_the_same_file(write: Write) -> None:
    root = write(TEN, {"metadata.csv": table([*TEN, "0.png", "1.png"], [*PETS, "cat", "cat"])})
    data = load_data(str(root))
    assert total(data) == {"cat": 5, "dog": 4}
    assert any("1 images with several rows of the same label were read once" in note for note in data.notes)
    assert any("1 images with several rows of different labels were left out: 1.png" in note for note in data.notes)


FLAGS = {
    "celeba": ("1,-1;-1,1;1,1;-1,-1", None, {"cat": 10, "dog": 10}),
    "zero": ("1,0;0,1;-1,1;,1", "zero", {"cat": 5, "dog": 15}),
    "one": ("1,0;0,1;-1,1;,1", "one", {"cat": 10, "dog": 15}),
    "ignore": ("1.0,0.0;0,1;-1,1;,1", "ignore", {"cat": 5, "dog": 5}),
}


@pytest.mark.parametrize("case", FLAGS)
def test_columns_of_yes_and_no(write: Write, case: str) -> None:
    values, uncertain, expected = FLAGS[case]
    images = [f"{n}.png" for n in range(20)]
    root = write(images, {"metadata.csv": table(images, values.split(";") * 5, "file_name,cat,dog")})
    data = load_data(str(root), label_column="cat,dog", uncertain_labels=uncertain)  # type: ignore[arg-type]
    assert total(data) == expected
    if uncertain:
        with pytest.raises(DataError, match=r"say what they mean: uncertain_labels=.zero., one or ignore"):
            load_data(str(root), label_column="cat,dog")


def test_classes_that_do_not_occur(rows: Callable[..., Dataset]) -> None:
    feature = ClassLabel(names=list("abcdefghij"))
    data = load_data(rows([1, 4, 7] * 5, feature))
    assert data.labels == ("b", "e", "h")
    assert any("7 of 10 classes have no image" in note and "keep_empty_classes=True" in note for note in data.notes)
    assert load_data(rows([1, 4, 7] * 5, feature), keep_empty_classes=True).labels == tuple("abcdefghij")


PROBLEMS = {
    "no header line": ("\n".join(f"{name},cat" for name in TEN), "has no header line.*0.png"),
    "workbook": ("PK\x03\x04 not a csv", "Excel workbook"),
    "rows of other lengths": ("file_name,label\n0.png,cat\n1.png\n", "another number of values"),
    "no rows": ("file_name,label\n", "has no rows"),
    "repeated header": ("file_name,label,label\n0.png,cat,dog\n", "repeats label"),
    "several label columns": (
        "file_name,label,category,x\n" + "\n".join(f"{name},a,b,c" for name in TEN),
        "expected one column of labels, found 2",
    ),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_tables_that_cannot_be_read(write: Write, case: str) -> None:
    text, message = PROBLEMS[case]
    with pytest.raises(DataError, match=message):
        load_data(str(write(TEN, {"metadata.csv": text}) / "metadata.csv"))


def test_table_that_is_not_utf8(write: Write) -> None:
    root = write(TEN, {})
    (root / "metadata.csv").write_bytes("file_name,label\n0.png,caf\u00e9\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        load_data(str(root))


def test_names_that_fit_several_images(write: Write) -> None:
    images = [f"{folder}/{name}" for folder in ("x", "y") for name in TEN]
    root = write(images, {"labels.csv": table(TEN, PETS, "id,label")})
    with pytest.raises(DataError, match=r"'0.png' of labels.csv fits 2 images: x/0.png, y/0.png; write their paths"):
        load_data(str(root / "labels.csv"))


def test_zipped_folder(write: Write, tmp_path: Path) -> None:
    import shutil

    images = [f"pets/{split}/{label}/{n}.png" for split in ("train", "test") for n, label in enumerate(PETS)]
    root = write(images, {})
    archive = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", root))
    data = load_data(str(archive))
    assert (data.name, len(data.splits["test"])) == ("zipped", 10)
    same = Dataset.from_dict(
        {"image": [f"zip://{image}::{archive}" for image in images[:10]], "label": PETS}
    ).cast_column("image", Image())
    prepared = load_data(same)
    assert len({digest for digests in prepared.digests.values() for digest in digests}) == 10


def test_webdataset_shards(tmp_path: Path) -> None:
    import io
    import tarfile

    for split in ("train", "test"):
        with tarfile.open(tmp_path / f"{split}-0000.tar", "w") as shard:
            for number, label in enumerate(PETS):
                buffer = io.BytesIO()
                picture(number + 100 * (split == "test")).save(buffer, "PNG")
                for suffix, content in (("png", buffer.getvalue()), ("cls", str(int(label == "dog")).encode())):
                    member = tarfile.TarInfo(f"{number:04}.{suffix}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
    for dataset in (tmp_path, tmp_path / "*.tar"):
        data = load_data(str(dataset))
        assert (data.labels, len(data.splits["test"])) == (("0", "1"), 10)


def test_two_configurations_of_a_dataset(tmp_path: Path) -> None:
    from hf_tl.data.sources.hub import call

    def load() -> None:
        raise ValueError(
            "Config name is missing.\nPlease pick one among the available configs: ['a', 'b']\n"
            "Example of usage:\n\t`load_dataset('x', 'a')`"
        )

    with pytest.raises(DataError, match=r"\['a', 'b'\]; name one with dataset_config"):
        call("the dataset 'x' of the Hub", load)


def test_the_cause_of_an_error_inside_datasets(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    (tmp_path / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"(?i)parquet"):
        load_data(str(tmp_path))
