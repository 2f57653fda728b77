"""A saved model loads in plain transformers, timm and hf_tl with the same logits."""

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
from hub.client import run_python
from PIL import Image
from publish.saved_models import CANARY, FILES, KINDS, LABELS, build, record_of, saved
from publish.saving import save_model
from safetensors.torch import load_file
from transformers import AutoImageProcessor

from hf_tl.backbones.load import load, load_backbone
from hf_tl.record import read_record


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
    """The new names are in any order, and different from those of the checkpoint."""
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
def test_the_files_do_not_name_the_machine(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "LOGNAME", "HOSTNAME"):
        monkeypatch.setenv(name, "canary_of_the_environment")
    model, preprocessing = build(kind, tmp_path)
    if "timm" in kind:
        model.config.pretrained_cfg |= {"file": str(tmp_path / "weights.pth"), "source": "file"}
    model.config._name_or_path = str(tmp_path)
    folder = save_model(model, preprocessing, record_of(model, LABELS["unsorted"]), tmp_path / "out")
    names = {path.name for path in folder.iterdir()}
    assert names == FILES | (set() if "timm" in kind else {"preprocessor_config.json"})
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


@pytest.mark.parametrize("damage", ["", "[1]", "{", "[" * 100_000, '{"a": ' * 100_000, "\\x00"])
def test_a_damaged_config_in_the_folder_does_not_lose_the_new_model(damage: str, tmp_path: Path) -> None:
    model, preprocessing = build("timm", tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text(damage)
    folder = save_model(model, preprocessing, record_of(model, LABELS["unsorted"]), tmp_path / "out")
    assert load(folder)[0].config.num_labels == 3
