"""An exported file is a model: its predictions are those of the model, also where torch cannot be imported."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from exporting.trained import INSTALLED
from fuzzing.mutations import mutate_json
from fuzzing.reading import PARTS, fuzz
from parts import parts

import hf_tl
from hf_tl.data.layout.names import IMAGE_SUFFIXES
from hf_tl.errors import ConfigError, ModelError
from hf_tl.runtime.exported import ExportedModel
from hf_tl.runtime.runners import RUNTIMES

PROJECT = Path(__file__).parents[2]
LIBRARIES = (
    "torch",
    "transformers",
    "timm",
    "datasets",
    "accelerate",
    "torchvision",
    "scipy",
    "yaml",
    "jinja2",
    "pyarrow",
)
WITHOUT = """
import sys
from importlib.machinery import PathFinder
class Found(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {missing} else PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Found
from hf_tl.__main__ import command
command()
"""
"""Program of `hf-tl` that cannot import these packages."""


@pytest.fixture(scope="module")
def exported(timm_folder: Path, colors: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("onnxscript")
    root = tmp_path_factory.mktemp("exported")
    return {
        name: Path(hf_tl.export(timm_folder, name, root / name, dataset=str(colors), int8=name == "onnx"))
        for name in INSTALLED
    }


def run(missing: tuple[str, ...], *words: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    program = WITHOUT.replace("{missing}", repr(missing))
    return subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, cwd=folder, check=False
    )


@pytest.mark.parametrize("name", INSTALLED)
def test_the_predictions_are_those_of_the_model(
    exported: dict[str, Path], timm_folder: Path, colors: Path, name: str
) -> None:
    expected = hf_tl.predict(timm_folder, colors / "test")
    for model in (exported[name], exported[name] / RUNTIMES[name].file):
        result = hf_tl.predict(model, colors / "test")
        assert [each.image for each in result] == [each.image for each in expected]
        for ours, true in zip(result, expected, strict=True):
            assert ours.labels == true.labels
            assert ours.probabilities == pytest.approx(true.probabilities, abs=1e-5)


def test_a_quantized_file_predicts_too(exported: dict[str, Path], colors: Path) -> None:
    result = hf_tl.predict(exported["onnx"] / "model_int8.onnx", colors / "test", top_k=1)
    assert len(result) == len(list((colors / "test").glob("*/*")))
    assert all(len(each.labels) == 1 for each in result)


def test_onnx_needs_none_of_the_libraries(
    exported: dict[str, Path], timm_folder: Path, colors: Path, tmp_path: Path
) -> None:
    (colors / "damaged").mkdir(exist_ok=True)
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"no image")
    words = ("predict", str(exported["onnx"]), str(colors / "test"), str(damaged), "--output", "table.csv")
    done = run(LIBRARIES, *words, folder=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "1 of 19 images cannot be read" in done.stderr
    hf_tl.predict(timm_folder, [str(colors / "test"), str(damaged)]).save(tmp_path / "expected.csv")
    ours, true = (
        [line.split(",")[:2] for line in (tmp_path / name).read_text().splitlines()]
        for name in ("table.csv", "expected.csv")
    )
    assert ours == true


def test_a_missing_runtime_is_named_with_the_command_that_installs_it(
    exported: dict[str, Path], tmp_path: Path
) -> None:
    done = run((*LIBRARIES, "onnxruntime"), "predict", str(exported["onnx"]), "image.png", folder=tmp_path)
    assert done.returncode == 2
    assert "onnxruntime, which is not installed" in done.stderr
    assert 'pip install "hf-tl[runtime]"' in done.stderr


def test_a_missing_library_is_named_in_one_line(exported: dict[str, Path], tmp_path: Path) -> None:
    for words in (("predict", "nothing", "image.png"), ("train", "--dataset", "photos"), ("doctor",)):
        done = run(LIBRARIES, *words, folder=tmp_path)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert "which is not installed; install its package, or hf-tl with all it needs" in done.stderr


def test_a_multi_label_model_takes_a_threshold(exported: dict[str, Path], colors: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="threshold is for multi-label models"):
        hf_tl.predict(exported["onnx"], colors / "test", threshold=0.5)
    folder = Path(shutil.copytree(exported["onnx"], tmp_path / "multi"))
    steps = json.loads((folder / "preprocessing.json").read_text())
    (folder / "preprocessing.json").write_text(json.dumps({**steps, "scores": "sigmoid"}))
    [result, *_] = hf_tl.predict(folder, colors / "test", threshold=1e-6)
    assert len(result.labels) == len(steps["labels"])
    assert sum(result.probabilities) != pytest.approx(1, abs=1e-3)


def test_a_damaged_export_is_refused_by_name(exported: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported["onnx"], tmp_path / "damaged"))
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"expected a model that onnxruntime can open in .*model\.onnx"):
        hf_tl.predict(folder, "image.png")
    (folder / "model.onnx").write_bytes(content)
    (folder / "preprocessing.json").unlink()
    with pytest.raises(ModelError, match=r"expected preprocessing\.json beside the model"):
        hf_tl.predict(folder / "model.onnx", "image.png")


def test_other_class_names_than_logits_are_an_error(exported: dict[str, Path], colors: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported["onnx"], tmp_path / "names"))
    steps = json.loads((folder / "preprocessing.json").read_text())
    (folder / "preprocessing.json").write_text(json.dumps({**steps, "labels": [*steps["labels"], "more"]}))
    with pytest.raises(ModelError, match="expected logits of shape"):
        hf_tl.predict(folder, colors / "test")


@pytest.mark.parametrize("part", parts(PARTS))
def test_mutated_preprocessing_is_used_or_refused(exported: dict[str, Path], tmp_path: Path, part: int) -> None:
    folder = Path(shutil.copytree(exported["onnx"], tmp_path / "mutated"))
    file = folder / "preprocessing.json"
    fuzz(file, mutate_json, lambda: ExportedModel.open(folder / "model.onnx"), part, names=str(folder))


def test_images_have_the_suffixes_of_datasets_but_those_of_no_photos() -> None:
    left_out = {
        *(".eps", ".ps", ".pdf", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr", ".wmf", ".emf", ".fits", ".fit")
    }
    assert set(ImageFolder.EXTENSIONS) - left_out <= IMAGE_SUFFIXES
    assert not IMAGE_SUFFIXES & left_out
