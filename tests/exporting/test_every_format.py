"""`hf-tl export --format all`: every format that can be written, and the fastest file of each precision."""

from pathlib import Path

import pytest
from cli.runs import fails
from exporting.trained import INSTALLED, train_and_export

import hf_tl
from hf_tl.cli import main
from hf_tl.errors import SaveError
from hf_tl.exporting.every_format import EveryFormat, Speed, export_every_format
from hf_tl.exporting.formats import FORMATS
from hf_tl.exporting.quantize import METHODS

CURRENT = [name for name, format_ in FORMATS.items() if not format_.is_deprecated]
WRITTEN = [name for name in CURRENT if name in INSTALLED]
QUANTIZED = [name for name in WRITTEN if name in METHODS]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_and_export(tmp_path_factory.mktemp("run"), formats=())


def test_every_format_is_written_and_timed(model: Path, tmp_path: Path) -> None:
    images = model.parent / "images"
    result = export_every_format(model, tmp_path / "all", dataset=images, int8=True, with_preprocessing=True)
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == sorted(WRITTEN)
    assert result.left_out.keys() == set(CURRENT) - set(WRITTEN)
    assert all("pip install" in reason for reason in result.left_out.values())
    names = [each.name for each in result.speeds]
    assert sorted(names) == sorted(["torch", *WRITTEN, *(f"{name} int8" for name in QUANTIZED)])
    for each in result.speeds:
        assert min(each.single, each.batched) > 0
        assert bool(each.loss) == each.name.endswith("int8")
        if each.file is not None:
            assert len(hf_tl.predict(each.file, images / "red")) == 20
    assert (tmp_path / "all" / "onnx" / "model_with_preprocessing.onnx").is_file()
    assert str(result).count("Exported") == len(WRITTEN)


def test_the_fastest_files_are_named_for_each_precision() -> None:
    def speed(name: str, single: float, batched: float) -> Speed:
        return Speed(name, None if name == "torch" else Path(f"{name}.file"), single, batched)

    speeds = [speed("torch", 9, 9), speed("onnx", 5, 6), speed("openvino", 4, 7), speed("onnx int8", 8, 8)]
    facts = dict(EveryFormat((), {"openvino": "no memory"}, tuple(speeds)).facts())
    assert facts == {
        "Fastest": "onnx.file for single images, openvino.file for batches",
        "int8": "onnx int8.file",
        "Left out": "openvino: no memory",
    }


def test_a_format_that_fails_is_left_out(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ONNX has no version 3 operators any more, and the other formats have no versions."""
    main(["export", str(model), "--dataset", str(model.parent / "images"), "--format", "all", "--opset", "3"])
    out = capsys.readouterr().out
    assert "Left out" in out
    assert "cannot be written as onnx" in out
    assert (model / "torch_export").is_dir()
    assert not (model / "onnx").exists()


def test_nothing_is_written_where_a_folder_holds_an_export(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "torch_export").mkdir()
    (tmp_path / "torch_export" / "model.pt2").write_bytes(b"earlier")
    words = ["--dataset", str(model.parent / "images"), "--format", "all", "--output_dir", str(tmp_path)]
    assert "torch_export has an export already" in fails(["export", str(model), *words], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["torch_export"]


def test_a_disk_that_fails_is_no_format_that_fails(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SaveError, match="cannot be written"):
        export_every_format(model, tmp_path / "file", dataset=model.parent / "images")
