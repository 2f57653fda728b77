"""An export is a folder that runs without hf_tl with the predictions of the model, or it is refused."""

import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from backbones.checkpoints import LABELS, save_timm, timm_network
from hub.client import run_python
from hub.server import HubServer
from publish.records import make_record
from timm.models import register_model
from timm.models.resnet import ResNet
from torch import Tensor

import hf_tl
from hf_tl.cli import ERROR_STATUS, main
from hf_tl.data.datasets import load_data
from hf_tl.errors import ConfigError, DataError, SaveError
from hf_tl.evaluation.leakage import open_again
from hf_tl.exporting.formats import FORMATS
from hf_tl.hub.hub import push
from hf_tl.publish.checks import check_folder
from hf_tl.record import LearnedFrom, read_record
from hf_tl.runtime.runners import parts_of

REPOSITORY = Path(__file__).parents[2]
RUNNERS = {
    "onnx": "import onnxruntime\n"
    "run = lambda x: onnxruntime.InferenceSession(file).run(['logits'], {'pixel_values': x})[0]",
    "openvino": "import openvino\nmodel = openvino.Core().compile_model(file, 'CPU')\n"
    "run = lambda x: model({'pixel_values': x})['logits']",
    "torchscript": "import torch\nmodel = torch.jit.load(file)\n"
    "run = lambda x: model(torch.from_numpy(x)).detach().numpy()",
    "torch_export": "import torch\nmodel = torch.export.load(file).module()\n"
    "run = lambda x: model(torch.from_numpy(x)).detach().numpy()",
    "executorch": "import torch\nfrom executorch.runtime import Runtime\n"
    "method = Runtime.get().load_program(file).load_method('forward')\n"
    "run = lambda x: np.concatenate([method.execute([torch.from_numpy(i[None])])[0].numpy().copy() for i in x])",
}
"""Program that runs each file with its runtime alone."""
FOREIGN = {"hf_tl", "transformers", "timm", "torchvision"}


@pytest.fixture(scope="session", params=list(FORMATS))
def exported(
    request: pytest.FixtureRequest, timm_folder: Path, colors: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """Return an export in each format."""
    for package in FORMATS[request.param].packages:
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("exports") / request.param
    assert hf_tl.export(timm_folder, request.param, folder, dataset=str(colors)).output_dir == folder
    return request.param, folder


def read(folder: Path, name: str = "export.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_file_runs_in_its_own_runtime_alone(exported: tuple[str, Path], timm_folder: Path, tmp_path: Path) -> None:
    """Run batches of any size, in a process without the libraries of the model, with the same logits."""
    name, folder = exported
    file = folder / FORMATS[name].runtime.file
    random = np.random.default_rng(0)
    pixels = random.normal(size=(7, 3, *read(folder, "preprocessing.json")["size"].values())).astype(np.float32)
    np.save(tmp_path / "pixels.npy", pixels)
    code = (
        f"import sys; import numpy as np\nfile = {str(file)!r}\n{RUNNERS[name]}\npixels = np.load('pixels.npy')\n"
        "out = [run(pixels[:n].copy()) for n in (1, 2, 7)]\nnp.savez('out.npz', *out)\n"
        f"print({FOREIGN!r} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "set()"
    model, _ = hf_tl.load(timm_folder)
    with torch.inference_mode():
        expected = model(pixel_values=torch.from_numpy(pixels)).logits.numpy()
    with np.load(tmp_path / "out.npz") as outputs:
        for count, logits in zip((1, 2, 7), outputs.values(), strict=True):
            np.testing.assert_allclose(logits, expected[:count], atol=1e-5)


def test_the_report_names_what_was_verified(exported: tuple[str, Path], timm_folder: Path) -> None:
    name, folder = exported
    report = read(folder)
    files = parts_of(folder / FORMATS[name].runtime.file)
    expected = {*(file.name for file in files), "preprocessing.json", "export.json"}
    assert {path.name for path in folder.iterdir()} == expected
    assert report["format"] == name
    assert report["bytes"] == sum(file.stat().st_size for file in files)
    verified = report["verified"]
    assert verified["images"] == 18
    assert verified["batch_sizes"] == [1, 3, 16]
    assert 0 <= verified["differences"]["logits"] < 1e-5
    assert verified["differences"]["same_prediction"] == 1
    assert verified["without_hf_tl"]["pixel_levels"]["largest"] < 1e-3
    assert verified["without_hf_tl"]["differences"]["same_prediction"] == 1
    assert read(folder, "preprocessing.json")["labels"] == list(LABELS)
    assert ("opset" in report) == (name == "onnx")
    assert report["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_an_export_has_no_paths_of_the_machine(exported: tuple[str, Path], timm_folder: Path, colors: Path) -> None:
    """Exporters write the source path of each operation into their files."""
    _, folder = exported
    private = {str(Path(torch.__file__).parents[1]), str(REPOSITORY), str(Path.home()), "canary", str(colors.parent)}
    packed = dict(contents(folder))
    for file in folder.iterdir():
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                packed |= {entry: archive.read(entry) for entry in archive.namelist()}
    leaks = {(name, word) for name, content in packed.items() for word in private - {"/"} if word.encode() in content}
    assert leaks == set()


def test_the_model_stays_as_it_is_and_can_be_published(copy: Path, colors: Path) -> None:
    """The default folder is a subfolder of the model, which a push does not include."""
    published, before = check_folder(copy), contents(copy)
    folder = hf_tl.export(copy, "torch_export", dataset=str(colors))
    assert folder.output_dir == copy / "torch_export"
    assert check_folder(copy) == published
    after = contents(copy)
    assert {name: after[name] for name in before} == before
    assert {name.partition("/")[0] for name in after.keys() - before.keys()} == {"torch_export"}
    assert read(folder)["model"]["weights_digest"] == read_record(copy).weights_digest


def test_an_export_is_replaced_only_when_asked(timm_folder: Path, colors: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    hf_tl.export(timm_folder, "torchscript", folder, dataset=str(colors))
    before = contents(folder)
    with pytest.raises(ConfigError, match=r"has an export already.*overwrite_output_dir=True"):
        hf_tl.export(timm_folder, "torch_export", folder, dataset=str(colors))
    assert contents(folder) == before
    hf_tl.export(timm_folder, "torch_export", folder, dataset=str(colors), overwrite_output_dir=True)
    assert {path.name for path in folder.iterdir()} == {"model.pt2", "preprocessing.json", "export.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_files_of_no_export_are_never_replaced(timm_folder: Path, colors: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"has files of no export \(notes.txt\)"):
        hf_tl.export(timm_folder, "torchscript", tmp_path, dataset=str(colors), overwrite_output_dir=True)
    assert contents(tmp_path) == {"notes.txt": b"mine"}
    with pytest.raises(ConfigError, match="is a file"):
        hf_tl.export(timm_folder, "torchscript", tmp_path / "notes.txt", dataset=str(colors))
    with pytest.raises(SaveError, match="cannot be written: File exists"):
        hf_tl.export(timm_folder, "torchscript", tmp_path / "notes.txt" / "deeper", dataset=str(colors))


class BranchesOnPixels(ResNet):
    """Network with another output for the black images of exporters."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits if x.abs().max() == 0 else -logits


class CountsImages(ResNet):
    """Network that turns the number of images into a Python integer, which tracing makes a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).reshape(int(x.shape[0]), -1)


@cache
def register(cls: type[ResNet]) -> str:
    """Register a class as a timm architecture, and return its name."""

    def create(pretrained: bool = False, **arguments: Any) -> ResNet:
        network = timm.create_model("test_resnet", **arguments)
        network.__class__ = cls
        network.pretrained_cfg = {**network.pretrained_cfg, "architecture": create.__name__}
        return network

    create.__name__, create.__module__ = f"hf_tl_{cls.__name__.lower()}", __name__
    register_model(create)
    return create.__name__


@pytest.mark.parametrize(
    ("cls", "name", "message"),
    [
        (
            BranchesOnPixels,
            "torchscript",
            "must give the logits of the model, .* nothing was exported",
        ),
        (BranchesOnPixels, "torch_export", "cannot be written as torch_export: .* nothing was exported"),
        (CountsImages, "torchscript", "does not run on batches of 1, 3, 16 images: .* nothing was exported"),
    ],
)
def test_a_file_with_other_outputs_is_removed(
    cls: type[ResNet], name: str, message: str, timm_folder: Path, colors: Path, tmp_path: Path
) -> None:
    """It is removed, and an older export that it would replace stays."""
    broken, folder = save_timm(timm_network(register(cls)), tmp_path / "model"), tmp_path / "export"
    with pytest.raises(SaveError, match=message):
        hf_tl.export(broken, name, folder, dataset=str(colors))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    hf_tl.export(timm_folder, "torch_export", folder, dataset=str(colors))
    before = contents(folder)
    with pytest.raises(SaveError, match=message):
        hf_tl.export(broken, name, folder, dataset=str(colors), overwrite_output_dir=True)
    assert contents(folder) == before
    assert {path.name for path in tmp_path.iterdir()} == {"model", "export"}


def test_a_model_of_the_hub_is_exported(hub: HubServer, copy: Path, colors: Path, tmp_path: Path) -> None:
    push(copy, "user/colors")
    code = f"import hf_tl; hf_tl.export('user/colors', 'torch_export', 'export', dataset={str(colors)!r})"
    run_python(code, hub.url, tmp_path, has_hf_tl=True)
    model = read(tmp_path / "export")["model"]
    assert (model["name"], len(model["revision"])) == ("user/colors", 40)
    assert model["weights_digest"] == read_record(copy).weights_digest


def test_the_command_says_what_it_did(vit_folder: Path, colors: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hf_tl", "export", str(vit_folder), "--dataset", str(colors)]
    command += ["--format", "torchscript", "--output_dir", str(tmp_path / "out")]
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Verified  on 18 images of colors \(test\), in batches of 1, 3 and 16\n", done.stdout)
    assert "predictions agree on 100.0% (95% CI " in done.stdout
    assert "torch deprecates TorchScript" in done.stdout
    assert "Warning" not in done.stderr


def test_a_missing_package_is_named_with_its_extra(
    timm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(SystemExit) as stop:
        main(["export", str(timm_folder), "--output_dir", str(tmp_path / "out")])
    assert stop.value.code == ERROR_STATUS
    assert 'needs onnx, onnxscript: pip install "hf-tl[onnx]"' in capsys.readouterr().err


def test_wrong_arguments_are_refused_before_any_work(timm_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="format takes one of onnx, openvino, torchscript, torch_export, executorch, found 'tflite'"
    ):
        hf_tl.export(timm_folder, "tflite")
    with pytest.raises(ConfigError, match="int8=True needs format onnx or openvino"):
        hf_tl.export(timm_folder, "torchscript", int8=True)
    with pytest.raises(ConfigError, match="max_int8_loss limits what int8=True may lose"):
        hf_tl.export(timm_folder, "onnx", max_int8_loss=0.1)
    with pytest.raises(ConfigError, match="max_int8_loss takes a number"):
        hf_tl.export(timm_folder, "onnx", int8=True, max_int8_loss=2)
    with pytest.raises(ConfigError, match="opset is for format onnx, found format torchscript"):
        hf_tl.export(timm_folder, "torchscript", opset=18)
    with pytest.raises(ConfigError, match=r"no folder 'user/model'; .*output_dir"):
        hf_tl.export("user/model", "torchscript")
    with pytest.raises(ConfigError, match="cannot be opened by its name: name images with dataset"):
        hf_tl.export(timm_folder, "torchscript", tmp_path / "out")
    with pytest.raises(DataError):
        hf_tl.export(timm_folder, "torchscript", tmp_path / "out", dataset=str(tmp_path / "nothing"))
    assert list(tmp_path.iterdir()) == []


def test_images_are_by_default_those_of_the_training_in_its_splits() -> None:
    """The evaluated images must not be training images, whatever the seed and fractions of the training."""
    expected = load_data("digits", seed=3, validation_fraction=0.3)
    record = replace(make_record(), data=expected.to_record())
    for dataset in (None, "digits"):
        assert open_again(record, LearnedFrom(), dataset).digests == expected.digests
    for data in (
        replace(record.data, name="pets", source="folder"),
        replace(record.data, name="digits", source="folder"),
        replace(record.data, name="user/pets", source="hub", revision="a" * 40),
    ):
        other = replace(record, data=data, settings={"streaming": True})
        with pytest.raises(ConfigError, match=f"{data.name}.*name images with dataset"):
            open_again(other, LearnedFrom(), None)


def test_gray_images_have_one_channel(colors: Path, tmp_path: Path) -> None:
    network = timm_network("test_resnet", in_chans=1)
    model = save_timm(network, tmp_path / "gray")
    config = json.loads((model / "config.json").read_text())
    config["model_args"] = {"in_chans": 1}
    config["pretrained_cfg"] |= {"input_size": [1, 64, 64], "mean": [0.4], "std": [0.3]}
    (model / "config.json").write_text(json.dumps(config))
    steps = read(hf_tl.export(model, "torch_export", dataset=str(colors)), "preprocessing.json")
    assert (steps["mode"], steps["channel_order"], steps["mean"]) == ("L", "L", [0.4])
