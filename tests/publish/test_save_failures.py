"""Saving that fails: a wrong reload, a full disk, an output folder that is in use."""

import json
from pathlib import Path

import pytest
from hub.client import run_python
from publish.records import make_record, put
from publish.saved_models import LABELS, build, record_of
from publish.saving import LEARNED, save_model
from safetensors.torch import load_file, save_file

from hf_tl.errors import ConfigError, SaveError
from hf_tl.job.output import check_output_dir
from hf_tl.publish.save import check_reload, commit_model
from hf_tl.record import write_record

# --- failed checks


@pytest.mark.parametrize("kind", ["timm", "vit"])
@pytest.mark.parametrize("damage", ["weight", "missing", "labels", "mean"])
def test_a_wrong_reload_is_found(kind: str, damage: str, tmp_path: Path) -> None:
    model, preprocessing = build(kind, tmp_path)
    folder = save_model(model, preprocessing, record_of(model, LABELS["unsorted"]), tmp_path / "out")
    check_reload(model, preprocessing, folder)
    text = tamper(folder, damage, kind)
    with pytest.raises(SaveError, match=text):
        check_reload(model, preprocessing, folder)


def tamper(folder: Path, damage: str, kind: str) -> str:
    weights, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    tensors = load_file(weights)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    if damage in ("weight", "missing"):
        tensors[name].view(-1)[0] += 1e-6 if damage == "weight" else 0
        if damage == "missing":
            del tensors[name]
        save_file(tensors, weights, metadata={"format": "pt"})
        return f"the saved weights are not those in memory: .*{name}"
    if damage == "labels":
        names = ["ant", "zebra", "moth"]
        config |= {"label_names": names} if kind == "timm" else {"id2label": dict(enumerate(names))}
        (folder / "config.json").write_text(json.dumps(config))
        return "the saved labels are ant, zebra, moth; expected zebra, ant, moth"
    file = folder / ("config.json" if kind == "timm" else "preprocessor_config.json")
    file.write_text(file.read_text().replace('"mean"', '"old_mean"').replace('"image_mean"', '"old_mean"'))
    return "other pixels than the evaluation transform"


FULL_DISK = """
import os, resource, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from publish.saved_models import build, record_of, LABELS
from hf_tl.errors import SaveError
from publish.saving import save_model
for kind, limit in (("timm", 100_000), ("vit", 20_000), ("timm", 4_000), ("resnet", 0)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    model, preprocessing = build(kind, Path("."))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save_model(model, preprocessing, record_of(model, LABELS["unsorted"]), Path("out"))
    except SaveError as error:
        print(error, os.listdir("out"))
"""


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    """The kernel limits file sizes, like a full disk: in the weights, the config or the first byte."""
    code = FULL_DISK.format(tests=str(Path(__file__).parents[1]))
    lines = run_python(code, "http://127.0.0.1:9", tmp_path, has_hf_tl=True).splitlines()
    assert len(lines) == 4
    for line in lines:
        assert line.startswith("the model in out cannot be written: ")
        assert "File too large" in line
        assert line.endswith(" []")


# --- the output directory


def test_a_new_or_empty_folder_is_free(tmp_path: Path) -> None:
    check_output_dir(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []  # nothing is created before the run begins
    check_output_dir(tmp_path)
    (tmp_path / "notes.txt").touch()
    check_output_dir(tmp_path)


@pytest.mark.parametrize("name", ["run.json", "config.json", "model.safetensors"])
def test_a_folder_with_a_run_is_not_free(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=rf"holds another run.* \({name}\).*overwrite_output_dir=True"):
        check_output_dir(tmp_path)
    check_output_dir(tmp_path, overwrite=True)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file; name a folder"):
        check_output_dir(tmp_path / "file")
    with pytest.raises(ConfigError, match="/file is a file; name a folder"):
        check_output_dir(tmp_path / "file" / "below" / "deeper")


@pytest.mark.parametrize("folder", ["/proc/none", "/sys/none"])
def test_a_folder_that_cannot_be_written_to(folder: str) -> None:
    if not Path(folder).parent.is_dir():
        pytest.skip("Linux only")
    with pytest.raises(ConfigError, match="cannot be written: "):
        check_output_dir(folder)
    model, preprocessing = build("timm", Path("."))
    with pytest.raises(SaveError, match="cannot be written: "):
        commit_model(model, preprocessing, record_of(model, LABELS["unsorted"]), LEARNED, folder)


@pytest.mark.parametrize("status", ["training", "trained"])
def test_a_run_that_is_not_finished_is_resumed(status: str, tmp_path: Path) -> None:
    write_record(put(make_record(), status=status, measured={}), tmp_path)
    with pytest.raises(ConfigError, match=r"an unfinished run: resume it with resume_from_checkpoint=.auto"):
        check_output_dir(tmp_path)
    check_output_dir(tmp_path, resume=True)
    check_output_dir(tmp_path, overwrite=True)
