"""A saved model loads in plain transformers, timm and hf_tl with the same logits, or saving fails."""

import getpass
import itertools
import json
import platform
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones.checkpoints import save_timm, save_transformers, timm_network, tiny_resnet, tiny_vit
from hub.client import run_python
from PIL import Image
from publish.records import make_record, put
from publish.saving import LEARNED, save_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoImageProcessor, PreTrainedModel

from hf_tl.backbones.libraries.preprocessing import Preprocessing
from hf_tl.backbones.load import load, load_backbone, preprocessing_of
from hf_tl.backbones.stages.stage import list_stages
from hf_tl.card.plots import HISTORY_FIGURE, STAGES_FIGURE
from hf_tl.errors import ConfigError, PublishError, SaveError
from hf_tl.publish.save import check_output_dir, check_reload, commit_model, rewrite_card
from hf_tl.record import RunRecord, read_record, write_record
from hf_tl.record.learned import LEARNED_FILE
from hf_tl.strategy import Strategy

CANARY = "canary_home_of_somebody"
LABELS = {
    "unsorted": ("zebra", "ant", "moth"),
    "numbers": ("10", "9", "007"),
    "unicode": ("größe", "日本 🐶", 'a "quoted"\nname'),
    "generic": ("LABEL_2", "LABEL_0", "LABEL_1"),
}
KINDS = ("timm", "timm gray", "timm size", "timm folder", "vit", "resnet")
FILES = {"config.json", "model.safetensors", "README.md", "run.json", LEARNED_FILE, HISTORY_FIGURE, STAGES_FIGURE}


def build(
    kind: str, folder: Path, labels: tuple[str, ...] = LABELS["unsorted"]
) -> tuple[PreTrainedModel, Preprocessing]:
    """Return a model for `labels`, like load_backbone; transformers models come from a folder with a known name."""
    torch.manual_seed(0)
    home = folder / CANARY
    match kind:
        case "timm":
            name, options = "timm:test_resnet", {"pretrained": False}
        case "timm gray":
            name, options = "timm:test_resnet", {"pretrained": False, "in_chans": 1}
        case "timm size":
            name, options = "timm:test_vit_relpos", {"pretrained": False, "image_size": 64}
        case "timm folder":
            name, options = str(save_timm(timm_network(), home)), {}
        case "vit":
            name, options = str(save_transformers(tiny_vit(), home)), {}
        case "resnet":
            name, options = str(save_transformers(tiny_resnet(), home)), {}
    model, transforms = load_backbone(name, labels, Strategy.transfer(), **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model, preprocessing_of(model, transforms)


def record_of(model: PreTrainedModel, labels: tuple[str, ...]) -> RunRecord:
    """Return the record of a fine-tuning of the last stage and the head."""
    return make_record(tuple(stage.name for stage in list_stages(model)), labels)


def saved(kind: str, folder: Path, labels: tuple[str, ...] = LABELS["unsorted"]) -> tuple[Path, PreTrainedModel]:
    model, preprocessing = build(kind, folder, labels)
    return save_model(model, preprocessing, record_of(model, labels), folder / "out"), model


def test_the_card_is_written_again_from_the_record(tmp_path: Path) -> None:
    folder, _ = saved("timm", tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    rewrite_card(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()}.keys() == before.keys()
    assert (folder / "README.md").read_bytes() == before["README.md"]

    (folder / "README.md").write_text("mine")
    (folder / STAGES_FIGURE).unlink()
    assert rewrite_card(folder) == folder / "README.md"
    assert (folder / "README.md").read_bytes() == before["README.md"]
    assert (folder / "README.old.md").read_text() == "mine"
    assert (folder / STAGES_FIGURE).is_file()
    for name in ("model.safetensors", "config.json", "run.json"):
        assert (folder / name).read_bytes() == before[name]
    (folder / "README.md").write_text("mine again")
    rewrite_card(folder)
    assert (folder / "README.old.md").read_text() == "mine"
    assert (folder / "README.old-2.md").read_text() == "mine again"


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (None, "holds no run.json"),
        ("{", "cannot be read"),
        ("[]", "must map names to values"),
        ('{"schema_version": 99}', "schema version 99, and this hf_tl reads"),
        ('{"schema_version": 1}', "lacks"),
    ],
)
def test_a_card_that_cannot_be_written_again_stays(tmp_path: Path, record: str | None, said: str) -> None:
    (tmp_path / "README.md").write_text("as it was")
    if record is not None:
        (tmp_path / "run.json").write_text(record)
    with pytest.raises(PublishError, match=said):
        rewrite_card(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", *(["run.json"] if record is not None else [])}
    assert (tmp_path / "README.md").read_text() == "as it was"


@pytest.mark.parametrize("status", ["training", "trained", "complete"])
def test_a_card_is_written_for_a_run_of_any_status(status: str, tmp_path: Path) -> None:
    measured = make_record().measured if status == "complete" else {}
    write_record(put(make_record(), status=status, measured=measured), tmp_path)
    stated = {"training": "Training has not ended", "trained": "Not measured", "complete": "Test accuracy: 92.5%"}
    assert stated[status] in rewrite_card(tmp_path).read_text()


def photo(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


IN_PLAIN_LIBRARIES = """
import json, os, sys, timm, torch
from pathlib import Path
from PIL import Image
from timm.data import create_transform, resolve_data_config
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

torch.set_grad_enabled(False)
for folder in sorted(Path("saves").iterdir()):
    image, answer = Image.open(folder / "photo.png"), {}
    model = AutoModelForImageClassification.from_pretrained(folder / "out").eval()
    pixels = AutoImageProcessor.from_pretrained(folder / "out")(image, return_tensors="pt")["pixel_values"]
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    assert model.config.label2id == {label: index for index, label in enumerate(labels)}
    answer["transformers"] = {"logits": model(pixel_values=pixels).logits[0].tolist(), "labels": labels}
    if image.mode == "RGB":  # the pipeline makes all images RGB before the processor sees them
        ranking = pipeline("image-classification", str(folder / "out"), top_k=3)(image)
        answer["pipeline"] = [entry["label"] for entry in ranking]
    if model.config.model_type == "timm_wrapper":
        network = timm.create_model(f"local-dir:{folder / 'out'}", pretrained=True).eval()
        pixels = create_transform(**resolve_data_config(model=network), is_training=False)(image)[None]
        answer["timm"] = {"logits": network(pixels)[0].tolist(), "labels": network.pretrained_cfg["label_names"]}
    print(json.dumps({folder.name: answer}))
assert "hf_tl" not in sys.modules
"""


def test_others_load_it_without_hf_tl(tmp_path: Path) -> None:
    expected = {}
    for kind, labels in zip(KINDS, itertools.cycle(LABELS.values()), strict=False):
        folder, model = saved(kind, tmp_path / "saves" / kind, labels)
        image = photo("L" if kind == "timm gray" else "RGB")
        image.save(folder.parent / "photo.png")
        loaded, transforms = load(folder)
        with torch.inference_mode():
            logits = model(pixel_values=transforms.eval(image)[None]).logits[0]
            assert torch.equal(loaded(pixel_values=transforms.eval(image)[None]).logits[0], logits)
        expected[kind] = (logits, labels)
        shutil.rmtree(folder.parent / CANARY, ignore_errors=True)
    answers: dict[str, Any] = {}
    for line in run_python(IN_PLAIN_LIBRARIES, "http://127.0.0.1:9", tmp_path).splitlines():
        answers |= json.loads(line)
    assert answers.keys() == expected.keys()
    for kind, (logits, labels) in expected.items():
        ranking = [labels[index] for index in logits.argsort(descending=True)]
        assert answers[kind].pop("pipeline", ranking) == ranking
        assert len(answers[kind]) == (2 if "timm" in kind else 1)
        for answer in answers[kind].values():
            assert tuple(answer["labels"]) == labels
            torch.testing.assert_close(torch.tensor(answer["logits"]), logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("kind", ["timm", "vit"])
def test_labels_of_every_look_come_back_in_order(kind: str, labels: tuple[str, ...], tmp_path: Path) -> None:
    folder, model = saved(kind, tmp_path, labels)
    loaded, _ = load(folder)
    assert tuple(loaded.config.id2label[index] for index in range(3)) == labels
    assert [n for n, t in model.state_dict().items() if not torch.equal(t, loaded.state_dict()[n])] == []
    again, _ = load_backbone(str(folder), labels)
    assert torch.equal(
        again.state_dict()[list(again.state_dict())[-1]], model.state_dict()[list(model.state_dict())[-1]]
    )


@pytest.mark.parametrize("kind", ["timm folder", "vit"])
def test_labels_that_are_changed_after_loading_are_saved(kind: str, tmp_path: Path) -> None:
    """In any order, and different from the names of the checkpoint."""
    model, preprocessing = build(kind, tmp_path)
    model.config.id2label = {2: "third", 0: "first", 1: "second"}
    names = ("first", "second", "third")
    folder = save_model(model, preprocessing, record_of(model, names), tmp_path / "out")
    loaded, _ = load(folder)
    assert tuple(loaded.config.id2label[index] for index in range(3)) == names


@pytest.mark.parametrize("kind", KINDS)
def test_saved_twice_is_the_same(kind: str, tmp_path: Path) -> None:
    """A model loaded from a save is saved as the same bytes again."""
    folder, _ = saved(kind, tmp_path)
    model, transforms = load(folder)
    save_model(model, transforms, read_record(folder), tmp_path / "second")
    for name in ("model.safetensors", "run.json", "README.md"):
        assert (folder / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name
    configs = [json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "second")]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_tell_nothing_of_the_machine(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "LOGNAME", "HOSTNAME"):
        monkeypatch.setenv(name, "canary_of_the_environment")
    model, preprocessing = build(kind, tmp_path)
    if "timm" in kind:
        model.config.pretrained_cfg |= {"file": str(tmp_path / "weights.pth"), "source": "file"}
    model.config._name_or_path = str(tmp_path)
    folder = save_model(model, preprocessing, record_of(model, LABELS["unsorted"]), tmp_path / "out")
    found = {path.name for path in folder.iterdir()}
    assert found == FILES | (set() if "timm" in kind else {"preprocessor_config.json"})
    private = {str(tmp_path), CANARY, str(Path.home()), str(Path.cwd()), getpass.getuser()} - {"/"}
    if len(platform.node()) > 6:  # a shorter name of the machine occurs in random bytes by chance
        private.add(platform.node())
    for file in folder.iterdir():
        content = file.read_bytes()
        assert [word for word in private if word.encode() in content] == [], file.name


def test_the_config_holds_what_freezes_again(tmp_path: Path) -> None:
    folder, _ = saved("timm", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config["hf_tl"]["strategy"]["name"] == "finetune"
    assert config["label_names"] == list(LABELS["unsorted"])
    assert config["num_classes"] == 3
    assert config["architecture"] == "test_resnet"
    assert "model_args" not in config
    assert not {"_name_or_path", "_commit_hash", "id2label"} & set(config)
    assert not any(name.startswith("timm_model.") for name in load_file(folder / "model.safetensors"))
    model, _ = load(folder)
    assert {name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad} == {"layer4", "fc"}


def test_saving_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model, preprocessing = build("timm", tmp_path)
    model.train()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_model(model, preprocessing, record_of(model, LABELS["unsorted"]), tmp_path / "out")
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_channels_last_weights_are_saved_as_others(tmp_path: Path) -> None:
    model, preprocessing = build("timm", tmp_path)
    model.to(memory_format=torch.channels_last)
    folder = save_model(model, preprocessing, record_of(model, LABELS["unsorted"]), tmp_path / "out")
    assert torch.equal(load(folder)[0].timm_model.layer1[0].conv1.weight, model.timm_model.layer1[0].conv1.weight)


@pytest.mark.parametrize("name", ["out #1 ?x", "größe", "a:b@c%20"])
def test_folders_of_any_name(name: str, tmp_path: Path) -> None:
    model, preprocessing = build("timm", tmp_path)
    folder = save_model(model, preprocessing, record_of(model, LABELS["unsorted"]), tmp_path / name)
    assert load(folder)[0].config.num_labels == 3


def test_another_run_s_files_do_not_stay(tmp_path: Path) -> None:
    """The image processor of a transformers model would be used for the timm model saved over it."""
    folder, _ = saved("vit", tmp_path)
    (folder / "notes.txt").write_text("mine")
    shutil.rmtree(tmp_path / CANARY)
    saved("timm", tmp_path)
    assert {path.name for path in folder.iterdir()} == FILES | {"notes.txt"}
    assert type(AutoImageProcessor.from_pretrained(folder)).__name__ == "TimmWrapperImageProcessor"


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
from publish.test_save import build, record_of, LABELS
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
        assert line.startswith("the model in out could not be written: ")
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
    with pytest.raises(ConfigError, match=rf"holds another run.* \({name}\).*--overwrite_output_dir"):
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
    with pytest.raises(ConfigError, match="cannot be written to"):
        check_output_dir(folder)
    model, preprocessing = build("timm", Path("."))
    with pytest.raises(SaveError, match="could not be written: "):
        commit_model(model, preprocessing, record_of(model, LABELS["unsorted"]), LEARNED, folder)


@pytest.mark.parametrize("status", ["training", "trained"])
def test_a_run_that_is_not_finished_is_resumed(status: str, tmp_path: Path) -> None:
    write_record(put(make_record(), status=status, measured={}), tmp_path)
    with pytest.raises(ConfigError, match=r"not finished: resume it with --resume_from_checkpoint auto"):
        check_output_dir(tmp_path)
    check_output_dir(tmp_path, resume=True)
    check_output_dir(tmp_path, overwrite=True)
