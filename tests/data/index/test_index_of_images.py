"""Index of the images of a dataset: unchanged files are not read again, and the results are those without it."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from data.pictures import WriteFolder, picture
from datasets import Dataset, Image, disable_progress_bars
from PIL import Image as Pillow
from PIL import ImageFile

import hf_tl
from hf_tl.cli import main
from hf_tl.data.datasets import ImageData, check_images, load_data
from hf_tl.data.index import workers
from hf_tl.errors import DataError
from hf_tl.storage.tables import list_tables

HOUR = 3600 * 10**9
opened: list[str] = []


def _record(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str):
        opened.append(arguments[0])


@pytest.fixture(scope="module", autouse=True)
def _audit() -> None:
    disable_progress_bars()
    sys.addaudithook(_record)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_TL_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def photos(write_folder: WriteFolder) -> Path:
    """Return a folder of images that were written an hour ago, of which three differ from the plain rule."""
    folder = write_folder({"cat": 8, "dog": 8})
    for file in folder.rglob("*.png"):
        file.rename(file.with_name(f"{file.parent.name}{file.name}"))
    picture(100).convert("RGBA").resize((6, 6)).save(folder / "cat" / "opaque.png")
    Pillow.new("RGBA", (6, 6), (1, 2, 3, 40)).save(folder / "cat" / "transparent.png")
    Pillow.new("I;16", (6, 6), 700).save(folder / "dog" / "deep.png")
    shutil.copy(folder / "dog" / "dog1.png", folder / "dog" / "copy.png")
    for file in folder.rglob("*.png"):
        settle(file)
    return folder


class BlackFile(ImageFile.ImageFile):
    """Image format of a plugin: a black pixel."""

    format = "BLACK"

    def _open(self) -> None:
        self._mode, self._size = "L", (1, 1)
        self.tile = [ImageFile._Tile("raw", (0, 0, 1, 1), 5, "L")]


def settle(file: Path, time_ns: int | None = None) -> None:
    then = time.time_ns() - HOUR if time_ns is None else time_ns
    os.utime(file, ns=(then, then))


def start(folder: Path) -> tuple[ImageData, set[str]]:
    """Load and check a dataset; return it, and the images that were opened."""
    opened.clear()
    data = check_images(load_data(str(folder)))
    return data, {Path(name).name for name in opened if name.endswith(".png")}


def facts(data: ImageData) -> tuple[object, ...]:
    labels = {split: rows["label"][:] for split, rows in data.splits.items()}
    return data.fingerprint, data.digests, data.conversions, data.notes, labels, data.draws


def fresh(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[object, ...]:
    """Return the facts of a dataset by an index that knows nothing."""
    with monkeypatch.context() as patch:
        shutil.rmtree(tmp_path / "fresh", ignore_errors=True)
        patch.setenv("HF_TL_CACHE", str(tmp_path / "fresh"))
        return facts(start(folder)[0])


def test_a_second_start_opens_no_image(photos: Path) -> None:
    first, read = start(photos)
    assert len(read) == 20
    assert sum(len(rows) for rows in first.splits.values()) == 20
    second, read = start(photos)
    assert not read
    assert facts(second) == facts(first)
    assert {kind for conversions in second.conversions.values() for kind in conversions.images} == {
        "transparency",
        "deep gray",
    }


def _rewritten(photos: Path) -> None:
    file = photos / "cat" / "cat3.png"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    settle(file, time.time_ns() - HOUR // 2)


def _replaced(photos: Path) -> None:
    """Replace a file by another of the same size and time."""
    file, state = photos / "cat" / "cat3.png", (photos / "cat" / "cat3.png").stat()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    (photos / "new").write_bytes(data)
    settle(photos / "new", state.st_mtime_ns)
    os.replace(photos / "new", file)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)


def _added(photos: Path) -> None:
    picture(500).save(photos / "cat" / "cat3b.png")
    settle(photos / "cat" / "cat3b.png")


def _deleted(photos: Path) -> None:
    (photos / "cat" / "cat3.png").unlink()


@pytest.mark.parametrize(
    ("change", "name"), [(_rewritten, "cat3.png"), (_replaced, "cat3.png"), (_added, "cat3b.png"), (_deleted, None)]
)
def test_only_changed_files_are_read_again(
    change: Callable[[Path], None], name: str | None, photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = facts(start(photos)[0])
    change(photos)
    data, read = start(photos)
    assert read == ({name} if name else set())
    assert facts(data) == fresh(photos, monkeypatch, tmp_path) != before
    assert not start(photos)[1]


def test_a_file_that_may_still_change_is_read_again(photos: Path) -> None:
    settle(photos / "dog" / "dog2.png", time.time_ns())
    start(photos)
    assert start(photos)[1] == {"dog2.png"}


def test_many_images_are_read_in_processes(photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    in_threads = fresh(photos, monkeypatch, tmp_path)
    monkeypatch.setattr(workers, "EACH", 1)
    data, read = start(photos)
    assert not read  # in this process
    assert facts(data) == in_threads
    (photos / "dog" / "dog5.png").write_bytes((photos / "dog" / "dog5.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"1 images cannot be used(.|\n)*5\.png: the image is truncated or damaged"):
        start(photos)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_processes_use_the_settings_and_plugins_of_pillow(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "EACH", 1)
    monkeypatch.setitem(Pillow.OPEN, "BLACK", (BlackFile, lambda prefix: prefix.startswith(b"BLACK")))
    monkeypatch.setattr(Pillow, "ID", [*Pillow.ID, "BLACK"])
    (photos / "dog" / "dog5.png").write_bytes(b"BLACK" + bytes(4))
    start(photos)
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"12 x 10 pixels are more than the limit of 100"):
        start(photos)


def test_processes_do_not_run_the_program_again(photos: Path, cache: Path) -> None:
    program = photos.parent / "program.py"
    program.write_text(
        "import hf_tl\nfrom hf_tl.data.index import workers\nworkers.EACH = 1\n"
        f"print('images', len(hf_tl.load_data({str(photos)!r}).splits['train']))\n"
    )
    run = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=120, check=False)
    assert (run.returncode, run.stdout.count("images")) == (0, 1), run.stderr


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "text"])
def test_a_damaged_index_is_made_again(
    damage: str, photos: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = facts(start(photos)[0])
    for file in cache.rglob("*.arrow"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 4
        file.write_bytes({"flipped": content, "cut": content[:-200], "empty": b"", "text": b"a table"}[damage])
    capsys.readouterr()
    data, read = start(photos)
    assert len(read) == 20
    assert facts(data) == first
    assert capsys.readouterr().out.count("again: their index is damaged") == 2  # of files, and of outcomes
    assert not start(photos)[1]


def test_an_index_of_another_version_is_made_again(photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = facts(start(photos)[0])
    files = sorted(cache.rglob("*.arrow"))
    shutil.copy(files[0], cache / "other")
    shutil.copy(files[1], files[0])
    shutil.copy(cache / "other", files[1])
    data, read = start(photos)
    assert len(read) == 20
    assert facts(data) == first


def test_without_a_place_to_write_there_is_no_index(
    photos: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.write_text("a file where the folder should be")
    for _ in range(2):
        data, read = start(photos)
        assert len(read) == 20
        assert "Continuing without an index of the images, which cannot be written" in capsys.readouterr().out
    assert len(data.splits["train"])


def test_unreadable_images_are_named_in_every_run(photos: Path) -> None:
    (photos / "dog" / "dog5.png").write_bytes((photos / "dog" / "dog5.png").read_bytes()[:60])
    settle(photos / "dog" / "dog5.png")
    for _ in range(2):
        with pytest.raises(DataError, match=r"1 images cannot be used(.|\n)*5\.png: the image is truncated or damaged"):
            start(photos)
    opened.clear()
    data = check_images(load_data(str(photos)), skip_bad_images=True)
    assert {Path(name).name for name in opened if name.endswith(".png")} == {"dog5.png"}
    assert sum(len(rows) for rows in data.splits.values()) == 19


def test_a_file_that_changes_after_it_was_loaded_is_checked(photos: Path) -> None:
    start(photos)
    data = load_data(str(photos))
    (photos / "dog" / "dog5.png").write_bytes(b"no image")
    check_images(data, just_loaded=True)
    with pytest.raises(DataError, match=r"5\.png: no image that Pillow can read"):
        check_images(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_another_limit_of_pixels_checks_all_images_again(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(photos)
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"12 x 10 pixels are more than the limit of 100"):
        start(photos)


def test_a_table_uses_the_index_of_its_folder(photos: Path) -> None:
    start(photos)
    rows = [f"{file.parent.name}/{file.name},{file.parent.name}" for file in sorted(photos.rglob("*.png"))]
    (photos / "labels.csv").write_text("\n".join(["file,label", *rows]))
    assert not start(photos / "labels.csv")[1]


def test_stored_images_have_the_same_digests_in_a_second_start(photos: Path, tmp_path: Path, cache: Path) -> None:
    files = sorted(photos.rglob("*.png"))
    images = [{"bytes": file.read_bytes(), "path": None} for file in files]
    rows = Dataset.from_dict({"image": images, "label": [file.parent.name for file in files]})
    rows.cast_column("image", Image()).to_parquet(str(tmp_path / "photos.parquet"))
    first, second = (check_images(load_data(str(tmp_path / "photos.parquet"))) for _ in range(2))
    assert facts(first) == facts(second)
    titles = sorted(table.title for table in list_tables(cache))
    assert titles == ["checked images of photos", "digests of 20 images"]
    assert set(first.digests["train"]) <= set(load_data(str(photos)).pool(["train", "validation", "test"]).digests)


def test_data_of_several_splits_can_be_selected_before_the_check(photos: Path) -> None:
    start(photos)
    data = load_data(str(photos))
    reversed_data = data.select("train", list(range(len(data.splits["train"])))[::-2])
    assert check_images(reversed_data).digests == reversed_data.digests
    assert replace(reversed_data, notes=()).root == photos.resolve()


def test_the_cache_command_lists_and_clears_indexes(
    photos: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hf_tl.load_data(str(photos))
    capsys.readouterr()
    main(["cache"])
    assert "digests of the files of pets" in capsys.readouterr().out
    main(["cache", "clear"])
    assert not list(cache.rglob("*.arrow"))
    assert len(start(photos)[1]) == 20
